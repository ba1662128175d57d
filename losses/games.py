"""The games a discriminator and a generator can play: two losses each, on maps of logits (B, 1, h, w)."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Game:
    """`discriminator(real, fake)` and `generator(fake, real)` are scalars; `accuracy(real, fake)` is in [0, 1].

    `relative`: the generator's loss reads the real logits too. `penalised`: the discriminator needs R1 + R2.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor | None], Tensor]
    accuracy: Callable[[Tensor, Tensor], Tensor]
    relative: bool = False
    penalised: bool = False


def _absolute_accuracy(real: Tensor, fake: Tensor) -> Tensor:
    return ((real > 0).float().mean() + (fake < 0).float().mean()) / 2


def _paired_accuracy(real: Tensor, fake: Tensor) -> Tensor:
    return (real > fake).float().mean()


GAMES = {
    # Lim & Ye 2017 (arXiv 1705.02894), Miyato et al. 2018.
    "hinge": Game(
        discriminator=lambda real, fake: (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2,
        generator=lambda fake, real: -fake.mean(),
        accuracy=_absolute_accuracy,
    ),
    # Goodfellow et al. 2014 (arXiv 1406.2661), section 3.
    "nonsaturating": Game(
        discriminator=lambda real, fake: (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2,
        generator=lambda fake, real: F.softplus(-fake).mean(),
        accuracy=_absolute_accuracy,
    ),
    # Huang et al. 2024 (R3GAN, arXiv 2501.05441), equations 2 and 3; here a fake's rival is its own truth.
    "relativistic": Game(
        discriminator=lambda real, fake: F.softplus(fake - real).mean(),
        generator=lambda fake, real: F.softplus(real - fake).mean(),
        accuracy=_paired_accuracy,
        relative=True,
        penalised=True,
    ),
}
