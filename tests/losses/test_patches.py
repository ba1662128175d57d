"""Patches: the official order, and back."""

import pytest
import torch

from losses.patches import patchify, spread, unpatchify

SHAPES = [((32, 32), 8), ((32, 48), 8), ((48, 16), 16), ((6, 4), 2), ((5, 3), 1), ((16, 16), 16)]


def official_patchify(images, p):
    """He et al. 2021, models_mae.py, for grids that need not be square."""
    h, w = images.shape[2] // p, images.shape[3] // p
    x = images.reshape(images.shape[0], 3, h, p, w, p)
    x = torch.einsum("nchpwq->nhwpqc", x)
    return x.reshape(images.shape[0], h * w, p**2 * 3)


@pytest.fixture(params=SHAPES, ids=str)
def case(request):
    size, p = request.param
    return torch.rand(2, 3, *size), p, (size[0] // p, size[1] // p)


def test_the_order_is_the_official_one(case):
    images, p, _ = case
    assert torch.equal(patchify(images, p), official_patchify(images, p))


def test_unpatchify_undoes_patchify(case):
    images, p, grid = case
    assert torch.equal(unpatchify(patchify(images, p), grid), images)


def test_patchify_undoes_unpatchify(case):
    images, p, grid = case
    patches = torch.rand_like(patchify(images, p))
    assert torch.equal(patchify(unpatchify(patches, grid), p), patches)


def test_a_patch_holds_the_pixels_of_its_place(case):
    images, p, (rows, columns) = case
    row, column = rows - 1, columns // 2
    place = images[:, :, row * p : (row + 1) * p, column * p : (column + 1) * p]
    assert torch.equal(patchify(images, p)[:, row * columns + column], place.permute(0, 2, 3, 1).flatten(1))


def test_spread_gives_every_pixel_its_patches_value(case):
    images, p, grid = case
    per_patch = torch.rand(2, grid[0] * grid[1])
    values = per_patch[..., None].expand(-1, -1, 3 * p * p)
    assert torch.equal(spread(per_patch, grid, p), unpatchify(values, grid)[:, :1])
    assert spread(per_patch, grid, p).shape == (2, 1, *images.shape[2:])


def test_spread_keeps_a_mask_a_mask(case):
    _, p, grid = case
    mask = torch.rand(2, grid[0] * grid[1]) < 0.5
    assert spread(mask, grid, p).dtype == torch.bool
    assert spread(mask, grid, p).sum() == mask.sum() * p * p


def test_patchify_takes_any_number_of_channels():
    images = torch.rand(2, 5, 8, 12)
    each = [patchify(images[:, c : c + 1], 4) for c in range(5)]
    assert torch.equal(patchify(images, 4), torch.stack(each, -1).flatten(2))
