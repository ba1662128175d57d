"""Accuracy of a probe with its 95% interval over test images and seeds; and measures that need no labels."""

import math
from dataclasses import dataclass, replace

import scipy.stats
from torch import Tensor

from losses import InvalidSetting

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """An accuracy, a measure without labels, or a difference of two, with its 95% interval.

    Args:
        mean: over seeds and images; of accuracies in [0, 1], of their difference in [-1, 1].
        low, high: the interval.
        per_seed: one accuracy per seed; none for a difference, whose seeds are not paired, and for a measure.
        images: how many.
        covers: "images and seeds", or "images" where a probe has one seed, so that other seeds may fall outside.
        standard_error: of the mean.
        freedom: degrees of freedom of Student's t.
    """

    mean: float
    low: float
    high: float
    per_seed: tuple[float, ...]
    images: int
    covers: str
    standard_error: float
    freedom: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval of a difference lies on one side of zero."""
        return self.low > 0 or self.high < 0


def accuracy(correct: Tensor) -> Estimate:
    """Mean accuracy of S seeds on the same n test images: (S, n) bool.

    The interval covers other images and other seeds of the probe, not other pretraining runs. With c_i the share of
    seeds that are right on image i, and a_s the accuracy of seed s,

        SE² = var_i(c_i) / n + var_s(a_s) / S,

    and the interval is Student's with the degrees of freedom of Welch 1947 and Satterthwaite 1946. Images and seeds
    are crossed, and both terms contain the variance of single predictions, V / (n S): SE² is too large by that on
    average, which hardly matters where seeds mostly agree on an image. Two or three seeds estimate their variance
    poorly: where it is most of SE², the interval covers the truth in 88% and 92% of cases, with 8 seeds in 94%
    (tests/recon/probing/test_accuracy.py).

    Near 0 and 1 the interval is too narrow. Where all predictions are right or all are wrong it is that of Clopper and
    Pearson (1934), whose other end is at a distance of 1 - 0.025^(1/n).

    Raises:
        InvalidSetting: fewer than two images.
    """
    found = _estimate(correct.double().mean(0), [correct])
    low, high = max(found.low, 0.0), min(found.high, 1.0)
    end = ((1 - LEVEL) / 2) ** (1 / found.images)
    if correct.all():
        low = end
    elif not correct.any():
        high = 1 - end
    return replace(found, low=low, high=high, per_seed=tuple(correct.double().mean(1).tolist()))


def measure(parts: Tensor) -> Estimate:
    """The mean of values (S, n), S seeds on the same n images, with its interval: of images' parts in a measure without
    labels, which has one seed, or of any differences."""
    return _estimate(parts.double().mean(0), [parts])


def difference(a: Tensor, b: Tensor) -> Estimate:
    """Accuracy of a minus that of b on the same n test images: (S, n), (T, n) bool; seeds are not paired. Or a measure
    of a minus that of b, of parts (1, n).

    SE² = var_i(a_i - b_i) / n + var_s(a_s) / S + var_t(b_t) / T, as in `accuracy`; the first term is small where the
    same images are hard for both. A probe with one seed adds no variance of seeds, and `covers` says so.

    Raises:
        InvalidSetting: fewer than two images, or not the same number.
    """
    if a.shape[1] != b.shape[1]:
        raise InvalidSetting(f"{a.shape[1]} and {b.shape[1]} images; a difference needs the same ones")
    return _estimate(a.double().mean(0) - b.double().mean(0), [a, b])


def _estimate(per_image: Tensor, probes: list[Tensor]) -> Estimate:
    """Mean of one value per image (n,), computed from the probes' seeds (S, n), with its interval."""
    n = len(per_image)
    if n < 2:
        raise InvalidSetting(f"{n} images; an interval needs two or more")
    several = [correct for correct in probes if len(correct) > 1]
    parts = [(per_image.var().item() / n, n - 1)]
    parts += [(each.double().mean(1).var().item() / len(each), len(each) - 1) for each in several]
    variance = sum(part for part, _ in parts)
    spread = sum(part**2 / freedom for part, freedom in parts)
    freedom = variance**2 / spread if spread else float(n - 1)
    mean, error = per_image.mean().item(), math.sqrt(variance)
    half = scipy.stats.t.ppf((1 + LEVEL) / 2, freedom).item() * error
    return Estimate(
        mean=mean,
        low=mean - half,
        high=mean + half,
        per_seed=(),
        images=n,
        freedom=freedom,
        standard_error=error,
        covers="images and seeds" if len(several) == len(probes) else "images",
    )
