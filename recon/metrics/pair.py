"""A reconstruction beside its truth, in the views that metrics share."""

from functools import cached_property
from math import isqrt

import torch
from torch import Tensor

from losses.patches import patchify, spread

LUMA = (0.2125, 0.7154, 0.0721)  # of scikit-image's rgb2gray


class Pair:
    """A reconstruction and its truth, of which hidden patches alone count.

    Views are computed on demand, kept, and shared by all metrics; they are float32 or wider.

    Args:
        image: (B, 3, H, W), clamped to [0, 1]; what it holds in visible patches is replaced by the truth.
        truth: (B, 3, H, W) in [0, 1].
        mask: (B, N) bool, True where a patch was hidden; patches row by row.
    """

    def __init__(self, image: Tensor, truth: Tensor, mask: Tensor):
        self.truth = truth.to(torch.promote_types(truth.dtype, torch.float32))
        self.mask = mask
        self.patch_size = isqrt(truth.shape[2] * truth.shape[3] // mask.shape[1])
        self.grid = (truth.shape[2] // self.patch_size, truth.shape[3] // self.patch_size)
        self.image = torch.where(self.hidden, image.to(self.truth.dtype).clamp(0, 1), self.truth)

    @cached_property
    def hidden(self) -> Tensor:
        """(B, 1, H, W) bool, True on hidden pixels."""
        return spread(self.mask, self.grid, self.patch_size)

    @cached_property
    def patches(self) -> Tensor:
        """The reconstruction's patches, (B, N, 3, p, p)."""
        return colour_patches(self.image, self.patch_size)

    @cached_property
    def true_patches(self) -> Tensor:
        """The truth's patches, (B, N, 3, p, p)."""
        return colour_patches(self.truth, self.patch_size)

    @cached_property
    def grey_patches(self) -> Tensor:
        """Luminance of the reconstruction's patches, (B, N, p, p)."""
        return grey_patches(self.image, self.patch_size)

    @cached_property
    def true_grey_patches(self) -> Tensor:
        """Luminance of the truth's patches, (B, N, p, p)."""
        return grey_patches(self.truth, self.patch_size)

    def of_truth(self) -> "Pair":
        """The truth in the reconstruction's place."""
        return Pair(self.truth, self.truth, self.mask)


def colour_patches(images: Tensor, patch_size: int) -> Tensor:
    """(B, 3, H, W) -> (B, N, 3, p, p)."""
    patches = patchify(images, patch_size)
    return patches.unflatten(-1, (patch_size, patch_size, 3)).movedim(-1, 2)


def grey_patches(images: Tensor, patch_size: int) -> Tensor:
    """Luminance, (B, 3, H, W) -> (B, N, p, p)."""
    return patchify(grey(images)[:, None], patch_size).unflatten(-1, (patch_size, patch_size))


def grey(images: Tensor) -> Tensor:
    """Luminance as scikit-image's `rgb2gray`: (..., 3, H, W) -> (..., H, W)."""
    red, green, blue = images.unbind(-3)
    return (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
