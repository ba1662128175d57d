"""Whether runs differ: paired over images, with intervals."""

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from recon.evaluation.results import Record, plain
from recon.metrics.intervals import Interval, difference_interval, statistic_interval
from recon.metrics.recovery import RECOVERY, summary

RECOVERED = {metric.name for metric in RECOVERY}


Row = tuple[Record, str]  # an evaluation, and which of its rows


def difference(
    name: str, a: Row, b: Row, change: Callable[[Tensor, Row], Tensor] = lambda value, row: value
) -> Interval | None:
    """a - b of a metric; None where one of them has no value.

    `change` is what is done to both before they are subtracted: by default nothing.
    """
    if name in RECOVERED:
        moments = [found.tensors.get(f"{row}/moments") for found, row in (a, b)]
        if any(m is None for m in moments):
            return None
        stacked = torch.stack([m.sum(1) for m in moments], dim=1)  # (n, 2, bands, 4)

        def of_both(sums: Tensor) -> Tensor:
            return change(summary(sums[:, 0])[name], a) - change(summary(sums[:, 1])[name], b)

        return _defined(statistic_interval(stacked, of_both))
    values = [found.tensors.get(f"{row}/{name}") for found, row in (a, b)]
    if any(v is None for v in values):
        return None
    return _defined(difference_interval(change(values[0], a), change(values[1], b)))


def farther_from_truth(name: str, a: Row, b: Row) -> Interval | None:
    """How much farther than b a is from the same number on the truth, image by image."""

    def distance(value: Tensor, row: Row) -> Tensor:
        true = 1 if name in RECOVERED else row[0].tensors[f"truth/{name}"]
        return (value - true).abs()

    return difference(name, a, b, distance)


def differences(metrics: list[dict[str, Any]], rows: dict[str, Row]) -> list[dict[str, Any]]:
    """Every metric's difference between every two rows, by key."""
    found = []
    for a, b in combinations(rows, 2):
        for metric in metrics:
            interval = difference(metric["name"], rows[a], rows[b])
            if interval is not None:
                found.append(
                    {
                        "metric": metric["name"],
                        "a": a,
                        "b": b,
                        "value": plain(interval.value),
                        "low": plain(interval.low),
                        "high": plain(interval.high),
                        "excludes_zero": interval.excludes_zero,
                        "n": interval.images,
                    }
                )
    return found


def best(metric: dict[str, Any], rows: dict[str, Row]) -> list[str]:
    """The row that is ahead of every other, and those that its interval cannot tell from it.

    None where no row is behind it by an interval that excludes zero: then there is nothing to mark. A row without an
    interval to the leader takes no part.
    """
    sign = 1 if metric["better"] == "higher" else -1
    compared = farther_from_truth if metric["better"] == "truth" else difference

    def behind(a: str, b: str) -> Interval | None:
        """How far b is behind a, where there is an interval."""
        interval = compared(metric["name"], rows[a], rows[b])
        return interval if interval is not None and math.isfinite(interval.low) else None

    gaps = {a: {b: gap for b in rows if b != a and (gap := behind(a, b)) is not None} for a in rows}
    for leader, others in gaps.items():
        if others and all(sign * gap.value >= 0 for gap in others.values()):
            level = [key for key, gap in others.items() if not gap.excludes_zero]
            return [key for key in rows if key in (leader, *level)] if len(level) < len(others) else []
    return []


def _defined(interval: Interval) -> Interval | None:
    return interval if interval.value == interval.value else None
