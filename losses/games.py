"""The GAN losses: one for the discriminator, one for the generator, on maps of logits (B, 1, h, w)."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

TINY = 1e-6  # where nothing that is seen of an image was hidden, its mean is 0


@dataclass(frozen=True)
class Game:
    """`discriminator(real, fake, weight)` and `generator(fake, real, weight)` are scalars, `accuracy(real, fake,
    weight)` is in [0, 1]; all are means over the logits, weighted by `weight` of the same shape where it is given, each
    image's first.

    `relative`: the generator's loss reads the real logits too, and R2 goes with R1.
    """

    discriminator: Callable[..., Tensor]
    generator: Callable[..., Tensor]
    accuracy: Callable[..., Tensor]
    relative: bool = False


def weighted_mean(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over each image's logits (B, ...), each counted `weight` times, then over the images."""
    if weight is None:
        return values.mean()
    return ((values * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(TINY)).mean()


def _absolute_accuracy(real: Tensor, fake: Tensor, weight: Tensor | None = None) -> Tensor:
    return (weighted_mean((real > 0).float(), weight) + weighted_mean((fake < 0).float(), weight)) / 2


def _paired_accuracy(real: Tensor, fake: Tensor, weight: Tensor | None = None) -> Tensor:
    return weighted_mean((real > fake).float(), weight)


GAMES = {
    # Lim & Ye 2017 (arXiv 1705.02894), Miyato et al. 2018.
    "hinge": Game(
        discriminator=lambda real, fake, weight=None: (
            (weighted_mean(F.relu(1 - real), weight) + weighted_mean(F.relu(1 + fake), weight)) / 2
        ),
        generator=lambda fake, real, weight=None: -weighted_mean(fake, weight),
        accuracy=_absolute_accuracy,
    ),
    # Goodfellow et al. 2014 (arXiv 1406.2661), section 3.
    "nonsaturating": Game(
        discriminator=lambda real, fake, weight=None: (
            (weighted_mean(F.softplus(-real), weight) + weighted_mean(F.softplus(fake), weight)) / 2
        ),
        generator=lambda fake, real, weight=None: weighted_mean(F.softplus(-fake), weight),
        accuracy=_absolute_accuracy,
    ),
    # Huang et al. 2024 (R3GAN, arXiv 2501.05441), equations 2 and 3. Differs: a fake's rival is its own truth, not any
    # real image, and the weight of R1 + R2 is constant where R3GAN anneals it.
    "relativistic": Game(
        discriminator=lambda real, fake, weight=None: weighted_mean(F.softplus(fake - real), weight),
        generator=lambda fake, real, weight=None: weighted_mean(F.softplus(real - fake), weight),
        accuracy=_paired_accuracy,
        relative=True,
    ),
}
