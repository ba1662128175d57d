"""Reconstruction: its views are views of one and the same prediction."""

import itertools

import pytest
import torch

from losses import NormalisedPixelHead, Reconstruction
from losses.reconstruction import IMAGENET_MEAN, IMAGENET_STD, expand_to_pixels, patchify, unpatchify
from tests.losses.scenes import norm_scene, replaced, scene


@pytest.fixture(params=[scene, norm_scene], ids=["pixels", "normalised"])
def make(request):
    return request.param


def standardised(image):
    mean, std = (torch.tensor(v, dtype=image.dtype).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (image - mean) / std


@pytest.mark.parametrize(("size", "patch"), [((32, 32), 8), ((32, 48), 8), ((16, 64), 16), ((8, 12), 2)])
def test_patch_size_grid_and_width_follow_from_the_shapes(size, patch):
    r = scene(size=size, patch=patch)
    assert r.patch_size == patch
    assert r.grid == (size[0] // patch, size[1] // patch)
    assert r.values == 3 * patch * patch
    assert r.true_pixels.shape == r.pixels.shape == r.prediction.shape


def test_the_true_pixels_are_the_standardised_image_in_patches(make):
    r = make()
    assert torch.equal(r.true_pixels, patchify(standardised(r.image), r.patch_size))


def test_the_dataset_may_have_its_own_statistics():
    r = scene(mean=(0.0, 0.0, 0.0), std=torch.ones(3))
    assert torch.equal(r.true_pixels, patchify(r.image, r.patch_size))


def test_pixels_and_predicted_image_agree(make):
    r = make(dtype=torch.float64)
    torch.testing.assert_close(patchify(standardised(r.predicted_image), r.patch_size), r.pixels, rtol=0, atol=1e-13)


def test_composite_is_the_truth_where_visible_exactly(make):
    r = make()
    visible = ~r.hidden_pixels.expand_as(r.image)
    assert visible.any()
    for composite in (r.composite, r.oracle_composite):
        assert torch.equal(composite[visible], r.image[visible])


def test_composite_is_the_prediction_where_hidden_exactly(make):
    r = make()
    hidden = r.hidden_pixels.expand_as(r.image)
    assert hidden.any()
    assert torch.equal(r.composite[hidden], r.predicted_image[hidden])
    assert torch.equal(r.oracle_composite[hidden], r.as_image(r.oracle_pixels)[hidden])


def test_composite_of_a_half_precision_prediction_keeps_the_truth_exact():
    r = scene()
    half = replaced(r, prediction=r.prediction.bfloat16())
    visible = ~r.hidden_pixels.expand_as(r.image)
    assert torch.equal(half.composite[visible], r.image[visible])


def test_hidden_pixels_are_those_of_hidden_patches():
    r = scene()
    assert torch.equal(patchify(r.hidden_pixels, r.patch_size).all(-1), r.mask)
    assert torch.equal(patchify(r.hidden_pixels, r.patch_size).any(-1), r.mask)


def test_predictions_overshoot_and_are_not_clamped():
    r = scene()
    assert r.predicted_image.min() < 0 and r.predicted_image.max() > 1


def test_a_perfect_prediction_is_the_image(make):
    r = make(dtype=torch.float64)
    r = replaced(r, prediction=r.target)
    torch.testing.assert_close(r.as_image(r.oracle_pixels), r.image, rtol=0, atol=1e-14)
    torch.testing.assert_close(r.oracle_composite, r.image, rtol=0, atol=1e-14)


def test_the_judged_image_is_the_composite_or_the_whole_prediction():
    r = scene()
    assert torch.equal(r.at(r.prediction, "hidden").judged_image, r.composite)
    assert torch.equal(r.at(r.prediction, "all").judged_image, r.predicted_image)


def test_judged_mean_is_the_mean_over_patches_of_the_mean_over_values():
    r = scene(dtype=torch.float64)
    values = torch.rand_like(r.pixels)
    assert float(r.judged_mean(values)) == pytest.approx(float(values[r.mask].mean()), rel=1e-13)
    assert float(r.at(r.prediction, "all").judged_mean(values)) == pytest.approx(float(values.mean()), rel=1e-13)


def test_another_prediction_keeps_truth_mask_head_shift_and_statistics(make):
    r = make(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    other = r.at(torch.zeros_like(r.prediction), "all")
    assert other.over == "all" and other.head is r.head and other.shift == r.shift
    assert torch.equal(other.true_pixels, r.true_pixels)
    fresh = replaced(other, shift=r.shift)
    assert torch.equal(other.true_pixels, fresh.true_pixels)
    assert torch.equal(other.predicted_image, fresh.predicted_image)


def test_the_shift_is_drawn_from_torchs_generator_and_kept():
    torch.manual_seed(3)
    first, second = scene(), scene()
    shifts = [first.shift, second.shift]
    assert shifts[0] != shifts[1]
    assert first.shift == shifts[0]
    torch.manual_seed(3)
    assert [scene().shift, scene().shift] == shifts
    assert all(0 <= u < 1 for shift in shifts for u in shift)


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 32])
def test_every_shift_cuts_the_same_size_and_touches_every_patch(stride):
    steps = [i / 16 for i in range(16)]
    for shift in itertools.product(steps, steps):
        r = scene(1, shift=shift)
        number = torch.arange(r.mask.shape[1]).view(1, -1, 1).expand(-1, -1, r.values).float()
        numbers = replaced(r, prediction=number, mean=(0.0,) * 3, std=(1.0,) * 3).predicted_image
        window = r.shifted(numbers, stride)
        cut = min(stride, r.patch_size) - 1
        assert window.shape[2:] == (r.image.shape[2] - cut, r.image.shape[3] - cut)
        assert len(window.unique()) == r.mask.shape[1]


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_shifts_reach_every_position_of_a_critics_grid_equally_often(stride):
    columns = torch.arange(48.0).expand(1, 3, 32, 48)
    steps = [(i + 0.5) / 64 for i in range(64)]
    starts = [int(scene(1, shift=(0.0, u)).shifted(columns, stride)[0, 0, 0, 0]) for u in steps]
    assert [starts.count(s) for s in range(stride)] == [64 // stride] * stride


def test_views_are_computed_once():
    r = norm_scene()
    for view in ("pixels", "true_pixels", "predicted_image", "composite", "target", "patches", "oracle_pixels"):
        assert getattr(r, view) is getattr(r, view)


def test_a_prediction_in_double_precision_stays_there():
    r = scene(dtype=torch.float64)
    for view in ("pixels", "true_pixels", "predicted_image", "composite", "oracle_composite", "target", "judged"):
        assert getattr(r, view).dtype == torch.float64


def test_the_normalised_head_sees_the_standardised_truth():
    r = Reconstruction(torch.zeros(1, 4, 14), torch.rand(1, 3, 4, 4), torch.ones(1, 4).bool(), NormalisedPixelHead())
    mean = r.true_pixels.mean(-1, keepdim=True)
    std = (r.true_pixels.var(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(r.target, (r.true_pixels - mean) / std)


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
    assert torch.equal(expand_to_pixels(per_patch, grid, p), unpatchify(values, grid)[:, :1])
    assert expand_to_pixels(per_patch, grid, p).shape == (2, 1, *images.shape[2:])


def test_spread_keeps_a_mask_a_mask(case):
    _, p, grid = case
    mask = torch.rand(2, grid[0] * grid[1]) < 0.5
    assert expand_to_pixels(mask, grid, p).dtype == torch.bool
    assert expand_to_pixels(mask, grid, p).sum() == mask.sum() * p * p


def test_patchify_takes_any_number_of_channels():
    images = torch.rand(2, 5, 8, 12)
    each = [patchify(images[:, c : c + 1], 4) for c in range(5)]
    assert torch.equal(patchify(images, 4), torch.stack(each, -1).flatten(2))
