"""Numbers as the page shows them: as many digits as their uncertainty is worth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from statistics import median
from typing import Any

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


def grouped(metrics: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """[(group, its metrics)], in the order given."""
    return [(group, list(members)) for group, members in groupby(metrics, key=lambda metric: metric["group"])]


def column(rows: Sequence[dict[str, Any]], metric: dict[str, Any]) -> dict[str, Cell]:
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
        groups: as of `grouped`, of the metrics that were compared.
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
        "groups": grouped([metric for metric in comparison["metrics"] if metric["name"] in places]),
        "cells": cells,
    }
