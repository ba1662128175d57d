"""Results as one tidy table, with a line for every number.

Printed tables, the report's page, plots and CSV files are look-ups in it.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from recon.evaluation.protocol import Protocol

# The kinds of curves, and what the places of their points are.
PLACES = {
    "bands": "frequency",
    "by_distance": "distance",
    "by_ratio": "ratio",
    "spectra": "frequency",
    "blends": "alpha",
    "ranks": "draws_below",
    "coverage": "expected",
    "training": "step",
    "by_depth": "layer",
    "by_blocks": "blocks",
    "by_labels": "fraction",
}


@dataclass(frozen=True)
class Value:
    """One line of the table: a number with its interval, and the number of images behind it.

    Args:
        run: name of the run that gave it; "" for a simple reconstruction, a bound or the truth.
        row: key of the row.
        variant: "" for the number of the whole row. Otherwise the value is a point of a curve: `variant` is the curve's
            kind, a key of `PLACES`, and `at` the point's place (a frequency, a distance, ...).
        value: None where it is not defined; then `reason` says why, but for points of curves.
        low, high: the 95% interval; None where there is none.
    """

    run: str
    row: str
    metric: str
    variant: str = ""
    at: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    reason: str | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class RowInfo:
    """Describes a row. `kind`: "run", "simple", "bound" (the best that is possible) or "truth". `rendering`: of a run
    with several rows, which of its reconstructions this one is."""

    key: str
    label: str
    kind: str
    note: str | None = None
    rendering: str | None = None


@dataclass(frozen=True)
class Column:
    """Describes a metric, as `recon.metrics.MetricInfo`; low and high are None where its range is not bounded."""

    group: str
    name: str
    description: str
    unit: str
    low: float | None
    high: float | None
    better: str
    reference: str
    paired: bool


class Curves(NamedTuple):
    """Curves of one row over the same places: `columns` has a value per place for each metric, None where undefined."""

    at: list[float]
    columns: dict[str, list[float | None]]


class Results:
    """The tidy table: a list of `Value`, with look-ups."""

    def __init__(self, values: Iterable[Value] = ()):
        self.values = list(values)
        self._numbers = {(v.row, v.metric): v for v in self.values if not v.variant}
        self._curves: dict[tuple[str, str], dict[str, dict[float, float | None]]] = {}
        for v in self.values:
            if v.variant and v.at is not None:
                self._curves.setdefault((v.row, v.variant), {}).setdefault(v.metric, {})[v.at] = v.value

    def __iter__(self) -> Iterator[Value]:
        return iter(self.values)

    def __add__(self, more: Iterable[Value]) -> "Results":
        return Results([*self.values, *more])

    def get(self, row: str, metric: str) -> Value:
        """A row's number; one without a value where it was not measured."""
        return self._numbers.get((row, metric)) or Value("", row, metric, reason="not measured")

    def number(self, row: str, metric: str) -> float | None:
        return self.get(row, metric).value

    def curves(self, row: str, variant: str) -> Curves | None:
        """A row's curves of one kind; None where it has none."""
        found = self._curves.get((row, variant))
        if found is None:
            return None
        at = sorted({place for points in found.values() for place in points})
        return Curves(at, {name: [points.get(place) for place in at] for name, points in found.items()})


def rounded(number: float | None) -> float | None:
    """To as many digits as a result carries; None for NaN and infinity, which JSON does not know."""
    return None if number is None or not math.isfinite(number) else float(f"{number:.7g}")


def points(run: str, row: str, variant: str, at: Sequence[float], **columns: Sequence[float | None]) -> list[Value]:
    """Curves as lines of the table: one for every place and every metric of `columns`."""
    return [
        Value(run, row, metric, variant, place, rounded(value))
        for metric, values in columns.items()
        for place, value in zip(at, values, strict=True)
    ]


def as_json(head: dict[str, Any], tables: Mapping[str, Iterable[Any]]) -> str:
    """JSON with a line for each item of the tables, which are dataclasses; fields at their defaults are left out."""
    lines = {
        name: ",\n  ".join(
            json.dumps({f.name: v for f in fields(item) if (v := getattr(item, f.name)) != f.default}, allow_nan=False)
            for item in items
        )
        for name, items in tables.items()
    }
    text = json.dumps(head, indent=1, allow_nan=False).removesuffix("\n}")
    return text + "".join(f',\n "{name}": [\n  {each}\n ]' for name, each in lines.items()) + "\n}\n"


def read_table(kind: type, lines: list[dict[str, Any]]) -> list[Any]:
    """The items of a table that `as_json` wrote."""
    return [kind(**line) for line in lines]


@dataclass(frozen=True)
class Difference:
    """A metric of row `a` less that of row `b`, over `n` images that both have, with its 95% interval."""

    metric: str
    a: str
    b: str
    value: float | None
    low: float | None
    high: float | None
    excludes_zero: bool
    n: int


@dataclass(frozen=True)
class Made:
    """How a run was made: objective, settings that differ between the runs, weights of networks, steps, checksum of
    the model, and the commands that train and evaluate it."""

    expression: str
    differs: dict[str, Any]
    weights: dict[str, Any]
    steps: int
    model: str
    commands: list[str]


@dataclass(frozen=True)
class Comparison:
    """Rows of all runs, then the simple reconstructions, which every evaluation has alike, then the truth.

    Args:
        best: metric -> keys of the rows that are marked as best.
        made: key of a run's first row -> how it was made.
        checkpoints: key of a row -> what is known of a checkpoint of another code.
    """

    title: str
    created: str
    protocol: "Protocol"
    digest: str
    caveat: str | None
    columns: list[Column]
    rows: list[RowInfo]
    results: Results
    best: dict[str, list[str]]
    differences: list[Difference]
    made: dict[str, Made] = field(default_factory=dict)
    checkpoints: dict[str, dict[str, Any]] = field(default_factory=dict)

    def row(self, key: str) -> RowInfo:
        return next(row for row in self.rows if row.key == key)
