"""Computed images: Gaussian random fields, whose best reconstruction is known, and dead leaves, with edges and texture.

Gaussian fields: an image is a stationary Gaussian field on a torus of `FIELD_SIDE` x `FIELD_SIDE` pixels, with power
1/f^a at radial frequency f and none at f = 0: a = 2 is the power of natural images (Field 1987, doi
10.1364/JOSAA.4.002379). Its three channels are equally strong and share one spatial covariance; two channels have the
correlation `CORRELATION`, so what varies is mostly luminance. The covariance of two values is a product,
`colour_covariance()[channels]` times `autocovariance(a)[lag]`, plus rounding to 8 bits: nearly white, of variance
`QUANTISATION`. Values are clipped to [0, 1] where they are further than `0.5 / STD` = 4.2 standard deviations from the
mean: 3 in 100,000 values.

Dead leaves (Lee, Mumford and Huang 2001, "Occlusion models for natural images", doi 10.1023/A:1011109015675): discs are
thrown on the plane from front to back until every pixel is covered; their radii have the density r^-3 between a
smallest and a largest one, which makes the image scale-invariant in between. Here that is done exactly, on a grid twice
as fine as the image, of which every 2 x 2 values are then averaged.
"""

from abc import abstractmethod
from functools import cache
from math import pi

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from recon.config import seed_of
from recon.data.source import Sample, Source

IMAGES = {"train": 10_000, "val": 1_000}

FIELD_SIDE = 128
EXPONENTS = (1, 2, 3)
MEAN, STD = 0.5, 0.12  # of every channel
CORRELATION = 0.8
QUANTISATION = 1 / (12 * 255**2)

LEAVES_SIDE = 96
FINER = 2  # grid points per pixel and side
MATERIALS = ("flat", "striped", "noisy")
SMALLEST = {"small": 2.0, "large": 8.0}  # radii in pixels
LARGEST = 48.0
COLOURS = (0.2, 0.8)  # each channel of a leaf's colour lies evenly in between
CONTRAST = 0.2  # of a texture around its leaf's colour, so that nothing is clipped
WAVELENGTHS = (3.0, 8.0)  # of stripes, in pixels
THROWN = 256  # discs at a time


class Computed(Source):
    """Images that are computed when they are read, each from the dataset, the split and its index alone."""

    dataset: str

    def __init__(self, split: str, classes: list[str], mean: float, std: float) -> None:
        super().__init__(classes, (mean, mean, mean), (std, std, std))
        self.name, self._split = f"{self.dataset}/{split}", split

    def __len__(self) -> int:
        return IMAGES[self._split]

    def read(self, index: int) -> Sample:
        generator = np.random.default_rng(seed_of(self.dataset, self._split, index))
        label = int(generator.integers(len(self.classes)))
        return Image.fromarray(np.rint(self.pixels(label, generator) * 255).astype(np.uint8)), label

    @abstractmethod
    def pixels(self, label: int, generator: Generator) -> NDArray[np.float64]:
        """An image of a class: (H, W, 3) in [0, 1]."""


class GaussianField(Computed):
    """Gaussian random fields; a class per exponent."""

    dataset = "gaussian_field"
    native = True  # resizing would change the covariance

    def __init__(self, split: str, root: object = None, download: bool = False) -> None:
        super().__init__(split, [f"1/f^{a}" for a in EXPONENTS], MEAN, STD)

    def pixels(self, label: int, generator: Generator) -> NDArray[np.float64]:
        noise = torch.from_numpy(generator.standard_normal((3, FIELD_SIDE, FIELD_SIDE)))
        return (STD * colour(noise, EXPONENTS[label]) + MEAN).clamp(0, 1).movedim(0, -1).numpy()


class DeadLeaves(Computed):
    """Discs that occlude each other; a class per material and size."""

    dataset = "dead_leaves"

    def __init__(self, split: str, root: object = None, download: bool = False) -> None:
        super().__init__(split, [f"{material} {size}" for material in MATERIALS for size in SMALLEST], 0.5, 0.197)

    def pixels(self, label: int, generator: Generator) -> NDArray[np.float64]:
        material, size = self.classes[label].split()
        return paint(leaf_map(SMALLEST[size], generator), material, generator)


# ---- Gaussian fields


def colour(noise: Tensor, exponent: float) -> Tensor:
    """White noise (3, S, S) of unit variance, S = FIELD_SIDE -> a colour field of mean 0 and variance 1 per channel."""
    field = smoothed(noise, FIELD_SIDE * power(exponent).sqrt())
    # the symmetric square root of the correlation matrix: its eigenvalues are those of luminance and chroma
    luminance = field.mean(0)
    return (1 - CORRELATION) ** 0.5 * (field - luminance) + (1 + 2 * CORRELATION) ** 0.5 * luminance


