"""The embedded photographs."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from recon.data import create_dataset
from recon.data.public import LARGEST, PHOTOGRAPHS, STRIDE, TILE, offsets, region


@pytest.fixture(scope="module")
def splits():
    return {split: create_dataset("photos", split) for split in ("train", "val")}


@pytest.mark.parametrize("size", [(451, 300), (1411, 1200)])  # as it is, and shrunk
def test_no_pixel_of_one_region_reaches_the_other(size):
    width, height = size
    grain = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    cut = width * 3 // 4
    for split, other in (("train", np.s_[:, cut:]), ("val", np.s_[:, :cut])):
        blackened = grain.copy()
        blackened[other] = 0
        seen = [region(Image.fromarray(pixels), split).tobytes() for pixels in (grain, blackened)]
        assert seen[0] == seen[1]


@pytest.mark.parametrize("length", [96, 97, 128, 129, 384, 555])
def test_tiles_cover_a_region_to_its_borders(length):
    starts = offsets(length)
    assert starts[0] == 0 and starts[-1] == length - TILE
    assert all(0 < after - before <= STRIDE for before, after in pairwise(starts))


def test_every_tile_is_a_square_of_its_photograph(splits):
    for source in splits.values():
        assert source.classes == [name.split(".")[0] for name in PHOTOGRAPHS]
        images, labels = zip(*(source.read(i) for i in range(len(source))), strict=True)
        assert {(image.mode, image.size) for image in images} == {("RGB", (TILE, TILE))}
        assert set(labels) == set(range(len(PHOTOGRAPHS)))


def test_no_photograph_dominates(splits):
    labels = [splits["train"].read(i)[1] for i in range(len(splits["train"]))]
    assert max(np.bincount(labels)) < len(labels) / 4
    assert all(min(image.size) <= LARGEST for image in splits["train"]._regions)


def test_names_are_unique_over_both_splits(splits):
    names = [source.name_of(i) for source in splits.values() for i in range(len(source))]
    assert len(set(names)) == len(names)
