"""The layers that a head of a predicted distribution needs after the decoder, and how its samples are drawn."""

import torch
from torch import Tensor, nn

from losses.flow import FlowHead
from losses.heads import PixelHead
from losses.mixture import MixtureHead, PrincipalComponents
from losses.reconstruction import Reconstruction, expand_to_pixels
from recon.config import seed_of
from recon.model.layers import initialise_linear
from recon.model.velocity import FlowLayers


class MixtureLayers(nn.Module):
    """Predicts the parameters of every patch's mixture from the decoder's features, through one hidden layer.

    At initialisation all Gaussians are as wide as the data and centred near the decoder's prediction, their mean.
    """

    axes: Tensor
    deviations: Tensor

    def __init__(self, head: MixtureHead, width: int, patch_size: int):
        super().__init__()
        self.plain_head = head
        values = 3 * patch_size**2
        outputs = head.width(values) - values
        last = nn.Linear(2 * width, outputs)
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), last)
        initialise_linear(self.layers)
        nn.init.zeros_(last.weight)
        # Gaussians with equal parameters would get equal gradients and stay equal.
        k, d = head.gaussians, head.component_count(values)
        means = 0.5 * torch.randn(k, d)
        last.bias.data[k : k + k * d] = (means - means.mean(0)).flatten()
        axes, deviations = PrincipalComponents.identity(values)
        self.register_buffer("axes", axes)
        self.register_buffer("deviations", deviations)

    @torch.no_grad()
    def set_basis(self, basis: PrincipalComponents) -> None:
        """Sets the principal components of the training data."""
        self.axes.copy_(basis.axes)
        self.deviations.copy_(basis.deviations)

    @property
    def head(self) -> MixtureHead:
        """The head with the principal components."""
        return self.plain_head.with_basis(PrincipalComponents(self.axes, self.deviations))

    def draw(self, r: Reconstruction, features: Tensor, uniform: Tensor, normal: Tensor) -> Tensor:
        """A sample, (B, N, P) standardised, every patch by itself; `uniform` and `normal` from `random_numbers`."""
        return self.head.sample_pixels(r.prediction, uniform, normal, r.std)

    def forward(self, prediction: Tensor, features: Tensor) -> Tensor:
        """(B, n, P) pixels and (B, n, D) features of the same patches -> (B, n, W)."""
        return torch.cat([prediction, self.layers(features)], dim=-1)


def layers_for(
    head: PixelHead, width: int, patch_size: int, image_size: tuple[int, int], std: Tensor
) -> MixtureLayers | FlowLayers | None:
    """The layers after a decoder of that width; None where the head predicts no distribution."""
    if isinstance(head, MixtureHead):
        return MixtureLayers(head, width, patch_size)
    return FlowLayers(head, width, patch_size, image_size, std) if isinstance(head, FlowHead) else None


def rendered_pixels(
    layers: MixtureLayers | FlowLayers | None, r: Reconstruction, features: Tensor, rendering: str, draw: int
) -> Tensor:
    """The "mean", the "mode" or a "sample" of a predicted distribution: (B, N, P), standardised.

    Args:
        r: the model's prediction of every patch.
        features: (B, N, D), of the decoder.
        draw: the number of the sample.

    Raises:
        ValueError: the head has no such rendering.
    """
    if layers is None or rendering not in r.head.renderings:
        has = ", ".join(r.head.renderings) or "none: one answer to each image"
        raise ValueError(f"{r.head.name} has no rendering {rendering!r} ({has})")
    if rendering == "sample":
        return layers.draw(r, features, *random_numbers(r.image, r.mask, draw))
    if isinstance(r.head, MixtureHead) and rendering == "mode":
        return r.head.mode_pixels(r.prediction, r.values)
    return r.pixels


def random_numbers(images: Tensor, mask: Tensor, draw: int) -> tuple[Tensor, Tensor]:
    """What the `draw`-th sample of each image is made from: uniform numbers (B, N) and normal ones (B, N, P).

    They depend on the mask, the visible pixels and `draw` only: not on the rest of the batch, nor on the device if
    the images are the same floats there.
    """
    patch_size = round((images[0, 0].numel() / mask.shape[1]) ** 0.5)
    hidden = expand_to_pixels(mask, (images.shape[2] // patch_size, images.shape[3] // patch_size), patch_size)
    visible = torch.where(hidden, 0, images).float().cpu().numpy()
    uniform, normal = [], []
    for image, row in zip(visible, mask.cpu().numpy(), strict=True):
        seed = seed_of("draw", draw, row.tobytes().hex(), image.tobytes().hex())
        generator = torch.Generator().manual_seed(seed)
        uniform.append(torch.rand(len(row), generator=generator))
        normal.append(torch.randn(len(row), 3 * patch_size**2, generator=generator))
    return torch.stack(uniform).to(images.device), torch.stack(normal).to(images.device)
