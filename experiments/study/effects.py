"""Means and differences over pretraining seeds and images, and Holm's correction for many comparisons.

Every seed of a variant is measured on the same images, so seeds and images are crossed. Both are random effects: an
interval is to hold for other seeds of the training and for other images.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import scipy.stats
import torch
from torch import Tensor

from recon.comparison.differences import holm
from recon.probing.accuracy import LEVEL, measure


@dataclass(frozen=True)
class Effect:
    """A mean over seeds and images, with its 95% interval.

    Args:
        p: two-sided, of the mean being 0; `differs` is whether it is below 0.05, after `corrected` also in view
            of the other comparisons.
        seeds, images: how many there were. Of one seed, low and high tell nothing about other seeds.
    """

    value: float
    low: float
    high: float
    p: float
    differs: bool
    seeds: int
    images: int


def effect(values: Tensor) -> Effect:
    """The mean of (S, n) values, or differences, of S seeds on the same n images; an image with a NaN is left out.

    With v_i the mean over seeds on image i, and v_s the mean over images of seed s,

        SE² = var_i(v_i) / n + var_s(v_s) / S,

    with Student's t and the degrees of freedom of Welch and Satterthwaite, by `recon.probing.accuracy`: the variance
    of single values is in both terms, so that SE² is rather too large. NaN below 2 images.
    """
    values = values.double()[:, values.isfinite().all(0)]
    seeds, n = values.shape
    if n < 2:
        return Effect(math.nan, math.nan, math.nan, math.nan, False, seeds, n)
    found = measure(values)
    if found.standard_error == 0:
        return Effect(found.mean, found.low, found.high, float(found.mean == 0), found.mean != 0, seeds, n)
    p = 2 * scipy.stats.t.sf(abs(found.mean) / found.standard_error, found.freedom).item()
    return Effect(found.mean, found.low, found.high, p, p <= 1 - LEVEL, seeds, n)


def corrected(effects: Sequence[Effect]) -> list[Effect]:
    """The same comparisons, `p` and `differs` corrected so that the chance of any false one is 5% (Holm 1979).

    One without a p-value counts for nothing.
    """
    known = [i for i, e in enumerate(effects) if not math.isnan(e.p)]
    found = list(effects)
    for i, p in zip(known, holm([effects[i].p for i in known]), strict=True):
        found[i] = replace(effects[i], p=p, differs=p <= 1 - LEVEL)
    return found


def pseudo_values(sums: Tensor, statistic: Callable[[Tensor], Tensor]) -> Tensor:
    """One value per image whose mean is a function of sums over images, but for its bias: the jackknife's (n,).

    n T - (n - 1) T without image i: for a mean the images' own values, for a ratio their influence on it.

    Args:
        sums: (n, ...), what is summed over images; those with a value that is not finite get NaN.
        statistic: (k, ...) -> (k,).
    """
    found = torch.full((len(sums),), torch.nan, dtype=torch.float64)
    finite = sums.double().flatten(1).isfinite().all(1)
    rows = sums.double()[finite]
    total, n = rows.sum(0, keepdim=True), len(rows)
    found[finite] = n * statistic(total) - (n - 1) * statistic(total - rows)
    return found
