"""Gaussian random fields: data whose best possible reconstruction is known.

An image is a stationary Gaussian field on a torus of `SIDE` x `SIDE` pixels, with power 1/f^a at radial frequency f
and none at f = 0: a = 2 is the power of natural images (Field 1987, doi 10.1364/JOSAA.4.002379). Its three channels
are equally strong and share one spatial covariance; two channels have the correlation `CORRELATION`, so what varies
is mostly luminance. The covariance of two values is a product, `colour_covariance()[channels]` times
`autocovariance(a)[lag]`, plus rounding to 8 bits: nearly white, of variance `QUANTISATION`. Values are clipped to
[0, 1] where they are further than `0.5 / STD` = 4.2 standard deviations from the mean: 3 in 100,000 values.
"""

from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from recon.config import seed_of
from recon.data.source import Sample, Source

SIDE = 128
EXPONENTS = (1, 2, 3)
MEAN, STD = 0.5, 0.12  # of every channel
CORRELATION = 0.8
QUANTISATION = 1 / (12 * 255**2)
IMAGES = {"train": 10_000, "val": 1_000}


class GaussianField(Source):
    """Fields that are computed when they are read, each from the split and its index alone; a class per exponent."""

    native = True  # resizing would change the covariance

    def __init__(self, split: str) -> None:
        super().__init__([f"1/f^{a}" for a in EXPONENTS], mean=(MEAN,) * 3, std=(STD,) * 3)
        self._split = split

    def __len__(self) -> int:
        return IMAGES[self._split]

    def read(self, index: int) -> Sample:
        generator = np.random.default_rng(seed_of("gaussian_field", self._split, index))
        label = int(generator.integers(len(EXPONENTS)))
        noise = torch.from_numpy(generator.standard_normal((3, SIDE, SIDE)))
        field = (STD * colour(noise, EXPONENTS[label]) + MEAN).clamp(0, 1)
        return Image.fromarray((field * 255).round().to(torch.uint8).movedim(0, -1).numpy()), label

    def name_of(self, index: int) -> str:
        return f"gaussian_field/{self._split}/{index}"


def gaussian_field(split: str, root: object = None, download: bool = False) -> GaussianField:
    """The fields are computed: `root` and `download` are ignored."""
    return GaussianField(split)


def colour(noise: Tensor, exponent: float) -> Tensor:
    """White noise (3, SIDE, SIDE) of unit variance -> a colour field of mean 0 and variance 1 per channel."""
    field = smoothed(noise, SIDE * power(exponent).sqrt())
    # the symmetric square root of the correlation matrix: its eigenvalues are those of luminance and chroma
    luminance = field.mean(0)
    return (1 - CORRELATION) ** 0.5 * (field - luminance) + (1 + 2 * CORRELATION) ** 0.5 * luminance


def smoothed(field: Tensor, gain: Tensor) -> Tensor:
    """A field (..., SIDE, SIDE) convolved on the torus: each frequency multiplied by its gain (SIDE, SIDE)."""
    half = gain[:, : SIDE // 2 + 1].to(field.device)
    return torch.fft.irfft2(torch.fft.rfft2(field) * half, s=(SIDE, SIDE))


@cache
def power(exponent: float) -> Tensor:
    """The share of a channel's variance at each frequency of the torus: (SIDE, SIDE) float64, its sum is 1."""
    frequency = torch.fft.fftfreq(SIDE, dtype=torch.float64)
    radius = torch.hypot(frequency[:, None], frequency[None])
    spectrum = torch.where(radius > 0, radius, torch.inf) ** -exponent
    return spectrum / spectrum.sum()


def autocovariance(exponent: float) -> Tensor:
    """Covariance of two pixels in a channel of unit variance, by their lag [dy, dx] modulo SIDE.

    (SIDE, SIDE) float64.
    """
    return torch.fft.fft2(power(exponent)).real


def covariance(exponent: float, size: tuple[int, int]) -> Tensor:
    """Covariance of the pixels, row by row, of a window of a channel of unit variance: (H*W, H*W) float64.

    Args:
        size: (H, W) of the window, at most SIDE each.
    """
    pixels = torch.cartesian_prod(*(torch.arange(side) for side in size))
    lag = (pixels[:, None] - pixels[None]) % SIDE
    return autocovariance(exponent)[lag[..., 0], lag[..., 1]]


def colour_covariance() -> Tensor:
    """Covariance of an image's three channels at one pixel, before rounding to 8 bits: (3, 3) float64."""
    return STD**2 * ((1 - CORRELATION) * torch.eye(3, dtype=torch.float64) + CORRELATION)
