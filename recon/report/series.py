"""Plots as data: axes, and the numbers of a comparison as lines and points."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from recon.result_table import PLACES, Comparison

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
    comparison: Comparison, kind: str, x: str, columns: Mapping[str, str], note: tuple[str, str] | None = None
) -> list[Series]:
    """A series per row and column of one kind of curves, a key of `PLACES`.

    Args:
        x: the curve's place ("frequency"), or one of its columns.
        columns: column -> its variant.
        note: a place or column and its unit, shown in the tooltip of each point.
    """
    found = []
    for row in comparison.rows:
        if (curve := comparison.results.curves(row.key, kind)) is None:
            continue
        data = {PLACES[kind]: curve.at} | curve.columns
        for column, variant in columns.items():
            if column in data:
                notes = [f"{at:.3g} {note[1]}" for at in data[note[0]]] if note else []
                found.append(Series(row.key, row.label, data[x], data[column], variant=variant, notes=notes))
    return found


def points(comparison: Comparison, x: str, y: str, x_scale: float = 1.0, y_scale: float = 1.0) -> list[Series]:
    """A point per row that has both metrics."""
    found = []
    for row in comparison.rows:
        at, height = comparison.results.get(row.key, x), comparison.results.get(row.key, y)
        if at.value is not None and height.value is not None:
            intervals = [_scaled(at.interval, x_scale)], [_scaled(height.interval, y_scale)]
            place = [at.value * x_scale], [height.value * y_scale]
            found.append(Series(row.key, row.label, *place, False, 1, "", (), *intervals))
    return found


def training(comparison: Comparison, term: Callable[[str], str]) -> list[Series]:
    """A series per run and curve that `term` shortens to the name of a term or pair of terms."""
    return [
        Series(row.key, row.label, found.at, values, mark_every=max(len(values) // 8, 1), variant=term(curve))
        for row in comparison.rows
        if (found := comparison.results.curves(row.key, "training"))
        for curve, values in found.columns.items()
        if term(curve) != curve
    ]


def x_values(comparison: Comparison, kind: str) -> list[float]:
    """Every place of one kind of curves."""
    found = [comparison.results.curves(row.key, kind) for row in comparison.rows]
    return sorted({place for curve in found if curve for place in curve.at})


def _scaled(interval: Interval, scale: float) -> Interval:
    return None if interval is None else (interval[0] * scale, interval[1] * scale)
