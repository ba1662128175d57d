"""Every table and every plotted curve of a comparison as CSV, at full precision."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]

ACCURACIES = ("by_depth", "by_blocks", "by_labels")  # curves of probes


def write_tables(comparison: dict[str, Any], folder: Path) -> list[Path]:
    """Writes table.csv, differences.csv and a file per kind of curve that has data; returns the files.

    A value that is not defined is an empty cell.
    """
    tables = {
        "table": table(comparison),
        "differences": comparison["differences"],
        "bands": curves(comparison["rows"], comparison["bands"]),
        "by_distance": curves(comparison["rows"], comparison["by_distance"]),
        "by_ratio": curves(comparison["rows"], comparison["by_ratio"]),
        "spectra": curves(comparison["rows"], comparison["spectra"]),
        "blends": curves(comparison["rows"], comparison["blends"]),
        "training": training(comparison),
        **{f"accuracy_{name}": curves(comparison["rows"], comparison[name]) for name in ACCURACIES},
    }
    written = []
    for name, records in tables.items():
        if records:
            written.append(folder / f"{name}.csv")
            write_csv(records, written[-1])
    return written


def table(comparison: dict[str, Any]) -> list[Record]:
    """A record per row: who it is, then each metric's value, and its interval as METRIC_low and METRIC_high."""
    records = []
    for row in comparison["rows"]:
        record = {name: row[name] for name in ("key", "label", "kind", "note")}
        for metric in comparison["metrics"]:
            found = row["values"].get(metric["name"], {})
            record |= {metric["name"] + suffix: found.get(name) for suffix, name in _COLUMNS.items()}
        records.append(record)
    return records


_COLUMNS = {"": "value", "_low": "low", "_high": "high"}


def curves(rows: Sequence[Record], data: dict[str, dict[str, list[float | None]]]) -> list[Record]:
    """A record per point of each row's curves, under the row's key and label."""
    return [
        {"row": row["key"], "label": row["label"], **dict(zip(data[row["key"]], point, strict=True))}
        for row in rows
        if row["key"] in data
        for point in zip(*data[row["key"]].values(), strict=True)
    ]


def training(comparison: dict[str, Any]) -> list[Record]:
    """A record per run and step, with a column for each curve that any run has."""
    flat = {key: {"step": data["step"], **data["curves"]} for key, data in comparison["training"].items()}
    return curves(comparison["rows"], flat)


def write_csv(records: Iterable[Record], path: Path) -> None:
    """A header of every name that occurs, in order of appearance; written under a temporary name, then renamed."""
    records = list(records)
    names = list(dict.fromkeys(name for record in records for name in record))
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(records)
    temporary.replace(path)
