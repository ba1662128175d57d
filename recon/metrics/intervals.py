"""Bootstrap intervals over images: percentile intervals of Efron and Tibshirani 1993, chapter 13.

Images are resampled, never patches, because patches of one image are not independent. An interval describes the one
trained model; the variation between training seeds is not in it. With few images percentile intervals are too narrow:
where normal values have mean zero, those of 95% exclude it about as often as |t| with n - 1 degrees of freedom is above
1.96 sqrt((n - 1) / n): 10% of cases at 10 images, 7% at 20, 6% at 50, 5% at 256. The test
`test_few_images_exclude_zero_too_often_by_what_the_t_distribution_says` measures this. Below `FEWEST` images there is
no interval.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

FEWEST = 10  # images


class Interval(NamedTuple):
    """A value with its interval, and the number of images behind it. Numbers, or lists where the statistic is a list.

    low and high are NaN where there are fewer than `FEWEST` images, or an infinite value.
    """

    value: float
    low: float
    high: float
    images: int

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
    n = len(rows)

    def of_sums(sums: Tensor) -> Tensor:
        return function(sums.reshape(-1, *per_image.shape[1:]))

    value = of_sums(rows.sum(0) if n else flat[0] * torch.nan)[0]
    low, high = torch.full_like(value, torch.nan), torch.full_like(value, torch.nan)
    if n >= FEWEST:
        low, high = _percentiles(of_sums(multiplicities(n, count, seed) @ rows), level)
    bounds: list[Any] = [each.tolist() for each in (value, low, high)]  # numbers, or lists as `function` returns
    return Interval(bounds[0], bounds[1], bounds[2], n)


def mean_interval(values: Tensor, level: float = 0.95, count: int = 1000, seed: int = 0) -> Interval:
    """The interval of the mean of one value per image, (n,); images without a value (NaN) are left out."""
    values = values.double().cpu()
    values = values[~values.isnan()]
    n = len(values)
    if n < FEWEST or not values.isfinite().all():
        return Interval(values.mean().item(), math.nan, math.nan, n)
    origin = values[0]  # subtracted, so that sums are exact where all values are equal
    drawn = origin + multiplicities(n, count, seed) @ (values - origin) / n
    low, high = _percentiles(drawn, level).tolist()
    return Interval((origin + (values - origin).mean()).item(), low, high, n)


def difference_interval(a: Tensor, b: Tensor, level: float = 0.95, count: int = 1000, seed: int = 0) -> Interval:
    """The interval of the mean of a - b, (n,) each of two runs on the same images, where both have a value.

    The difference is paired: how hard an image is for both runs cancels out.
    """
    return mean_interval(a.double() - b.double(), level, count, seed)


def _percentiles(drawn: Tensor, level: float) -> Tensor:
    """Lower and upper quantile of resampled values, (count, ...) -> (2, ...)."""
    return drawn.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=drawn.dtype), dim=0)
