"""Results as one tidy table, with a line for every number; and an evaluation on disk, which is such a table.

Printed tables, the report's page, plots, CSV files and comparisons are look-ups in the table. evaluation.json is what a
reader needs; evaluation.safetensors holds every image's numbers, from which runs are compared.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from recon.evaluation.protocol import Protocol
from recon.metrics import MetricInfo
from recon.runs import write_bytes, write_text

FORMAT = "recon evaluation 3"
JSON, TENSORS = "evaluation.json", "evaluation.safetensors"


@dataclass(frozen=True)
class Value:
    """One line of the table: a number with its interval, and the number of images behind it.

    Args:
        run: name of the run that gave it; "" for a simple reconstruction, a bound or the truth.
        row: key of the row.
        variant: "" for the number of the whole row. Otherwise the value is a point of a curve, and this is the curve's
            kind: "bands", "by_distance", ...; `at` is the point's place (a frequency, a distance, ...).
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
    """Describes a metric, as `MetricInfo`; `low` and `high` are None where its range is not bounded."""

    group: str
    name: str
    description: str
    unit: str
    low: float | None
    high: float | None
    better: str
    reference: str
    paired: bool

    @classmethod
    def of(cls, group: str, info: MetricInfo) -> "Column":
        known = {field.name: getattr(info, field.name) for field in fields(MetricInfo)}
        return cls(group, **known | {"low": rounded(info.low), "high": rounded(info.high)})


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
            if v.variant:
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


@dataclass(frozen=True)
class Evaluation:
    """A run's rows and those of simple reconstructions, all on the same images and masks.

    Args:
        model: "sha256" of its file, "step" and "steps".
        protocol: with the number of images that the data had. digest: checksum of images and masks.
        measuring: the settings under which it was made. weights: where the networks' weights came from.
        images: names of all images. pictures: of those that are kept to look at.
        tensors: "row/metric" -> (n,) float64, NaN where an image has no value; "row/moments" (n, distances, bands, 4)
            and "row/power" (n, bands), of hidden patches; "row/pictures" (pictures, 3, H, W) uint8, predictions as they
            are; of a row that is the mean of S draws "row/draws" (pictures, S, 3, H, W) uint8 and "row/ranks"
            (n, S + 1); "masks" (pictures, N) bool.
    """

    run: str
    model: dict[str, Any]
    objective: str
    protocol: Protocol
    digest: str
    caveat: str | None
    measuring: dict[str, Any]
    weights: dict[str, dict[str, str]]
    images: list[str]
    pictures: list[str]
    columns: list[Column]
    rows: list[RowInfo]
    results: Results
    tensors: dict[str, Tensor]


def write(folder: Path, evaluation: Evaluation) -> None:
    """Writes both files into a run's folder, the numbers of images first."""
    tensors = {name: tensor.contiguous() for name, tensor in evaluation.tensors.items()}
    write_bytes(folder / TENSORS, save(tensors, metadata=_belongs_to(evaluation.digest, evaluation.model)))
    tables = {"columns": evaluation.columns, "rows": evaluation.rows, "values": evaluation.results}
    head = {f.name: getattr(evaluation, f.name) for f in fields(evaluation) if f.name not in ("results", "tensors")}
    head = {"format": FORMAT} | head | {"protocol": asdict(evaluation.protocol)}
    write_text(folder / JSON, as_json({key: head[key] for key in head if key not in tables}, tables))


def read(folder: Path) -> Evaluation | None:
    """The evaluation in a run's folder; None where there is none that this program can read."""
    try:
        page = json.loads((folder / JSON).read_text())
        if page.pop("format") != FORMAT:
            return None
        with safe_open(folder / TENSORS, framework="pt") as file:
            if file.metadata() != _belongs_to(page["digest"], page["model"]):  # killed between the two files
                return None
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        size = tuple(page["protocol"]["image_size"])
        page["protocol"] = Protocol(**page["protocol"] | {"image_size": size})
        page |= {"columns": read_table(Column, page["columns"]), "rows": read_table(RowInfo, page["rows"])}
        return Evaluation(results=Results(read_table(Value, page.pop("values"))), tensors=tensors, **page)
    except (OSError, ValueError, SafetensorError, TypeError, KeyError):
        return None


def as_json(head: dict[str, Any], tables: dict[str, Iterable[Any]]) -> str:
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


def _belongs_to(digest: str, model: dict[str, Any]) -> dict[str, str]:
    """What ties the two files of an evaluation together."""
    return {"digest": digest, "model": model["sha256"]}
