"""The table that recon.probe prints."""

from typing import Any

from recon.evaluation.table import aligned

FEATURES = {"mean": "mean of the patch tokens", "class": "class token"}


def table(page: dict[str, Any]) -> str:
    """A line per question, a column per contestant: accuracy in percent, and how far its 95% interval reaches."""
    columns = {key: c["label"] for key, c in page["contestants"].items()}
    found = {(entry["question"], entry["contestant"]): entry for entry in page["results"]}
    asked = {entry["question"]: entry for entry in page["results"] if entry["contestant"] != "pixels"}
    lines = [["", "labels", *columns.values()]]
    for question, entry in asked.items():
        cells = [found.get((question, key)) or _of_pixels(entry, key, page["results"]) for key in columns]
        lines.append([title(entry), f"{entry['fraction']:.0%}", *map(_cell, cells)])
    return aligned(lines)


def title(entry: dict[str, Any]) -> str:
    """What was asked, in words: "linear, class token of block 12"."""
    kind, _, layer = entry["feature"].partition("/")
    of = f"{FEATURES[kind]} of block {layer}" if layer else kind
    return ", ".join(filter(None, (entry["probe"], entry["variant"], of)))


def _of_pixels(entry: dict[str, Any], contestant: str, results: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Pixels have one kind of features, which stands beside every kind of an encoder's."""
    same = ("probe", "variant", "fraction")
    return next(
        (r for r in results if r["contestant"] == contestant == "pixels" and all(r[key] == entry[key] for key in same)),
        None,
    )


def _cell(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "-"
    half = max(entry["high"] - entry["value"], entry["value"] - entry["low"])  # near 0 and 1 the sides differ
    return f"{entry['value']:.1%} ±{100 * half:.1f}"
