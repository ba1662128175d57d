"""Whether runs differ: paired over images, with intervals, corrected for the number of comparisons in a table.

The columns of the scoreboard are one family of comparisons, all other columns another one. In each family Holm's
correction (1979) runs over every difference of two rows and, where nearest to the truth is best, every difference in
the distance from the truth, by which the best rows are chosen: the chance that a family has any false one is 5%. What
is told apart, the best rows and the verdicts follow from this and from nothing else.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor

from recon.evaluation.results import SUMMED, set_statistic
from recon.metrics.intervals import Interval, difference_interval, statistic_interval
from recon.result_table import Column, Comparison, Difference, rounded
from recon.scoreboard import scoreboard

LEVEL = 0.05
RowTensors = tuple[dict[str, Tensor], str]  # an evaluation's tensors, and the key of one of its rows
Gap = Callable[[str, str], Interval | None]  # two rows' keys -> a's number less b's; None where one has none


def difference(name: str, a: RowTensors, b: RowTensors, from_truth: bool = False) -> Interval | None:
    """a - b of a metric, or of its distance from the truth's; None where one of them has no value.

    Args:
        from_truth: how much farther a is than b from the same number on the truth: image by image, but for metrics of
            the whole set.
    """
    (x, of_x), (y, _) = (_summed(name, row) for row in (a, b))
    if x is None or y is None:
        return None
    if of_x is not None:

        def number(sums: Tensor) -> Tensor:
            return (of_x(sums) - 1).abs() if from_truth else of_x(sums)

        found = statistic_interval(torch.stack([x, y], dim=1), lambda sums: number(sums[:, 0]) - number(sums[:, 1]))
    else:
        if from_truth:
            x, y = ((value - of[f"truth/{name}"]).abs() for value, (of, _) in ((x, a), (y, b)))
        found = difference_interval(x, y)
    return None if math.isnan(found.value) else found


def _summed(name: str, row: RowTensors) -> tuple[Tensor | None, Callable[[Tensor], Tensor] | None]:
    """A row's values (n,) of a metric; or what is summed over images and the function of the sums."""
    tensors, key = row
    needed = {name, "tenengrad", *(SUMMED[name][:1] if name in SUMMED else ())}
    of = {each: tensors[f"{key}/{each}"] for each in needed if f"{key}/{each}" in tensors}
    return set_statistic(name, of, tensors.get("truth/tenengrad")) or (of.get(name), None)


def differences(columns: Iterable[Column], rows: dict[str, RowTensors]) -> list[Difference]:
    """Every metric's difference between every two rows, by key."""
    return pairwise({c.name: lambda a, b, name=c.name: difference(name, rows[a], rows[b]) for c in columns}, rows)


def distances(columns: Iterable[Column], rows: dict[str, RowTensors]) -> list[Difference]:
    """How much farther one row is than another from the truth, of metrics that are best where they equal it."""
    names = [column.name for column in columns if column.better == "truth"]
    return pairwise({name: lambda a, b, name=name: difference(name, rows[a], rows[b], True) for name in names}, rows)


def pairwise(gaps: dict[str, Gap], keys: Iterable[str]) -> list[Difference]:
    """Every metric's difference between every two rows, not yet corrected: metric -> gap."""
    found = []
    for a, b in combinations(keys, 2):
        for name, gap in gaps.items():
            if (i := gap(a, b)) is not None:
                value, low, high, p = map(rounded, (i.value, i.low, i.high, i.p))
                found.append(Difference(name, a, b, value, low, high, i.excludes_zero, i.images, p, p))
    return found


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): what each p-value of a family is worth among all of them."""
    corrected, least = [1.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        least = corrected[i] = min(1.0, max(least, (len(p) - rank) * p[i]))
    return corrected


def corrected(found: Sequence[Difference]) -> list[Difference]:
    """One family of differences, each with its `p_holm` and whether that and its interval tell the rows apart."""
    known = [i for i, each in enumerate(found) if each.p is not None]
    p = dict(zip(known, holm([found[i].p or 0.0 for i in known]), strict=True))
    return [
        replace(
            each,
            p_holm=rounded(p.get(i)),
            excludes_zero=each.low is not None
            and each.high is not None
            and (each.low > 0 or each.high < 0)
            and p.get(i, 1) <= LEVEL,
        )
        for i, each in enumerate(found)
    ]


def with_decisions(comparison: Comparison) -> Comparison:
    """The comparison with its differences corrected, and the best rows that follow from them."""
    board = set(scoreboard(comparison.rows, comparison.results).values())
    tests = [*comparison.differences, *comparison.distances]
    decided: dict[int, Difference] = {}
    for family in (True, False):
        places = [i for i, test in enumerate(tests) if (test.metric in board) == family]
        decided |= dict(zip(places, corrected([tests[i] for i in places]), strict=True))
    ordered = [decided[i] for i in range(len(tests))]
    comparison = replace(
        comparison,
        differences=ordered[: len(comparison.differences)],
        distances=ordered[len(comparison.differences) :],
    )
    ranked = [column for column in comparison.columns if column.better != "none"]
    return replace(comparison, best={column.name: best(column, comparison) for column in ranked})


def ranking(column: Column, comparison: Comparison) -> dict[tuple[str, str], Difference]:
    """(a, b) -> the difference that ranks a before or behind b: above 0 where a is better."""
    tests = comparison.distances if column.better == "truth" else comparison.differences
    found = [test for test in tests if test.metric == column.name]
    if column.better != "higher":
        found = [replace(test.turned(), a=test.a, b=test.b) for test in found]
    return {(test.a, test.b): test for test in found} | {(test.b, test.a): test.turned() for test in found}


def best(column: Column, comparison: Comparison) -> list[str]:
    """The row that is ahead of every other, and those that cannot be told from it, in the order of the table.

    Empty where no row is told apart from it: then there is nothing to mark. Rows that are excluded from the ranking:
    an oracle's, those whose own objective minimised the metric's network, and those without an interval to the leader.
    """
    ahead = ranking(column, comparison)
    keys = [row.key for row in comparison.rows if not row.key.startswith("oracle/") and column.name not in row.own]
    for leader in keys:
        others = {key: d for key in keys if (d := ahead.get((leader, key))) is not None and d.low is not None}
        if others and all(d.value is not None and d.value >= 0 for d in others.values()):
            level = [key for key, d in others.items() if not d.excludes_zero]
            return [key for key in keys if key in (leader, *level)] if len(level) < len(others) else []
    return []
