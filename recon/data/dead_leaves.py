"""Dead leaves: discs that occlude each other, with edges and texture at every scale, as in photographs.

Lee, Mumford and Huang 2001, "Occlusion models for natural images", doi 10.1023/A:1011109015675: discs are thrown on
the plane from front to back until every pixel is covered; their radii have the density r^-3 between a smallest and a
largest one, which makes the image scale-invariant in between. Here that is done exactly, on a grid twice as fine as the
image, of which every 2 x 2 values are then averaged.
"""

from math import pi

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from recon.config import seed_of
from recon.data.source import Sample, Source

SIDE = 96
FINER = 2  # grid points per pixel and side
MATERIALS = ("flat", "striped", "noisy")
SMALLEST = {"small": 2.0, "large": 8.0}  # radii in pixels
LARGEST = 48.0
COLOURS = (0.2, 0.8)  # each channel of a leaf's colour lies evenly in between
CONTRAST = 0.2  # of a texture around its leaf's colour, so that nothing is clipped
WAVELENGTHS = (3.0, 8.0)  # of stripes, in pixels
THROWN = 256  # discs at a time
IMAGES = {"train": 10_000, "val": 1_000}


class DeadLeaves(Source):
    """Images that are computed when they are read, each from the split and its index; a class per material and size."""

    def __init__(self, split: str) -> None:
        classes = [f"{material} {size}" for material in MATERIALS for size in SMALLEST]
        super().__init__(classes, mean=(0.5,) * 3, std=(0.197,) * 3)
        self._split = split

    def __len__(self) -> int:
        return IMAGES[self._split]

    def read(self, index: int) -> Sample:
        generator = np.random.default_rng(seed_of("dead_leaves", self._split, index))
        label = int(generator.integers(len(self.classes)))
        material, size = self.classes[label].split()
        image = paint(leaf_map(SMALLEST[size], generator), material, generator)
        return Image.fromarray(np.rint(image * 255).astype(np.uint8)), label

    def name_of(self, index: int) -> str:
        return f"dead_leaves/{self._split}/{index}"


def dead_leaves(split: str, root: object = None, download: bool = False) -> DeadLeaves:
    """The leaves are computed: `root` and `download` are ignored."""
    return DeadLeaves(split)


def radii(count: int, smallest: float, generator: Generator) -> NDArray[np.float64]:
    """Radii (count,) in pixels of density proportional to r^-3 between `smallest` and `LARGEST`."""
    return generator.uniform(LARGEST**-2, smallest**-2, count) ** -0.5


def leaf_map(smallest: float, generator: Generator) -> NDArray[np.int32]:
    """The number, from 0 and front to back, of the leaf that is seen at each point of the grid: (F, F), F = 2 SIDE."""
    seen = np.full((SIDE * FINER,) * 2, -1, np.int32)
    thrown = 0
    while (seen < 0).any():
        discs = throw(smallest, generator)
        layer = Image.new("I", seen.shape, -1)
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
    centre = generator.uniform(-LARGEST, SIDE + LARGEST, (THROWN, 2))
    touching = ((centre - r < SIDE) & (centre + r > 0)).all(1)
    low, high = (FINER * (centre + side)[touching] - 0.5 for side in (-r, r))
    return np.concatenate([np.ceil(low), np.floor(high)], 1)


def paint(leaves: NDArray[np.int32], material: str, generator: Generator) -> NDArray[np.float64]:
    """A map of leaves (F, F) in one material: (SIDE, SIDE, 3) in [0, 1]."""
    _, leaf = np.unique(leaves, return_inverse=True)
    leaf = leaf.reshape(leaves.shape)
    colours = generator.uniform(*COLOURS, (leaf.max() + 1, 3))
    fine = colours[leaf] + CONTRAST * texture(leaf, material, generator)[..., None]
    return fine.reshape(SIDE, FINER, SIDE, FINER, 3).mean((1, 3))


def texture(leaf: NDArray[np.int64], material: str, generator: Generator) -> NDArray[np.float64]:
    """Values (F, F) in [-1, 1] around the colour of each leaf, the same in all channels.

    Stripes have an angle, a wavelength and a phase per leaf; noise is white, one value per pixel of the image.
    """
    if material == "flat":
        return np.zeros(leaf.shape)
    if material == "noisy":
        return generator.uniform(-1, 1, (SIDE, SIDE)).repeat(FINER, 0).repeat(FINER, 1)
    low, high = zip((0, pi), WAVELENGTHS, (0, 2 * pi), strict=True)
    angle, wavelength, phase = generator.uniform(low, high, (leaf.max() + 1, 3)).T
    row, column = np.indices(leaf.shape) / FINER
    along = row * np.sin(angle)[leaf] + column * np.cos(angle)[leaf]
    return np.sin(2 * pi * along / wavelength[leaf] + phase[leaf])