def smoothed(field: Tensor, gain: Tensor) -> Tensor:
    """A field (..., S, S) convolved on the torus: each frequency multiplied by its gain (S, S)."""
    half = gain[:, : FIELD_SIDE // 2 + 1].to(field.device)
    return torch.fft.irfft2(torch.fft.rfft2(field) * half, s=(FIELD_SIDE, FIELD_SIDE))


@cache
def power(exponent: float) -> Tensor:
    """The share of a channel's variance at each frequency of the torus: (S, S) float64, its sum is 1."""
    frequency = torch.fft.fftfreq(FIELD_SIDE, dtype=torch.float64)
    radius = torch.hypot(frequency[:, None], frequency[None])
    spectrum = torch.where(radius > 0, radius, torch.inf) ** -exponent
    return spectrum / spectrum.sum()


def autocovariance(exponent: float) -> Tensor:
    """Covariance of two pixels in a channel of unit variance, by their lag [dy, dx] modulo S: (S, S) float64."""
    return torch.fft.fft2(power(exponent)).real


def colour_covariance() -> Tensor:
    """Covariance of an image's three channels at one pixel, before rounding to 8 bits: (3, 3) float64."""
    return STD**2 * ((1 - CORRELATION) * torch.eye(3, dtype=torch.float64) + CORRELATION)


# ---- dead leaves


def radii(count: int, smallest: float, generator: Generator) -> NDArray[np.float64]:
    """Radii (count,) in pixels of density proportional to r^-3 between `smallest` and `LARGEST`."""
    return generator.uniform(LARGEST**-2, smallest**-2, count) ** -0.5


def leaf_map(smallest: float, generator: Generator) -> NDArray[np.int32]:
    """The number, from 0 and front to back, of the leaf that is seen at each point of the grid: (F, F)."""
    points = LEAVES_SIDE * FINER  # F
    seen = np.full((points, points), -1, np.int32)
    thrown = 0
    while (seen < 0).any():
        discs = throw(smallest, generator)
        layer = Image.new("I", (points, points), -1)
        draw = ImageDraw.Draw(layer)
        # back to front within the layer, and the layer behind those before
        for number, disc in reversed(list(enumerate(discs.tolist(), thrown))):
            draw.ellipse(disc, fill=number)
        seen = np.where(seen < 0, np.asarray(layer), seen)
        thrown += len(discs)
    return seen


def throw(smallest: float, generator: Generator) -> NDArray[np.float64]:
    """The next discs, front to back, of those that may touch the image: boxes (n, 4) of left, top, right, bottom.

    Thrown evenly on the image and a border of `LARGEST` around it. A box ends at the last points of the grid, counted
    from 0, that are within.
    """
    r = radii(THROWN, smallest, generator)[:, None]
    centre = generator.uniform(-LARGEST, LEAVES_SIDE + LARGEST, (THROWN, 2))
    touching = ((centre - r < LEAVES_SIDE) & (centre + r > 0)).all(1)
    low, high = (FINER * (centre + side)[touching] - 0.5 for side in (-r, r))
    return np.concatenate([np.ceil(low), np.floor(high)], 1)


def paint(leaves: NDArray[np.int32], material: str, generator: Generator) -> NDArray[np.float64]:
    """A map of leaves (F, F) in one material: (LEAVES_SIDE, LEAVES_SIDE, 3) in [0, 1]."""
    leaf = numbered(leaves)
    return render(leaf, leaf_colours(leaf, generator), texture(leaf, material, generator))


def numbered(leaves: NDArray[np.int32]) -> NDArray[np.int64]:
    """The same map (F, F) with the leaves that are seen numbered without gaps, from 0 and front to back."""
    shown = np.bincount(leaves.ravel()) > 0
    return (shown.cumsum() - 1)[leaves]


def leaf_colours(leaf: NDArray[np.int64], generator: Generator) -> NDArray[np.float64]:
    """A colour per leaf: (leaves, 3) within `COLOURS`."""
    return generator.uniform(*COLOURS, (leaf.max() + 1, 3))


def render(leaf: NDArray[np.int64], colours: NDArray[np.float64], textures: NDArray[np.float64]) -> NDArray[np.float64]:
    """The image of numbered leaves (F, F) with textures (F, F) in [-1, 1]: (LEAVES_SIDE, LEAVES_SIDE, 3) in [0, 1]."""
    fine = colours[leaf] + CONTRAST * textures[..., None]
    return fine.reshape(LEAVES_SIDE, FINER, LEAVES_SIDE, FINER, 3).mean((1, 3))


def texture(leaf: NDArray[np.int64], material: str, generator: Generator) -> NDArray[np.float64]:
    """Values (F, F) in [-1, 1] around the colour of each leaf, the same in all channels.

    Stripes have an angle, a wavelength and a phase per leaf; noise is white, one value per pixel of the image.
    """
    if material == "flat":
        return np.zeros(leaf.shape)
    if material == "noisy":
        return generator.uniform(-1, 1, (LEAVES_SIDE, LEAVES_SIDE)).repeat(FINER, 0).repeat(FINER, 1)
    low, high = zip((0, pi), WAVELENGTHS, (0, 2 * pi), strict=True)
    angle, wavelength, phase = generator.uniform(low, high, (leaf.max() + 1, 3)).T
    row, column = np.indices(leaf.shape) / FINER
    along = row * np.sin(angle)[leaf] + column * np.cos(angle)[leaf]
    return np.sin(2 * pi * along / wavelength[leaf] + phase[leaf])
