"""Colour photographs that come with scikit-image: data for a first run, without a download."""

from pathlib import Path

import skimage.data
from PIL import Image

from recon.data.source import Sample, Source, read_rgb

PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
TILE = 96
STRIDE = 32
LARGEST = 512  # the shorter side that larger photographs are shrunk to, so that none dominates


class Photos(Source):
    """Overlapping square tiles of a few photographs; a tile's class is its photograph."""

    caveat = "These images are overlapping tiles of 8 photographs: intervals hold for these photographs alone."

    def __init__(self, split: str) -> None:
        super().__init__(classes=[Path(name).stem for name in PHOTOGRAPHS])
        folder = Path(skimage.data.__file__).parent
        self._split = split
        self._regions = [region(read_rgb(folder / name), split) for name in PHOTOGRAPHS]
        self._tiles = [(label, box) for label, image in enumerate(self._regions) for box in tile_boxes(*image.size)]

    def __len__(self) -> int:
        return len(self._tiles)

    def read(self, index: int) -> Sample:
        label, box = self._tiles[index]
        return self._regions[label].crop(box), label

    def label_of(self, index: int) -> int:
        return self._tiles[index][0]

    def name_of(self, index: int) -> str:
        label, (left, top, _, _) = self._tiles[index]
        return f"photos/{self.classes[label]}/{self._split} at {left},{top}"


def photos(split: str, root: object = None, download: bool = False) -> Photos:
    """The photographs are part of scikit-image: `root` and `download` are ignored."""
    return Photos(split)


def region(photograph: Image.Image, split: str) -> Image.Image:
    """The left three quarters of a photograph for "train", the rest for "val".

    Shrunk after the cut, so that no pixel of one region is mixed into the other.
    """
    width, height = photograph.size
    cut = width * 3 // 4
    part = photograph.crop({"train": (0, 0, cut, height), "val": (cut, 0, width, height)}[split])
    scale = min(1.0, LARGEST / min(width, height))
    return part.resize((round(part.width * scale), round(part.height * scale)), Image.Resampling.BICUBIC)


def tile_boxes(width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) of the tiles that cover a region."""
    return [(left, top, left + TILE, top + TILE) for top in offsets(height) for left in offsets(width)]


def offsets(length: int) -> list[int]:
    """Where tiles begin along one side: evenly spread, at most a stride apart, the last one ends at the border."""
    last = length - TILE
    steps = -(-last // STRIDE)
    return [step * last // max(steps, 1) for step in range(steps + 1)]
