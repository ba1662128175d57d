"""How near the hidden patches are to the truth."""

import torch
from torch import Tensor


def masked_mse(image: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error over hidden pixels and channels, the image clamped to [0, 1].

    Images (B, 3, H, W) in [0, 1], hidden (B, 1, H, W) bool -> (B,).
    """
    weight = hidden.to(image.dtype)
    error = ((image.clamp(0, 1) - truth).square() * weight).sum((1, 2, 3))
    return error / (image.shape[1] * weight.sum((1, 2, 3)))


def masked_psnr(image: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
    """Peak signal-to-noise ratio over hidden pixels, in dB, of images as in `masked_mse`: higher is better. -> (B,)"""
    return -10 * masked_mse(image, truth, hidden).log10()


def mean_of_visible(truth: Tensor, hidden: Tensor) -> Tensor:
    """Each image's hidden pixels filled with the mean colour of its visible ones: (B, 3, H, W)."""
    visible = (~hidden).to(truth.dtype)
    colour = (truth * visible).sum((2, 3), keepdim=True) / visible.sum((2, 3), keepdim=True)
    return torch.where(hidden, colour, truth)
