"""How near the hidden patches are to the truth."""

import math

import torch
from torch import Tensor

from recon.metrics.chunks import a_few_at_a_time
from recon.metrics.passport import Metric


def area_mean(values: Tensor, hidden: Tensor) -> Tensor:
    """Each image's mean over channels and hidden positions; NaN where nothing is hidden.

    Values (B, C, H, W); hidden (B, 1, H, W), bool or the share that is hidden -> (B,).
    """
    weight = hidden.to(values.dtype)
    return (values * weight).sum((1, 2, 3)) / (values.shape[1] * weight.sum((1, 2, 3)))


def masked_mse(image: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error over hidden pixels and channels, the image clamped to [0, 1].

    Images (B, 3, H, W) in [0, 1], hidden (B, 1, H, W) bool -> (B,).
    """
    return a_few_at_a_time(lambda x, y, w: area_mean((x.clamp(0, 1) - y).square(), w), image, truth, hidden)


def masked_l1(image: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
    """Mean absolute error over hidden pixels and channels, of images as in `masked_mse`. -> (B,)"""
    return a_few_at_a_time(lambda x, y, w: area_mean((x.clamp(0, 1) - y).abs(), w), image, truth, hidden)


def masked_psnr(image: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
    """Peak signal-to-noise ratio over hidden pixels, in dB, of images as in `masked_mse`: higher is better. -> (B,)"""
    return -10 * masked_mse(image, truth, hidden).log10()


def mean_of_visible(truth: Tensor, hidden: Tensor) -> Tensor:
    """Each image's hidden pixels filled with the mean colour of its visible ones: (B, 3, H, W)."""
    visible = (~hidden).to(truth.dtype)
    colour = (truth * visible).sum((2, 3), keepdim=True) / visible.sum((2, 3), keepdim=True)
    return torch.where(hidden, colour, truth)


# Of PSNR in a table: one image met exactly would make a mean infinite. The noise of rounding to 8 bits, in dB.
CEILING = 10 * math.log10(12 * 255**2)

FIDELITY = [
    Metric(
        name="masked_mse",
        what="Mean squared error over hidden pixels and channels; its best prediction is the conditional mean.",
        unit="squared, of pixels in [0, 1]",
        low=0,
        high=1,
        better="lower",
        reference="skimage.metrics.mean_squared_error, of the hidden pixels",
        paired=True,
        function=lambda pair: masked_mse(pair.image, pair.truth, pair.hidden),
    ),
    Metric(
        name="masked_l1",
        what="Mean absolute error over hidden pixels and channels; its best prediction is the conditional median.",
        unit="of pixels in [0, 1]",
        low=0,
        high=1,
        better="lower",
        reference="sklearn.metrics.mean_absolute_error, of the hidden pixels",
        paired=True,
        function=lambda pair: masked_l1(pair.image, pair.truth, pair.hidden),
    ),
    Metric(
        name="masked_psnr",
        what="Peak signal-to-noise ratio over hidden pixels, image by image; at most 58.9 dB, the rounding to 8 bits.",
        unit="dB",
        low=0,
        high=CEILING,
        better="higher",
        reference="skimage.metrics.peak_signal_noise_ratio, of the hidden pixels",
        paired=True,
        function=lambda pair: masked_psnr(pair.image, pair.truth, pair.hidden).clamp(max=CEILING),
    ),
]
