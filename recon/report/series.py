"""What plots are made of: a comparison's numbers as lines and points."""

from collections.abc import Callable, Mapping
from typing import Any

from recon.report.drawing import Interval, Series


def curves(
    comparison: dict[str, Any],
    table: str,
    x: str,
    columns: Mapping[str, str],
    hover: tuple[str, str] | None = None,
) -> list[Series]:
    """A series per row and column of comparison[table]; `columns` gives each its variant, `hover` a column and unit."""
    found = []
    for row in comparison["rows"]:
        data = comparison[table].get(row["key"])
        for column, variant in columns.items() if data else ():
            if column not in data:
                continue
            text = [f"{value:.3g} {hover[1]}" for value in data[hover[0]]] if hover else []
            found.append(Series(row["key"], row["label"], data[x], data[column], "lines+markers", variant, text))
    return found


def points(comparison: dict[str, Any], x: str, y: str, x_scale: float = 1.0, y_scale: float = 1.0) -> list[Series]:
    """A point per row that has both metrics."""
    found = []
    for row in comparison["rows"]:
        at, height = value(row, x), value(row, y)
        if at is not None and height is not None:
            spread = [interval(row, x, x_scale)], [interval(row, y, y_scale)]
            found.append(
                Series(row["key"], row["label"], [at * x_scale], [height * y_scale], "markers", "", (), *spread)
            )
    return found


def training(comparison: dict[str, Any], term: Callable[[str], str]) -> list[Series]:
    """A series per run and curve that `term` shortens to the name of a term or pair of terms."""
    return [
        Series(row["key"], row["label"], data["step"], values, "lines", term(curve))
        for row in comparison["rows"]
        if (data := comparison["training"].get(row["key"]))
        for curve, values in data["curves"].items()
        if term(curve) != curve
    ]


def places(table: dict[str, Any], x: str) -> list[float]:
    """Every x of a table of curves."""
    return sorted({value for data in table.values() for value in data[x]})


def value(row: dict[str, Any], metric: str) -> float | None:
    return row["values"].get(metric, {}).get("value")


def interval(row: dict[str, Any], metric: str, scale: float) -> Interval:
    found = row["values"][metric]
    if found.get("low") is None or found.get("high") is None:
        return None
    return found["low"] * scale, found["high"] * scale
