"""Whether runs differ: paired over images, with intervals."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

import torch
from torch import Tensor

from recon.evaluation.results import SUMMED, summed
from recon.metrics.intervals import Interval, difference_interval, statistic_interval
from recon.result_table import Column, Difference, rounded

RowTensors = tuple[dict[str, Tensor], str]  # an evaluation's tensors, and the key of one of its rows
Gap = Callable[[str, str], Interval | None]  # two rows' keys -> a's number less b's; None where one has none


def difference(
    name: str, a: RowTensors, b: RowTensors, change: Callable[[Tensor, RowTensors], Tensor] = lambda value, row: value
) -> Interval | None:
    """a - b of a metric, each after `change` (by default nothing); None where one of them has no value."""
    what = SUMMED[name][0] if name in SUMMED else name
    if any(f"{row}/{what}" not in tensors for tensors, row in (a, b)):
        return None
    if name in SUMMED:
        (x, function), (y, _) = (summed(name, tensors, f"{row}/") for tensors, row in (a, b))

        def of_both(sums: Tensor) -> Tensor:  # (k, 2, ...)
            return change(function(sums[:, 0]), a) - change(function(sums[:, 1]), b)

        found = statistic_interval(torch.stack([x, y], dim=1), of_both)
    else:
        x, y = (tensors[f"{row}/{name}"] for tensors, row in (a, b))
        found = difference_interval(change(x, a), change(y, b))
    return None if math.isnan(found.value) else found


def farther_from_truth(name: str, a: RowTensors, b: RowTensors) -> Interval | None:
    """How much farther a is than b from the same number on the truth, image by image."""

    def distance(value: Tensor, row: RowTensors) -> Tensor:
        return (value - (1 if name in SUMMED else row[0][f"truth/{name}"])).abs()

    return difference(name, a, b, distance)


def differences(columns: Iterable[Column], rows: dict[str, RowTensors]) -> list[Difference]:
    """Every metric's difference between every two rows, by key."""
    return pairwise({c.name: lambda a, b, name=c.name: difference(name, rows[a], rows[b]) for c in columns}, rows)


def best(column: Column, rows: dict[str, RowTensors]) -> list[str]:
    """The rows that `leaders` finds: those with the highest, the lowest, or the values nearest to the truth's."""
    compared = farther_from_truth if column.better == "truth" else difference
    sign = 1 if column.better == "higher" else -1
    return leaders(list(rows), lambda a, b: compared(column.name, rows[a], rows[b]), sign)


def pairwise(gaps: dict[str, Gap], keys: Iterable[str]) -> list[Difference]:
    """Every metric's difference between every two rows: metric -> gap."""
    found = []
    for a, b in combinations(keys, 2):
        for name, gap in gaps.items():
            if (i := gap(a, b)) is not None:
                ends = rounded(i.value), rounded(i.low), rounded(i.high)
                found.append(Difference(name, a, b, *ends, i.excludes_zero, i.images))
    return found


def leaders(keys: Sequence[str], gap: Gap, sign: int = 1) -> list[str]:
    """The row that is ahead of every other, and those that its interval cannot tell from it.

    Empty where no row is behind it by an interval that excludes zero: then there is nothing to mark. A row without an
    interval to the leader is left out.

    Args:
        sign: 1 where higher is better, -1 where lower is.
    """

    def known(a: str, b: str) -> Interval | None:
        found = gap(a, b)
        return found if found is not None and math.isfinite(found.low) else None

    gaps = {a: {b: found for b in keys if b != a and (found := known(a, b)) is not None} for a in keys}
    for leader, others in gaps.items():
        if others and all(sign * found.value >= 0 for found in others.values()):
            level = [key for key, found in others.items() if not found.excludes_zero]
            return [key for key in keys if key in (leader, *level)] if len(level) < len(others) else []
    return []
