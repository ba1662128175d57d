"""What the runs' representations are worth, beside their reconstructions: columns, control rows and curves."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from recon.evaluation.results import no_value, plain
from recon.probing.accuracy import Accuracy, difference
from recon.probing.probe_results import Record

GROUP = "representation"
NEIGHBOURS = "k=20"  # of several k, the one that has a column
ABOUT = {
    "linear": ("a linear classifier on frozen features, chosen on held-back training images", "arXiv 2304.07193"),
    "knn": ("the 20 nearest training images by cosine, weighted by exp(s / 0.07)", "arXiv 1805.01978"),
    "paper_linear": ("the linear probe of the MAE paper, through the encoder", "arXiv 2111.06377, table 10"),
    "attentive": ("one block of cross-attention with a learnt query on a frozen encoder", "arXiv 2404.08471"),
    "finetune": ("the whole encoder trained on the labels", "arXiv 2111.06377, table 9"),
}
FEATURES = {"mean": "mean of the patch tokens", "class": "class token", "pixels": "the pixels"}
CURVES = ("by_depth", "by_blocks", "by_labels")

Numbers = dict[str, Any]
Curve = dict[str, list[float | None]]


@dataclass(frozen=True)
class Column:
    """A question that has a column: its probe, variant and kind of feature, at the largest share of the labels."""

    probe: str
    variant: str
    kind: str
    fraction: float

    @property
    def name(self) -> str:
        words = (self.probe, *self.variant.replace("=", "").replace("k20", "20").split(), self.kind)
        return "_".join(filter(None, words))

    def entry(self, record: Record, contestant: str) -> dict[str, Any] | None:
        """The contestant's answer, at its deepest probed block; pixels answer for every kind of feature."""
        kind = "pixels" if contestant == "pixels" and self.kind else self.kind
        same = [
            entry
            for entry in record.page["results"]
            if entry["contestant"] == contestant
            and (entry["probe"], entry["variant"], entry["fraction"]) == (self.probe, self.variant, self.fraction)
            and kind_of(entry) == kind
        ]
        return max(same, key=layer_of, default=None)

    def as_metric(self, record: Record) -> dict[str, Any]:
        about, reference = ABOUT[self.probe]
        data = record.page["data"]
        of = f", on the {FEATURES[self.kind]}" if self.kind else f", {self.variant}" if self.variant else ""
        return {
            "group": GROUP,
            "name": self.name,
            "what": f"Accuracy of {about}{of}; {data['test']:,} test images of {data['name']}, "
            f"{self.fraction:.0%} of the training labels.",
            "unit": "share of test images",
            "low": 0,
            "high": 1,
            "better": "higher",
            "reference": reference,
            "paired": False,
        }


def with_probes(comparison: dict[str, Any], records: dict[str, Record]) -> dict[str, Any]:
    """The comparison with a group of columns for what was probed, and controls and baselines as rows.

    Probings of other images, sizes or labels than the first one's are not mixed with it; their cells say so.

    Args:
        records: key of a row -> its probing; a key that has no row yet, of a model from scratch, gets one.
    """
    if not records:
        return comparison | {name: {} for name in CURVES}
    first = next(iter(records.values()))
    fit = {key: record for key, record in records.items() if record.task == first.task}
    known = {row["key"] for row in comparison["rows"]}
    answers = {key: (record, contestant_of(record)) for key, record in fit.items()}
    runs = {key: answer for key, answer in answers.items() if key in known}
    asked = columns(list(answers.values()))  # the controls follow
    labels = {key: record.page["run"] for key, record in records.items() if key not in known}
    for key, label, record, contestant in controls(list(fit.values())):
        labels[key], answers[key] = label, (record, contestant)
    nothing = {metric["name"]: no_value("not a reconstruction") for metric in comparison["metrics"]}
    added = [
        {"key": key, "label": label, "kind": "simple", "note": None, "values": nothing} for key, label in labels.items()
    ]

    def values(row: dict[str, Any]) -> dict[str, Numbers]:
        if row["key"] in answers:
            return {column.name: figures(column.entry(*answers[row["key"]])) for column in asked}
        other = "probed on other images or labels" if row["key"] in records else None
        reason = other or ("not probed" if row["kind"] == "run" else "has no encoder")
        return {column.name: no_value(reason) for column in asked}

    truth = [row for row in comparison["rows"] if row["kind"] == "truth"]
    rows = [*(row for row in comparison["rows"] if row["kind"] != "truth"), *added, *truth]
    return comparison | {
        "metrics": comparison["metrics"] + [column.as_metric(first) for column in asked],
        "rows": [row | {"values": row["values"] | values(row)} for row in rows],
        "best": comparison["best"] | {column.name: best(column, runs) for column in asked},
        "differences": comparison["differences"] + differences(asked, runs),
        **{
            name: {key: found for key, answer in answers.items() if (found := curves(*answer)[name])} for name in CURVES
        },
    }


def columns(answers: list[tuple[Record, str]]) -> list[Column]:
    """What has a column: each probe with most labels, of several k one, and of partial fine-tuning none."""
    most: dict[tuple[str, str, str], float] = {}
    for record, contestant in answers:
        for entry in record.page["results"]:
            told = entry["probe"] in ABOUT and (entry["probe"] != "knn" or entry["variant"] == NEIGHBOURS)
            if told and entry["contestant"] == contestant and kind_of(entry) != "pixels":
                asked = entry["probe"], entry["variant"], kind_of(entry)
                most[asked] = max(fraction_of(entry), most.get(asked, 0))
    return [Column(*asked, fraction) for asked, fraction in most.items()]


