"""The layers beside the decoder that a head of a distribution needs, and how completions are drawn with them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from losses.heads import PixelHead
from losses.mixture import Basis, MixtureHead
from losses.patches import spread
from losses.reconstruction import Reconstruction
from recon.model.layers import initialise_linear
from recon.model.velocity import FlowLayers
from recon.randomness import seed_of


class MixtureLayers(nn.Module):
    """From the decoder's features to the parameters of every patch's mixture, through one hidden layer.

    At first all Gaussians are as wide as the data and stand around the decoder's prediction, which is their mean.
    """

    def __init__(self, head: MixtureHead, width: int, patch_size: int):
        super().__init__()
        self.plain_head = head
        values = 3 * patch_size**2
        outputs = head.width(values) - values
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, outputs))
        initialise_linear(self.layers)
        nn.init.zeros_(self.layers[-1].weight)
        # Gaussians that begin alike would stay alike.
        k, d = head.gaussians, head.mixed(values)
        means = 0.5 * torch.randn(k, d)
        self.layers[-1].bias.data[k : k + k * d] = (means - means.mean(0)).flatten()
        axes, deviations = Basis.of_pixels(values)
        self.register_buffer("axes", axes)
        self.register_buffer("deviations", deviations)

    @torch.no_grad()
    def take(self, basis: Basis) -> None:
        """The principal components of the data that it is to learn."""
        self.axes.copy_(basis.axes)
        self.deviations.copy_(basis.deviations)

    @property
    def head(self) -> MixtureHead:
        """The head, which knows the principal components."""
        return self.plain_head.with_basis(Basis(self.axes, self.deviations))

    def draw(self, r: Reconstruction, features: Tensor, uniform: Tensor, normal: Tensor) -> Tensor:
        """A completion, (B, N, P) standardised, every patch by itself; by the numbers of `chance_of`."""
        return r.head.sample_pixels(r, uniform, normal)

    def forward(self, prediction: Tensor, features: Tensor) -> Tensor:
        """(B, n, P) pixels and (B, n, D) features of the same patches -> (B, n, W)."""
        return torch.cat([prediction, self.layers(features)], dim=-1)


def layers_for(
    head: PixelHead, width: int, patch_size: int, image_size: tuple[int, int], std: Sequence[float]
) -> MixtureLayers | FlowLayers | None:
    """What a model needs beside a decoder of that width; None where the head predicts no distribution."""
    if isinstance(head, MixtureHead):
        return MixtureLayers(head, width, patch_size)
    return FlowLayers(head, width, patch_size, image_size, std) if head.renderings else None


def chance_of(images: Tensor, mask: Tensor, draw: int) -> tuple[Tensor, Tensor]:
    """What the `draw`-th completion of each image is drawn with: uniform numbers (B, N) and normal ones (B, N, P).

    They depend on the mask, the visible pixels and `draw` alone, not on what else is in the batch, nor on the device if
    the images are the same floats there.
    """
    patch_size = round((images[0, 0].numel() / mask.shape[1]) ** 0.5)
    values, found = 3 * patch_size**2, []
    for image, hidden in zip(visible_bytes(images, mask, patch_size), mask.cpu().numpy(), strict=True):
        generator = torch.Generator().manual_seed(seed_of("draw", draw, hidden.tobytes().hex(), image))
        uniform = torch.rand(mask.shape[1], generator=generator)
        found.append((uniform, torch.randn(mask.shape[1], values, generator=generator)))
    uniform, normal = (torch.stack(each).to(images.device) for each in zip(*found, strict=True))
    return uniform, normal


def visible_bytes(images: Tensor, mask: Tensor, patch_size: int) -> list[str]:
    hidden = spread(mask, (images.shape[2] // patch_size, images.shape[3] // patch_size), patch_size)
    return [image.tobytes().hex() for image in torch.where(hidden, 0, images).float().cpu().numpy()]
