"""The comparison as one HTML file that opens from disk, without a network."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import Any

import jinja2

from recon.report.drawing import UNPRINTABLE, row_styles, svg
from recon.report.pictures import PanelSet, Pictures, panels, picture_data, set_data
from recon.report.plots import plots
from recon.result_table import Column, Comparison, Value
from recon.run_folder import write_text
from recon.scoreboard import board_columns

PARTS = Path(__file__).with_suffix("")  # template, style sheet and scripts
DIRECTION = {"higher": "↑", "lower": "↓", "truth": "≈", "none": ""}
DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def write_page(comparison: Comparison, pictures: Pictures, folder: Path, sets: Sequence[PanelSet] = ()) -> Path:
    """Writes folder/index.html, whole or not at all; returns its path."""
    path = folder / "index.html"
    write_text(path, render(comparison, pictures, sets))
    return path


def render(comparison: Comparison, pictures: Pictures, sets: Sequence[PanelSet] = ()) -> str:
    """The page as text; everything it shows is inside it. `sets`: a section each, behind the reconstructions."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PARTS),
        autoescape=True,  # a run called <script> is just a name
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["embedded"] = embedded
    rows = comparison.rows
    shown, styles = panels(rows, pictures), row_styles(rows)

    def part(name: str) -> str:
        return (PARTS / name).read_text(encoding="utf-8")

    text = environment.get_template("page.html.j2").render(
        comparison=comparison,
        created=datetime.fromisoformat(comparison.created),
        groups=grouped(comparison.columns),
        board=[(kind, [column]) for kind, column in board_columns(comparison).items()],
        cells={column.name: column_cells(comparison, column) for column in comparison.columns},
        styles=styles,
        labels={row.key: row.label for row in rows},
        differences=difference_table(comparison),
        panels=shown,
        panel_groups=[list(group) for _, group in groupby(shown, attrgetter("key"))],
        pictures=picture_data(shown, pictures),
        sets=[(each, set_data(each)) for each in sets],
        plots=[(plot, svg(plot, styles)) for plot in plots(comparison)],
        settings=list(dict.fromkeys(key for made in comparison.made.values() for key in made.differs)),
        direction=DIRECTION,
        style_sheet=part("page.css"),
        scripts=[part("table.js"), part("lens.js")],
    )
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def embedded(value: Any) -> str:
    """JSON for a <script type="application/json">: nothing in it can close the element or open a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


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
        low, high = found.interval
        interval = f"[{number(low, places)}, {number(high, places)}]"
        tip = f"{value:.6g}, interval {low:.6g} to {high:.6g}"
    tip += f", {found.n} images"
    tip += f"; {value / truth:.3g} of the truth's" if truth else ""
    return Cell(value, number(value, places), interval, tip.replace("-", MINUS))


def decimals(column: Sequence[Value]) -> int:
    """How many decimals a column is worth: two digits of its typical uncertainty, or three of its typical value."""
    defined = [found for found in column if found.value is not None]
    spreads = [(found.interval[1] - found.interval[0]) / 2 for found in defined if found.interval]
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
        groups, board: [(group or kind, its columns)], of metrics that were compared: all, and the first table's.
        cells: (a, b, metric) -> (cell of a - b, whether the rows are told apart).
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
        "board": [(kind, [c]) for kind, c in board_columns(comparison).items() if c.name in places],
        "cells": cells,
    }
