"""Plots as data: axes, and the numbers of a comparison as lines and points."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Series:
    """One line, or the points, of one row.

    Args:
        row: key of the row; it decides colour and marker.
        x, y: of equal length; None is a gap.
        line: whether points are joined.
        mark_every: 1 marks every point, 2 every second one, 0 none. What is marked has a tooltip.
        variant: what tells this line from the row's others ("coherence", a term's name); it decides the dash.
        notes: per point, shown in its tooltip under x and y.
        x_interval, y_interval: per point, (low, high) or None.
    """

    row: str
    label: str
    x: Sequence[float | None]
    y: Sequence[float | None]
    line: bool = True
    mark_every: int = 1
    variant: str = ""
    notes: Sequence[str] = ()
    x_interval: Sequence[Interval] = ()
    y_interval: Sequence[Interval] = ()

    @property
    def name(self) -> str:
        return f"{self.label}, {self.variant}" if self.variant else self.label


@dataclass(frozen=True)
class Plot:
    """Axes and series.

    Args:
        name: of its file.
        about: a sentence or two on how to read it.
        diagonal: draws y = x.
        ticks: where x has ticks; by default the axis chooses.
        guide: a point (x, y) that dotted lines cross in, such as the truth's.
    """

    name: str
    title: str
    about: str
    x_label: str
    y_label: str
    series: list[Series] = field(default_factory=list)
    log_x: bool = False
    log_y: bool = False
    ticks: Sequence[float] = ()
    diagonal: bool = False
    guide: tuple[float, float] | None = None

    @property
    def variants(self) -> list[str]:
        """What dashes tell apart, in order of appearance; empty where a row has one line."""
        return [name for name in dict.fromkeys(series.variant for series in self.series) if name]


def curves(
    comparison: dict[str, Any], table: str, x: str, columns: Mapping[str, str], note: tuple[str, str] | None = None
) -> list[Series]:
    """A series per row and column of comparison[table].

    Args:
        columns: column -> its variant.
        note: a column and its unit, shown in the tooltip of each point.
    """
    found = []
    for row in comparison["rows"]:
        data = comparison[table].get(row["key"], {})
        for column, variant in columns.items():
            if column in data:
                notes = [f"{at:.3g} {note[1]}" for at in data[note[0]]] if note else []
                found.append(Series(row["key"], row["label"], data[x], data[column], variant=variant, notes=notes))
    return found


def points(comparison: dict[str, Any], x: str, y: str, x_scale: float = 1.0, y_scale: float = 1.0) -> list[Series]:
    """A point per row that has both metrics."""
    found = []
    for row in comparison["rows"]:
        at, height = value(row, x), value(row, y)
        if at is not None and height is not None:
            intervals = [interval(row, x, x_scale)], [interval(row, y, y_scale)]
            found.append(
                Series(row["key"], row["label"], [at * x_scale], [height * y_scale], False, 1, "", (), *intervals)
            )
    return found


def training(comparison: dict[str, Any], term: Callable[[str], str]) -> list[Series]:
    """A series per run and curve that `term` shortens to the name of a term or pair of terms."""
    return [
        Series(row["key"], row["label"], data["step"], values, mark_every=max(len(values) // 8, 1), variant=term(curve))
        for row in comparison["rows"]
        if (data := comparison["training"].get(row["key"]))
        for curve, values in data["curves"].items()
        if term(curve) != curve
    ]


def x_values(table: dict[str, Any], x: str) -> list[float]:
    """Every x of a table of curves."""
    return sorted({value for data in table.values() for value in data[x]})


def value(row: dict[str, Any], metric: str) -> float | None:
    return row["values"].get(metric, {}).get("value")


def interval(row: dict[str, Any], metric: str, scale: float) -> Interval:
    found = row["values"][metric]
    if found.get("low") is None or found.get("high") is None:
        return None
    return found["low"] * scale, found["high"] * scale
