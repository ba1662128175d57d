"""Results as one tidy table, with a line for every number.

Printed tables, the report's page, plots and CSV files are look-ups in it.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_origin, get_type_hints

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
    """Describes a row. `kind`: "run", "simple", "bound" (the best that is possible) or "truth". `rendering`: which of a
    run's reconstructions this one is. `own`: metrics whose network the run's objective minimised."""

    key: str
    label: str
    kind: str
    note: str | None = None
    rendering: str | None = None
    own: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """Describes a metric, as `recon.metrics.MetricInfo`; low and high are None where its range is not bounded, and
    `better` is "none" where it is not ranked.

    `title` is its heading where that is not the name, such as KD-VGG19: it names the network behind the number."""

    group: str
    name: str
    description: str
    unit: str
    low: float | None
    high: float | None
    better: str
    reference: str
    paired: bool
    title: str = ""


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
    return with_checksum(text + "".join(f',\n "{name}": [\n  {each}\n ]' for name, each in lines.items()) + "\n}\n")


def read_table(kind: type, lines: list[dict[str, Any]]) -> list[Any]:
    """The items of a table that `as_json` wrote. Raises ValueError or TypeError where they have another form."""
    return from_plain(list[kind], lines)


def with_checksum(text: str) -> str:
    """The text of a JSON object, with one more field that `read_json` checks the others by."""
    return f'{text.rstrip().removesuffix("}").rstrip()},\n "checksum": "{_checksum(json.loads(text))}"\n}}\n'


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, without its checksum; files of earlier versions have none.

    Raises:
        OSError: there is no regular file of that name, or it cannot be read.
        ValueError: it holds something else, or has changed since it was written.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        page = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(page, dict):
        raise ValueError("it is no JSON object")
    if page.pop("checksum", found := _checksum(page)) != found:
        raise ValueError("its content does not fit its checksum")
    return page


def _checksum(page: dict[str, Any]) -> str:
    rest = {name: value for name, value in page.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def from_plain(kind: Any, plain: Any) -> Any:
    """A value of JSON as the type that a field declares: dataclasses, lists, dictionaries, numbers, texts.

    Raises:
        ValueError or TypeError: it has another form.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(kind, type) and isinstance(plain, dict):
        types = field_types(kind)
        if unknown := plain.keys() - types.keys():
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        return kind(**{name: from_plain(types[name], value) for name, value in plain.items()})
    if origin in (list, tuple) and isinstance(plain, list):
        return origin(from_plain(parts[0], each) for each in plain)
    if origin is dict and isinstance(plain, dict):
        return {key: from_plain(parts[1], each) for key, each in plain.items()}
    if origin is UnionType:
        return from_plain(next(each for each in parts if (each is NoneType) == (plain is None)), plain)
    wanted = (int, float) if kind is float else (kind,)
    if kind is Any or type(plain) in wanted:
        return plain
    raise ValueError(f"{str(plain)[:40]!r} is no {getattr(kind, '__name__', kind)}")


@cache
def field_types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


@dataclass(frozen=True)
class Difference:
    """A metric of row `a` less that of row `b`, over `n` images that both have, with its own 95% interval.

    Args:
        p: of zero by Student's t; None where there are too few images. p_holm: corrected for the comparisons of the
            table, see `recon.comparison.differences`.
        excludes_zero: whether the rows are told apart: the interval excludes zero, and p_holm is at most 5%.
    """

    metric: str
    a: str
    b: str
    value: float | None
    low: float | None
    high: float | None
    excludes_zero: bool
    n: int
    p: float | None = None
    p_holm: float | None = None

    def turned(self) -> "Difference":
        """b less a."""
        value, low, high = (None if x is None else -x for x in (self.value, self.high, self.low))
        return replace(self, a=self.b, b=self.a, value=value, low=low, high=high)


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
        verdicts: key of a row -> how it differs from the reference row, in words. against: what they hold for.
        distances: of metrics that are best where they equal the truth's, how much farther a is from it than b.
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
    verdicts: dict[str, str] = field(default_factory=dict)
    against: str = ""
    distances: list[Difference] = field(default_factory=list)

    def row(self, key: str) -> RowInfo:
        return next(row for row in self.rows if row.key == key)
