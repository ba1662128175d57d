"""Accuracy of a probe with its uncertainty, over test images and over seeds."""

import math
from dataclasses import asdict, dataclass, replace

import scipy.stats
from torch import Tensor

from losses import InvalidSetting

LEVEL = 0.95


@dataclass(frozen=True)
class Accuracy:
    """A share of images that are right, or a difference of two shares, with its 95% interval.

    Args:
        mean: over seeds and images, in [0, 1]; of a difference in [-1, 1].
        low, high: the interval.
        per_seed: one accuracy per seed; of a difference none, as its seeds have no partners.
        images: how many.
        covers: "images and seeds", or "images" where a probe has one seed: another seed may then well fall outside.
        standard_error: of the mean.
        freedom: degrees of freedom of the Student quantile.
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
        """Whether the interval lies on one side of zero, which is asked of a difference."""
        return self.low > 0 or self.high < 0

    def as_dict(self) -> dict:
        """In plain values."""
        return asdict(self)


def accuracy(correct: Tensor) -> Accuracy:
    """Mean accuracy of S seeds on the same n test images: (S, n) bool.

    Other images would give another number, and so would other seeds. With c_i the share of seeds that are right on
    image i, and a_s the accuracy of seed s,

        SE² = var_i(c_i) / n + var_s(a_s) / S,

    and the interval is Student's with the degrees of freedom of Welch 1947 and Satterthwaite 1946. Images and seeds
    being crossed, the mean's variance is V_images / n + V_seeds / S + V_noise / (n S), the noise being that of single
    answers, and each of the two terms above contains all of the last: it is counted twice. So SE² is too large by
    V_noise / (n S) on average, never too small. That doubles it where every answer is a coin of its own, and is hardly
    seen where seeds mostly agree on an image.

    Two or three seeds tell little of their variance. Where it makes up most of SE², their interval covers the truth in
    88% and 92% of cases, with 8 seeds in 94% (tests/recon/probing/test_accuracy.py); where images make up most, in 95%.

    Seeds are what the caller varied: where all of them probe one pretrained model, other pretrainings are not covered.
    Near 0 and 1 the interval is too narrow, and has no width where every answer is right or every one is wrong;
    there it is Clopper and Pearson's (1934), whose other end is 0.025^(1/n) from wrong.

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


def difference(a: Tensor, b: Tensor) -> Accuracy:
    """Accuracy of a less that of b on the same n test images: (S, n), (T, n) bool; seeds are not paired.

    SE² = var_i(a_i - b_i) / n + var_s(a_s) / S + var_t(b_t) / T, as in `accuracy`: what makes an image hard for both
    falls out of the first term. A probe with one seed adds no variance of seeds, and `covers` says so.

    Raises:
        InvalidSetting: fewer than two images, or not the same number.
    """
    if a.shape[1] != b.shape[1]:
        raise InvalidSetting(f"{a.shape[1]} and {b.shape[1]} test images; a difference needs the same ones")
    return _estimate(a.double().mean(0) - b.double().mean(0), [a, b])


def _estimate(per_image: Tensor, probes: list[Tensor]) -> Accuracy:
    """Of the mean of one value per image (n,), which the probes' seeds (S, n) gave."""
    n = len(per_image)
    if n < 2:
        raise InvalidSetting(f"{n} test images; an interval needs two or more")
    parts = [(per_image.var().item() / n, n - 1)]
    for correct in probes:
        seeds = len(correct)
        if seeds > 1:
            parts.append((correct.double().mean(1).var().item() / seeds, seeds - 1))
    variance = sum(part for part, _ in parts)
    spread = sum(part**2 / freedom for part, freedom in parts)
    freedom = variance**2 / spread if spread else float(n - 1)
    mean, error = per_image.mean().item(), math.sqrt(variance)
    half = scipy.stats.t.ppf((1 + LEVEL) / 2, freedom).item() * error
    return Accuracy(
        mean=mean,
        low=mean - half,
        high=mean + half,
        per_seed=(),
        images=n,
        freedom=freedom,
        standard_error=error,
        covers="images and seeds" if all(len(correct) > 1 for correct in probes) else "images",
    )
