"""A row's per-image numbers as lines of the tidy table: values with intervals, and the points of its curves."""

import math
from dataclasses import dataclass

from torch import Tensor

from recon.metrics.intervals import Interval, mean_interval, statistic_interval
from recon.metrics.recovery import RECOVERY, Recovery, summary
from recon.metrics.spectrum import band_frequency
from recon.metrics.uncertainty import blend, coverage, plane
from recon.result_table import Column, Value, points, rounded

RECOVERED = frozenset(metric.name for metric in RECOVERY)


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


def row_values(run: str, row: str, measured: Measured, columns: list[Column], patch_size: int) -> list[Value]:
    """Every number of a row: one for each column, and its curves."""
    size, share = kept_of(patch_size)

    def per_pixel(mse: float, w2: float) -> tuple[float, float]:
        return share * mse, math.sqrt(share) * w2

    luma = dict(zip(("luma_mse", "luma_w2"), per_pixel(*plane(measured.luma, size)), strict=True))
    values = [_value(run, row, name, measured, luma) for name in [*(column.name for column in columns), "luma_mse"]]
    if "moments" in measured.tensors:
        values += band_curves(run, row, measured.tensors["moments"], measured.tensors["power"], patch_size)
    if measured.blend is not None:
        counts = measured.tensors["ranks"]
        counts = counts[counts.isfinite().all(1)].sum(0)
        expected, within = coverage(counts)
        alphas = [i / 20 for i in range(21)]
        mse, w2 = zip(
            *(per_pixel(*point) for point in zip(*blend(measured.blend, size, alphas), strict=True)), strict=True
        )
        below = [i / (len(counts) - 1) for i in range(len(counts))]  # share of the draws below the truth
        values += points(run, row, "ranks", below, share=(counts / counts.sum()).tolist())
        values += points(run, row, "coverage", expected.tolist(), coverage=within.tolist())
        values += points(run, row, "blends", alphas, mse=mse, w2=w2)
    return values


def _value(run: str, row: str, name: str, measured: Measured, luma: dict[str, float]) -> Value:
    if name in measured.reasons:
        return Value(run, row, name, reason=f"not defined: {measured.reasons[name]}")
    if name in RECOVERED:
        found = statistic_interval(measured.tensors["moments"].sum(1), lambda sums: summary(sums)[name])
    elif name in luma:  # of the whole set: no image has a share in it
        found = Interval(luma[name], math.nan, math.nan, len(measured.tensors["masked_mse"]))
    elif name in measured.tensors:
        found = mean_interval(measured.tensors[name])
    else:
        return Value(run, row, name, reason="not defined here")
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


def kept_of(patch_size: int) -> tuple[int, float]:
    """How many values `luma_moments` keeps of a patch, and what share of all they are."""
    size = min(8, patch_size) ** 2
    return size, size / patch_size**2


def squared_error(moments: Tensor) -> Tensor:
    """Mean squared error of a pixel from the summed moments (bands, 4): the DCT keeps squares."""
    count, true, predicted, both = moments.unbind(-1)
    return (true + predicted - 2 * both).sum() / count.sum()
