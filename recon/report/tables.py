"""Tables of a comparison: CSV files at full precision, and cells with as many digits as the uncertainty is worth."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from recon.runs import write_text

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
        "frontier": [
            {"row": row["key"], "label": row["label"], **comparison["planes"][row["key"]]}
            for row in comparison["rows"]
            if row["key"] in comparison["planes"]
        ],
        **calibration(comparison),
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


def calibration(comparison: dict[str, Any]) -> dict[str, list[Record]]:
    """Records of the two plots of calibration; ranks are shares of all coefficients."""
    found = comparison["calibration"]
    ranks = {
        key: {"draws_below": [i / c["draws"] for i in range(c["draws"] + 1)], "share": c["ranks"]}
        for key, c in found.items()
    }
    coverage = {key: {name: c[name] for name in ("expected", "coverage")} for key, c in found.items()}
    return {"ranks": curves(comparison["rows"], ranks), "coverage": curves(comparison["rows"], coverage)}


def training(comparison: dict[str, Any]) -> list[Record]:
    """A record per run and step, with a column for each curve that any run has."""
    flat = {key: {"step": data["step"], **data["curves"]} for key, data in comparison["training"].items()}
    return curves(comparison["rows"], flat)


def write_csv(records: Iterable[Record], path: Path) -> None:
    """A header of every name that occurs, in order of appearance; the file is written whole or not at all."""
    records = list(records)
    names = list(dict.fromkeys(name for record in records for name in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(records)
    write_text(path, text.getvalue())


DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Cell:
    """A value as the table shows it.

    Args:
        value: to sort by; None where it is not defined.
        shown, interval: rounded as the whole column is.
        tip: at full precision, or why there is no value.
    """

    value: float | None
    shown: str
    interval: str
    tip: str


def group_metrics(metrics: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """[(group, its metrics)], in the order given."""
    return [(group, list(members)) for group, members in groupby(metrics, key=lambda metric: metric["group"])]


def column_cells(rows: Sequence[dict[str, Any]], metric: dict[str, Any]) -> dict[str, Cell]:
    """Row key -> cell of one metric."""
    found = {row["key"]: row["values"].get(metric["name"], _MISSING) for row in rows}
    truth = next((found[row["key"]]["value"] for row in rows if row["kind"] == "truth"), None)
    places = decimals(list(found.values()))
    return {key: cell(values, places, truth if metric["better"] == "truth" else None) for key, values in found.items()}


_MISSING = {"value": None, "low": None, "high": None, "n": 0, "reason": "not measured"}


def cell(values: dict[str, Any], places: int, truth: float | None) -> Cell:
    value, low, high = (values[name] for name in ("value", "low", "high"))
    if value is None:
        return Cell(None, DASH, "", values["reason"] or "not defined")
    interval = "" if low is None or high is None or low == high else f"[{number(low, places)}, {number(high, places)}]"
    tip = f"{value:.6g}, interval {low:.6g} to {high:.6g}" if interval else f"{value:.6g}, no interval"
    tip += f", {values['n']} images"
    tip += f"; {value / truth:.3g} of the truth's" if truth else ""
    return Cell(value, number(value, places), interval, tip.replace("-", MINUS))


def decimals(column: Sequence[dict[str, Any]]) -> int:
    """How many decimals a column is worth: two digits of its typical uncertainty, or three of its typical value."""
    defined = [values for values in column if values["value"] is not None]
    spreads = [(v["high"] - v["low"]) / 2 for v in defined if v["low"] is not None and v["high"] is not None]
    sizes, digits = ([size for size in spreads if size > 0], 2)
    if not sizes:
        sizes, digits = ([abs(v["value"]) for v in defined if v["value"]], 3)
    if not sizes:
        return 0
    return min(max(digits - 1 - math.floor(math.log10(median(sizes))), 0), 7)


def number(value: float, places: int) -> str:
    """With a true minus sign; a rounded zero has none."""
    text = f"{value:.{places}f}"
    return text.replace("-", MINUS if float(text) else "")


def difference_table(comparison: dict[str, Any]) -> dict[str, Any]:
    """Pairs of runs as rows, metrics as columns.

    Returns:
        pairs: [(a, b)], row keys.
        groups: as of `group_metrics`, of the metrics that were compared.
        cells: (a, b, metric) -> (cell of a - b, whether its interval excludes zero).
    """
    found = comparison["differences"]
    places = {name: decimals([d for d in found if d["metric"] == name]) for name in {d["metric"] for d in found}}
    cells = {}
    for d in found:
        plain = cell({**d, "reason": None}, places[d["metric"]], None)
        signed = replace(plain, shown="+" + plain.shown) if plain.value and plain.value > 0 else plain
        cells[d["a"], d["b"], d["metric"]] = (signed, d["excludes_zero"])
    return {
        "pairs": list(dict.fromkeys((d["a"], d["b"]) for d in found)),
        "groups": group_metrics([metric for metric in comparison["metrics"] if metric["name"] in places]),
        "cells": cells,
    }
