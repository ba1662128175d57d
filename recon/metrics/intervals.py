"""Bootstrap intervals over images: bias-corrected and accelerated (BCa), Efron and Tibshirani 1993, chapter 14.

Images are resampled, never patches, because patches of one image are not independent. An interval describes the one
trained model; the variation between training seeds is not in it, and it is not corrected for the number of metrics and
pairs that are looked at (`recon.comparison.differences` does that, by `Interval.p`). With few images intervals are too
narrow: where normal values have mean zero, those of 95% exclude it about as often as |t| with n - 1 degrees of freedom
is above 1.96 sqrt((n - 1) / n): 10% of cases at 10 images, 7% at 20, 6% at 50, 5% at 256. The mean of a lognormal,
whose tail is long, lies in them in 83% of cases at 10 images and 92% at 256. The tests measure both. Below `FEWEST`
images there is no interval.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import stdtr
from torch import Tensor

FEWEST = 10  # images


class Interval(NamedTuple):
    """A value with its interval, and the number of images behind it. Numbers, or lists where the statistic is a list.

    low and high are NaN where there are fewer than `FEWEST` images, or an infinite value. p is the two-sided p-value
    of zero by Student's t with the jackknife's standard error, for a mean that of `scipy.stats.ttest_1samp`; a
    bootstrap has no draws far out, where a correction for many comparisons looks.
    """

    value: float
    low: float
    high: float
    images: int
    p: float = math.nan

    @property
    def excludes_zero(self) -> bool:
        """Whether an interval of one number lies on one side of zero; False where there is none."""
        return self.low > 0 or self.high < 0


def resamples(n: int, count: int = 1000, seed: int = 0) -> Tensor:
    """`count` draws of n out of n images with repetition, the same for the same arguments: (count, n) long."""
    return torch.randint(n, (count, n), generator=torch.Generator().manual_seed(seed))


@lru_cache(maxsize=4)
def multiplicities(n: int, count: int = 1000, seed: int = 0) -> Tensor:
    """How often each image was drawn in `resamples`: (count, n) float64. Its product with sums resamples them.

    The result is cached: do not write into it.
    """
    drawn = resamples(n, count, seed)
    once = torch.ones(drawn.shape, dtype=torch.float64)
    return torch.zeros_like(once).scatter_add_(1, drawn, once)


def statistic_interval(
    per_image: Tensor,
    function: Callable[[Tensor], Tensor],
    level: float = 0.95,
    count: int = 1000,
    seed: int = 0,
) -> Interval:
    """The interval of a function of sums over images, such as the ratios of `recovery`.

    Args:
        per_image: (n, ...), what is summed; images with a value that is not finite are left out.
        function: of sums (k, ...), (k,) or (k, ...): `lambda moments: summary(moments)["retention"]`.

    Two runs on the same images differ by a function of both: stack their sums as (n, 2, ...) and let the function
    take `sums[:, 0]` and `sums[:, 1]`, so that both are drawn together.
    """
    flat = per_image.double().cpu().reshape(len(per_image), -1)
    rows = flat[flat.isfinite().all(1)]
    n, total = len(rows), rows.sum(0, keepdim=True)

    def of_sums(sums: Tensor) -> Tensor:
        return function(sums.reshape(-1, *per_image.shape[1:]))

    value = of_sums(total if n else flat[:1] * torch.nan)[0]
    found = torch.full((3, *value.shape), torch.nan, dtype=value.dtype)  # both bounds, and p
    if n >= FEWEST:
        left_out = of_sums(total - rows)
        error = ((n - 1) * left_out.var(0, correction=0)).sqrt()
        found[:2] = _bca(of_sums(multiplicities(n, count, seed) @ rows), value, left_out, level)
        found[2] = torch.as_tensor(student_p(value, error, n - 1))
    numbers: list[Any] = [each.tolist() for each in (value, *found)]  # or lists, as `function` returns
    return Interval(numbers[0], numbers[1], numbers[2], n, numbers[3])


def mean_interval(values: Tensor, level: float = 0.95, count: int = 1000, seed: int = 0) -> Interval:
    """The interval of the mean of one value per image, (n,); images without a value (NaN) are left out."""
    values = values.double().cpu()
    values = values[~values.isnan()]
    n = len(values)
    if n < FEWEST or not values.isfinite().all():
        return Interval(values.mean().item(), math.nan, math.nan, n)
    origin = values[0]  # subtracted, so that sums are exact where all values are equal
    offsets = values - origin
    mean = offsets.mean()
    low, high = _bca(multiplicities(n, count, seed) @ offsets / n, mean, (offsets.sum() - offsets) / (n - 1), level)
    value = (origin + mean).item()
    p = student_p(value, offsets.std().item() / math.sqrt(n), n - 1)
    return Interval(value, (origin + low).item(), (origin + high).item(), n, float(p))


def difference_interval(a: Tensor, b: Tensor, level: float = 0.95, count: int = 1000, seed: int = 0) -> Interval:
    """The interval of the mean of a - b, (n,) each of two runs on the same images, where both have a value.

    The difference is paired: how hard an image is for both runs cancels out.
    """
    return mean_interval(a.double() - b.double(), level, count, seed)


def student_p(value: Any, error: Any, freedom: float) -> np.ndarray:
    """The two-sided p-value of zero, of Student's t = value / error; 1 for a value of zero, NaN without an error."""
    value, error = np.asarray(value), np.asarray(error)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(value == 0, 1.0, 2 * stdtr(freedom, -abs(value / error)))


def _bca(drawn: Tensor, value: Tensor, left_out: Tensor, level: float) -> Tensor:
    """The bias-corrected and accelerated bounds (2, ...) of a statistic: equals scipy.stats.bootstrap's "BCa".

    Args:
        drawn: (count, ...), of images drawn again. value: (...), of all. left_out: (n, ...), without each image.
    """
    bias = torch.special.ndtri(((drawn < value).double() + (drawn <= value).double()).mean(0) / 2)
    offset = left_out.mean(0) - left_out
    spread = offset.square().sum(0)
    acceleration = torch.where(spread > 0, offset.pow(3).sum(0) / (6 * spread.pow(1.5)), 0)
    z = bias + torch.special.ndtri(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=drawn.dtype)).view(
        2, *[1] * value.ndim
    )
    place = torch.special.ndtr(bias + z / (1 - acceleration * z)) * (len(drawn) - 1)
    below = place.nan_to_num().floor().long()
    ordered = drawn.sort(0).values
    low, high = (ordered.gather(0, at) for at in (below, (below + 1).clamp(max=len(drawn) - 1)))
    bounds = low.lerp(high, place - below)
    return torch.where(drawn.isnan().any(0) | value.isnan(), torch.nan, bounds)
