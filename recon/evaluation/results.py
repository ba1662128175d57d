"""An evaluation, and its files: evaluation.json is what a reader needs, and evaluation.safetensors holds the numbers of
every image, from which runs are compared."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from losses import tensor_files
from recon.evaluation.protocol import Protocol
from recon.metrics.intervals import Interval, mean_interval, statistic_interval
from recon.metrics.recovery import RECOVERY, Recovery, summary
from recon.metrics.sharpness import DETAIL
from recon.metrics.spectrum import band_frequency
from recon.metrics.uncertainty import blend, coverage, expected_calibration_error, plane
from recon.result_table import (
    Column,
    Results,
    RowInfo,
    Value,
    as_json,
    field_types,
    from_plain,
    points,
    read_json,
    read_table,
    rounded,
)
from recon.run_folder import write_bytes, write_text

FORMAT = "recon evaluation 7"
JSON, TENSORS = "evaluation.json", "evaluation.safetensors"
# Metrics that are functions of sums over images: the tensor that is summed, and the function of sums (k, ...) -> (k,).
SUMMED: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    **{m.name: ("moments", lambda sums, name=m.name: summary(sums)[name]) for m in RECOVERY},
    "expected_calibration_error": ("ranks", expected_calibration_error),
}
SetStatistic = tuple[Tensor, Callable[[Tensor], Tensor]]  # what is summed over images (n, ...), a function of the sums
ALPHAS = [i / 20 for i in range(21)]  # of the blends between the mean and a draw


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
    metadata = _belongs_to(evaluation.digest, evaluation.model)
    write_bytes(folder / TENSORS, tensor_files.to_bytes(evaluation.tensors, metadata))
    tables = {"columns": evaluation.columns, "rows": evaluation.rows, "values": evaluation.results}
    head = {f.name: getattr(evaluation, f.name) for f in fields(evaluation) if f.name not in ("results", "tensors")}
    head = {"format": FORMAT} | head | {"protocol": asdict(evaluation.protocol)}
    write_text(folder / JSON, as_json({key: head[key] for key in head if key not in tables}, tables))


def read(folder: Path) -> Evaluation | None:
    """The evaluation in a run's folder; None where there is none that is whole and of this version."""
    try:
        page = read_json(folder / JSON)
        if page.pop("format") != FORMAT or not (folder / TENSORS).is_file():
            return None
        file = tensor_files.from_bytes((folder / TENSORS).read_bytes())
        # The program may have been killed between the two files.
        if not file.verified or file.metadata != _belongs_to(page["digest"], page["model"]):
            return None
        results, types = Results(read_table(Value, page.pop("values"))), field_types(Evaluation)
        head = {name: from_plain(types[name], value) for name, value in page.items()}
        return Evaluation(results=results, tensors=file.content, **head)
    except (OSError, ValueError, SafetensorError, TypeError, KeyError, AttributeError):
        return None


def _belongs_to(digest: str, model: dict[str, Any]) -> dict[str, str]:
    """What ties the two files of an evaluation together."""
    return {"images": digest, "model": model["sha256"]}


@dataclass
class Measured:
    """One row's numbers, on the CPU.

    Args:
        tensors: those that `Evaluation.tensors` has of the row.
        reasons: metric -> why it has no value at all.
        luma: (1 + 2D, 1 + 2D), `luma_moments` of prediction and truth. blend: (1 + 3D, 1 + 3D), of the mean, one draw
            and the truth; None where one answer was measured.
    """

    tensors: dict[str, Tensor]
    reasons: dict[str, str]
    luma: Tensor
    blend: Tensor | None = None


