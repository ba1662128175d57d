"""The patch discriminator, the GAN losses, and the gradient penalty."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TINY = 1e-6  # an image of which no hidden pixel is sampled has the mean 0


class PatchDiscriminator(nn.Module):
    """C64-C128-C256-C512 of Isola et al. 2017 (arXiv 1611.07004, appendix 6.1.2), without batch normalisation, which
    would make an image's result depend on the batch and on the number of processes.

    There are three strided layers from 64 pixels on (a receptive field of 70 pixels), fewer on smaller images, so that
    the result remains a map of logits.

    Args:
        image_size: (H, W).
        width: channels of the first layer.
        inputs: channels of an image; 4 if the mask is one of them.

    Shape: (B, 3 or 4, H, W) in [-1, 1] -> logits (B, 1, h, w).
    """

    def __init__(self, image_size: tuple[int, int], width: int = 64, inputs: int = 3):
        super().__init__()
        depth = max(1, min(3, int(math.log2(min(image_size) / 8))))
        self.stride = 2**depth
        self.least = 3 * self.stride  # pixels a side; the last two layers take two from the map
        self.strides = [min(2 ** (i + 1), self.stride) for i in range(depth + 1)]  # of the layers before the logits
        layers: list[nn.Module] = []
        for i in range(depth + 1):
            outputs = width * 2**i
            layers += [
                nn.Conv2d(inputs, outputs, 4, stride=2 if i < depth else 1, padding=1),
                nn.LeakyReLU(0.2, inplace=True),  # its gradient needs the output alone, which is kept anyway
            ]
            inputs = outputs
        self.layers = nn.Sequential(*layers, nn.Conv2d(inputs, 1, 4, padding=1))
        for name, parameter in self.layers.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:  # pix2pix's N(0, 0.02) relies on batch normalisation; without it the logits would vanish
                nn.init.kaiming_normal_(parameter, a=0.2)

    def forward(self, images: Tensor, features: bool = False) -> Tensor | list[Tensor]:
        """The logits; or, with `features`, the outputs of all layers but the last, after their activations."""
        if not features:
            return self.layers(images)
        found = []
        for layer in self.layers[:-1]:
            images = layer(images)
            if isinstance(layer, nn.LeakyReLU):
                found.append(images)
        return found


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Mean over `images` of ||d D / d image||^2: R1 for real images, R2 for fakes; 0 for images without a logit.

    D is the mean logit of an image's patches, so that the penalty does not depend on the size of the map of logits.
    """
    per_image = logits.flatten(1).mean(1).sum()
    (gradient,) = torch.autograd.grad(per_image, images, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


@dataclass(frozen=True)
class GANLoss:
    """A GAN loss, as functions of maps of logits (B, 1, h, w), which are `weighted_mean`s."""

    discriminator: Callable[..., Tensor]  # (real, fake, weight), to minimise
    generator: Callable[..., Tensor]  # (fake, real, weight), to minimise
    accuracy: Callable[..., Tensor]  # (real, fake, weight), in [0, 1]
    relative: bool = False  # the generator's loss reads the real logits too, and R2 is added to R1


def weighted_mean(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Weighted mean over each image's logits (B, ...), then the mean over the images."""
    if weight is None:
        return values.mean()
    return ((values * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(TINY)).mean()


def _accuracy(real: Tensor, fake: Tensor, weight: Tensor | None = None) -> Tensor:
    return (weighted_mean((real > 0).float(), weight) + weighted_mean((fake < 0).float(), weight)) / 2


GAN_LOSSES = {
    # Lim & Ye 2017 (arXiv 1705.02894), Miyato et al. 2018.
    "hinge": GANLoss(
        discriminator=lambda real, fake, weight=None: (
            (weighted_mean(F.relu(1 - real), weight) + weighted_mean(F.relu(1 + fake), weight)) / 2
        ),
        generator=lambda fake, real, weight=None: -weighted_mean(fake, weight),
        accuracy=_accuracy,
    ),
    # Goodfellow et al. 2014 (arXiv 1406.2661), section 3.
    "nonsaturating": GANLoss(
        discriminator=lambda real, fake, weight=None: (
            (weighted_mean(F.softplus(-real), weight) + weighted_mean(F.softplus(fake), weight)) / 2
        ),
        generator=lambda fake, real, weight=None: weighted_mean(F.softplus(-fake), weight),
        accuracy=_accuracy,
    ),
    # Huang et al. 2024 (R3GAN, arXiv 2501.05441), equations 2 and 3. Two differences: each fake is paired with its own
    # truth, not with any real image; and the weight of R1 + R2 is constant, which R3GAN anneals.
    "relativistic": GANLoss(
        discriminator=lambda real, fake, weight=None: weighted_mean(F.softplus(fake - real), weight),
        generator=lambda fake, real, weight=None: weighted_mean(F.softplus(real - fake), weight),
        accuracy=lambda real, fake, weight=None: weighted_mean((real > fake).float(), weight),
        relative=True,
    ),
}