def controls(records: list[Record]) -> Iterator[tuple[str, str, Record, str]]:
    """Key, label, probing and contestant of each control; one that probings share is one row with all their answers."""
    found: dict[str, list[tuple[Record, str]]] = {}
    for record in records:
        for contestant, control in record.page["contestants"].items():
            key = {"untrained": f"untrained/{control['encoder'][:12]}", "pixels": "pixels"}.get(contestant)
            if key is not None:
                found.setdefault(key, []).append((record, contestant))
    several = sum(key.startswith("untrained") for key in found) > 1
    for key, shared in found.items():
        record, contestant = joined([record for record, _ in shared]), shared[0][1]
        whose = f" of {shared[0][0].page['run']}" if several else ""
        label = record.page["contestants"][contestant]["label"]
        yield key, f"untrained encoder{whose}" if contestant == "untrained" else label, record, contestant


def joined(records: list[Record]) -> Record:
    """Probings as one; of results with one name the first one's."""
    entries = {entry["name"]: entry for record in reversed(records) for entry in record.page["results"]}
    correct = {name: right for record in reversed(records) for name, right in record.correct.items()}
    return Record(records[0].page | {"results": list(entries.values())}, correct)


def contestant_of(record: Record) -> str:
    """Who was probed: the run, or a model from scratch."""
    return "run" if "run" in record.page["contestants"] else "scratch"


def figures(entry: dict[str, Any] | None) -> Numbers:
    if entry is None:
        return no_value("not probed this way")
    return {key: plain(entry[key]) for key in ("value", "low", "high")} | {"n": entry["images"], "reason": None}


def differences(asked: list[Column], rows: dict[str, tuple[Record, str]]) -> list[dict[str, Any]]:
    """Every column's difference between every two runs: paired over test images."""
    found = []
    for (a, one), (b, other) in combinations(rows.items(), 2):
        for column in asked:
            gap = gap_of(column, one, other)
            if gap is not None:
                numbers = {"value": plain(gap.mean), "low": plain(gap.low), "high": plain(gap.high)}
                known = {"metric": column.name, "a": a, "b": b, "excludes_zero": gap.excludes_zero, "n": gap.images}
                found.append(known | numbers)
    return found


def best(column: Column, rows: dict[str, tuple[Record, str]]) -> list[str]:
    """The run ahead of every other, and those that the intervals cannot tell from it; none where none is behind."""
    gaps = {a: {b: gap_of(column, rows[a], rows[b]) for b in rows if b != a} for a in rows}
    gaps = {a: {b: gap for b, gap in others.items() if gap is not None} for a, others in gaps.items()}
    for leader, others in gaps.items():
        if others and all(gap.mean >= 0 for gap in others.values()):
            level = [key for key, gap in others.items() if not gap.excludes_zero]
            return [key for key in rows if key in (leader, *level)] if len(level) < len(others) else []
    return []


def gap_of(column: Column, one: tuple[Record, str], other: tuple[Record, str]) -> Accuracy | None:
    entries = column.entry(*one), column.entry(*other)
    if None in entries:
        return None
    return difference(
        *(record.correct[entry["name"]] for (record, _), entry in zip((one, other), entries, strict=True))
    )


def curves(record: Record, contestant: str) -> dict[str, Curve | None]:
    """Accuracy by depth, by the number of trained blocks and by the share of the labels; None where one was asked."""
    entries = [
        entry
        for entry in record.page["results"]
        if entry["contestant"] == contestant and (entry["probe"] != "knn" or entry["variant"] == NEIGHBOURS)
    ]
    most, deepest = (max((of(entry) for entry in entries), default=0) for of in (fraction_of, layer_of))
    frozen = [entry for entry in entries if layer_of(entry)]
    partial = [entry for entry in entries if entry["probe"] == "partial"]
    return {
        "by_depth": curve("layer", layer_of, [e for e in frozen if fraction_of(e) == most]),
        "by_blocks": curve("blocks", blocks_of, [e for e in partial if fraction_of(e) == most]),
        "by_labels": curve(
            "fraction", fraction_of, [e for e in entries if layer_of(e) in (0, deepest) and e not in partial]
        ),
    }


def curve(x: str, place: Callable[[dict[str, Any]], float], entries: list[dict[str, Any]]) -> Curve | None:
    """{x: places in order, line: accuracy at each place}."""
    places = sorted({place(entry) for entry in entries})
    if len(places) < 2:
        return None
    lines: dict[str, dict[float, float]] = {}
    for entry in entries:
        how = ", ".join(part for part in entry["variant"].split(", ") if not part.startswith(("blocks=", NEIGHBOURS)))
        line = " ".join(filter(None, (entry["probe"], FEATURES.get(kind_of(entry)), how)))
        lines.setdefault(line, {})[place(entry)] = plain(entry["value"])
    return {x: places} | {line: [values.get(at) for at in places] for line, values in lines.items()}


def kind_of(entry: dict[str, Any]) -> str:
    return entry["feature"].partition("/")[0]


def layer_of(entry: dict[str, Any]) -> int:
    """The block whose output was read; 0 where the whole encoder was."""
    return int(entry["feature"].partition("/")[2] or 0)


def blocks_of(entry: dict[str, Any]) -> float:
    """Of "blocks=0.5, 20 epochs": 0.5."""
    return float(entry["variant"].partition("=")[2].partition(",")[0])


def fraction_of(entry: dict[str, Any]) -> float:
    return entry["fraction"]