def row_values(
    run: str, row: str, measured: Measured, columns: list[Column], patch_size: int, true_detail: Tensor | None
) -> list[Value]:
    """Every number of a row: one for each column, and its curves; `true_detail` as of `set_statistic`."""
    size = min(8, patch_size) ** 2  # values that `luma_moments` keeps of a patch
    share = size / patch_size**2
    mse, w2 = plane(measured.luma, size)
    luma = {"luma_mse": share * mse, "luma_w2": math.sqrt(share) * w2}
    names = [*(column.name for column in columns), "luma_mse"]
    values = [_value(run, row, name, measured, luma, true_detail) for name in names]
    if "moments" in measured.tensors:
        values += band_curves(run, row, measured.tensors["moments"], measured.tensors["power"], patch_size)
    if measured.blend is not None:
        counts = measured.tensors["ranks"]
        counts = counts[counts.isfinite().all(1)].sum(0)
        expected, within = coverage(counts)
        below = [i / (len(counts) - 1) for i in range(len(counts))]  # share of the draws below the truth
        mse, w2 = blend(measured.blend, size, ALPHAS)
        blends = {"mse": [share * point for point in mse], "w2": [math.sqrt(share) * point for point in w2]}
        values += points(run, row, "ranks", below, share=(counts / counts.sum()).tolist())
        values += points(run, row, "coverage", expected.tolist(), coverage=within.tolist())
        values += points(run, row, "blends", ALPHAS, **blends)
    return values


def set_statistic(name: str, of: Mapping[str, Tensor], true_detail: Tensor | None) -> SetStatistic | None:
    """How a metric of the whole set comes from sums over images; None for a metric that is a mean over images.

    Args:
        of: the row's tensors, as of `Measured`. true_detail: the truth's tenengrad, (n,).
    """
    what, function = SUMMED.get(name, ("", None))
    if function is not None and what in of:
        return of[what].sum(1) if what == "moments" else of[what], function  # moments over all distances
    if name == DETAIL.name and "tenengrad" in of and true_detail is not None:
        return torch.stack([of["tenengrad"], true_detail], dim=1), lambda sums: sums[:, 0] / sums[:, 1]
    return None


def _value(
    run: str, row: str, name: str, measured: Measured, luma: dict[str, float], true_detail: Tensor | None
) -> Value:
    reason = measured.reasons.get("tenengrad" if name == DETAIL.name else name)
    if reason is not None:
        return Value(run, row, name, reason=f"not defined: {reason}")
    if (statistic := set_statistic(name, measured.tensors, true_detail)) is not None:
        found = statistic_interval(*statistic)
    elif name in SUMMED:  # moments have a reason of their own
        return Value(run, row, name, reason="not defined: one answer has no draws")
    elif name in luma:  # of the whole set: no image has a share in it
        found = Interval(luma[name], math.nan, math.nan, len(measured.tensors["masked_mse"]))
    elif name in measured.tensors:
        found = mean_interval(measured.tensors[name])
    else:
        return Value(run, row, name, reason="not defined here")
    return _line(run, row, name, found)


def _line(run: str, row: str, name: str, found: Interval) -> Value:
    if not math.isfinite(found.value):
        reason = "not defined: no image has a value" if math.isnan(found.value) else "infinite"
        return Value(run, row, name, reason=reason)
    low, high = rounded(found.low), rounded(found.high)
    return Value(run, row, name, value=rounded(found.value), low=low, high=high, n=found.images)


def band_curves(run: str, row: str, moments: Tensor, power: Tensor, patch_size: int) -> list[Value]:
    """Recovery by band and by distance to the nearest visible patch, and the power spectrum."""
    moments = moments[moments.flatten(1).isfinite().all(1)].sum(0)  # (distances, bands, 4)
    power = power[power.isfinite().all(1)].mean(0)
    frequency, recovery = band_frequency(patch_size).tolist(), Recovery(moments.sum(0))
    bands = {name: getattr(recovery, name).tolist() for name in ("retention", "coherence", "error", "gain")}
    there = [d for d in range(len(moments)) if moments[d, 0, 0] > 0]
    each = [summary(moments[d]) | {"mse": squared_error(moments[d])} for d in there]
    by_distance = {name: [of[name].item() for of in each] for name in ("mse", "retention", "coherence")}
    return [
        *points(run, row, "bands", frequency, **bands),
        *points(run, row, "by_distance", [d + 1 for d in there], **by_distance),
        *points(run, row, "spectra", frequency[1:], power=power[1:].tolist()),
    ]


def squared_error(moments: Tensor) -> Tensor:
    """Mean squared error of a pixel from the summed moments (bands, 4): the DCT keeps squares."""
    count, true, predicted, both = moments.unbind(-1)
    return (true + predicted - 2 * both).sum() / count.sum()
