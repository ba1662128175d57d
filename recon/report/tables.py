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

from recon.result_table import PLACES, Column, Comparison, Value
from recon.runs import write_text

Record = dict[str, Any]

ACCURACIES = ("by_depth", "by_blocks", "by_labels")  # curves of probes


def write_tables(comparison: Comparison, folder: Path) -> list[Path]:
    """Writes table.csv, differences.csv and a file per kind of curve that has data; returns the files.

    A value that is not defined is an empty cell.
    """
    tables = {"table": table(comparison), "differences": [vars(difference) for difference in comparison.differences]}
    tables["frontier"] = frontier(comparison)
    tables |= {f"accuracy_{kind}" if kind in ACCURACIES else kind: curves(comparison, kind) for kind in PLACES}
    written = []
    for name, records in tables.items():
        if records:
            written.append(folder / f"{name}.csv")
            write_csv(records, written[-1])
    return written


def table(comparison: Comparison) -> list[Record]:
    """A record per row: who it is, then each metric's value, and its interval as METRIC_low and METRIC_high."""
    records = []
    for row in comparison.rows:
        record = {name: getattr(row, name) for name in ("key", "label", "kind", "note")}
        for column in comparison.columns:
            found = comparison.results.get(row.key, column.name)
            record |= {column.name: found.value, f"{column.name}_low": found.low, f"{column.name}_high": found.high}
        records.append(record)
    return records


def curves(comparison: Comparison, kind: str) -> list[Record]:
    """A record per point of each row's curves, under the row's key and label."""
    return [
        {"row": row.key, "label": row.label, PLACES[kind]: place}
        | {name: values[i] for name, values in found.columns.items()}
        for row in comparison.rows
        if (found := comparison.results.curves(row.key, kind))
        for i, place in enumerate(found.at)
    ]


def frontier(comparison: Comparison) -> list[Record]:
    """A record per row of the plot of error against realism."""
    number = comparison.results.number
    return [
        {"row": row.key, "label": row.label, "mse": number(row.key, "luma_mse"), "w2": number(row.key, "luma_w2")}
        for row in comparison.rows
        if number(row.key, "luma_mse") is not None
    ]


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


def grouped(columns: Sequence[Column]) -> list[tuple[str, list[Column]]]:
    """[(group, its columns)], in the order given."""
    return [(group, list(members)) for group, members in groupby(columns, key=lambda column: column.group)]


def column_cells(comparison: Comparison, column: Column) -> dict[str, Cell]:
    """Row key -> cell of one column."""
    values = {row.key: comparison.results.get(row.key, column.name) for row in comparison.rows}
    truth = comparison.results.number("truth", column.name) if column.better == "truth" else None
    places = decimals(list(values.values()))
    return {key: cell(value, places, truth) for key, value in values.items()}


def cell(found: Value, places: int, truth: float | None) -> Cell:
    """A number as the table shows it, with `places` decimals.

    Args:
        truth: the same number on the truth, where that is the aim.
    """
    value = found.value
    if value is None:
        return Cell(None, DASH, "", found.reason or "not defined")
    interval, tip = "", f"{value:.6g}, no interval"
    if found.interval and found.low != found.high:
        interval = f"[{number(found.low, places)}, {number(found.high, places)}]"
        tip = f"{value:.6g}, interval {found.low:.6g} to {found.high:.6g}"
    tip += f", {found.n} images"
    tip += f"; {value / truth:.3g} of the truth's" if truth else ""
    return Cell(value, number(value, places), interval, tip.replace("-", MINUS))


def decimals(column: Sequence[Value]) -> int:
    """How many decimals a column is worth: two digits of its typical uncertainty, or three of its typical value."""
    defined = [found for found in column if found.value is not None]
    spreads = [(found.high - found.low) / 2 for found in defined if found.interval]
    sizes, digits = ([size for size in spreads if size > 0], 2)
    if not sizes:
        sizes, digits = ([abs(found.value) for found in defined if found.value], 3)
    if not sizes:
        return 0
    return min(max(digits - 1 - math.floor(math.log10(median(sizes))), 0), 7)


def number(value: float, places: int) -> str:
    """With a true minus sign; a rounded zero has none."""
    text = f"{value:.{places}f}"
    return text.replace("-", MINUS if float(text) else "")


def difference_table(comparison: Comparison) -> dict[str, Any]:
    """Pairs of runs as rows, metrics as columns.

    Returns:
        pairs: [(a, b)], row keys.
        groups: as of `grouped`, of the metrics that were compared.
        cells: (a, b, metric) -> (cell of a - b, whether its interval excludes zero).
    """
    values = {
        (d.a, d.b, d.metric): Value("", d.a, d.metric, value=d.value, low=d.low, high=d.high, n=d.n)
        for d in comparison.differences
    }
    names = {d.metric for d in comparison.differences}
    places = {name: decimals([value for value in values.values() if value.metric == name]) for name in names}
    cells = {}
    for d in comparison.differences:
        plain = cell(values[d.a, d.b, d.metric], places[d.metric], None)
        signed = replace(plain, shown="+" + plain.shown) if plain.value and plain.value > 0 else plain
        cells[d.a, d.b, d.metric] = (signed, d.excludes_zero)
    return {
        "pairs": list(dict.fromkeys((d.a, d.b) for d in comparison.differences)),
        "groups": grouped([column for column in comparison.columns if column.name in places]),
        "cells": cells,
    }
