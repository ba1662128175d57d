"""Sharpness of hidden patches: against scipy and scikit-image, closed forms, and what blur, seams and masks may do."""

import math

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
from kornia.filters import filter2d, spatial_gradient
from skimage.color import rgb2gray
from skimage.filters import sobel_h, sobel_v
from skimage.measure import blur_effect as blur_effect_of_scikit_image

from recon.metrics.base import METRICS, Pair, Undefined
from recon.metrics.sharpness import (
    blur_effect,
    box_size,
    brenner,
    hidden_mean,
    mean_gradient_magnitude,
    tenengrad,
    variance_of_laplacian,
)
from tests.recon.metrics.scenes import PHOTOGRAPHS, batch, colours, cut, luminance, somewhere, whole

FUNCTIONS = [variance_of_laplacian, tenengrad, brenner, mean_gradient_magnitude, blur_effect]
SHARPNESS = [METRICS[function.__name__] for function in FUNCTIONS]
every_photograph = pytest.mark.parametrize("name", PHOTOGRAPHS)
every_function = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)


def textbook(function, image: np.ndarray) -> np.ndarray:
    """Responses of another library, less the rim that needs padding; the number is their variance or mean."""
    if function is variance_of_laplacian:
        return ndi.laplace(image)[1:-1, 1:-1]
    if function is tenengrad:
        return ((ndi.sobel(image, 0) ** 2 + ndi.sobel(image, 1) ** 2) / 64)[1:-1, 1:-1]
    if function is brenner:
        return (image[:, 2:] - image[:, :-2]) ** 2
    return np.hypot(np.diff(image, axis=0)[:, :-1], np.diff(image, axis=1)[:-1])


def pooled(function, responses: np.ndarray) -> float:
    return responses.var() if function is variance_of_laplacian else responses.mean()


# Other libraries ----------------------------------------------------------------------------------------------


@every_photograph
@pytest.mark.parametrize("function", FUNCTIONS[:-1], ids=lambda f: f.__name__)
def test_an_image_of_one_patch_gives_the_textbook_s_number(function, name):
    image = luminance(name)
    assert whole(function, image) == pytest.approx(pooled(function, textbook(function, image)), rel=1e-12)


@every_photograph
@pytest.mark.parametrize("function", FUNCTIONS[:-1], ids=lambda f: f.__name__)
def test_responses_of_all_hidden_patches_are_pooled(function, name):
    patches = cut(luminance(name))
    hidden = somewhere(patches)
    responses = np.stack([textbook(function, patch.numpy()) for patch in patches[hidden]])
    assert function(patches, hidden).item() == pytest.approx(pooled(function, responses), rel=1e-12)


def test_gradient_and_laplacian_are_kornia_s_off_the_rim():
    patches, hidden = batch()
    images = patches.flatten(0, 1)[:, None]
    gradients = spatial_gradient(images)[..., 1:-1, 1:-1].squeeze(1).view(*patches.shape[:2], 2, 14, 14)
    expected = hidden_mean(gradients[:, :, 0].square(), hidden) + hidden_mean(gradients[:, :, 1].square(), hidden)
    torch.testing.assert_close(tenengrad(patches, hidden), expected, rtol=1e-10, atol=0)
    four_neighbours = torch.tensor([[[0, 1, 0], [1, -4, 1], [0, 1, 0]]], dtype=patches.dtype)
    responses = filter2d(images, four_neighbours, padding="valid").view(*patches.shape[:2], 14, 14)
    expected = torch.stack(
        [response[where].var(correction=0) for response, where in zip(responses, hidden, strict=True)]
    )
    torch.testing.assert_close(variance_of_laplacian(patches, hidden), expected, rtol=1e-10, atol=0)


@every_photograph
@pytest.mark.parametrize("sigma", [0, 0.8, 3])
def test_blur_effect_is_scikit_image_s(name, sigma):
    image = ndi.gaussian_filter(luminance(name), sigma)
    for view in (image, image.T, image[:41, :37]):
        assert whole(blur_effect, view.copy()) == pytest.approx(blur_effect_of_scikit_image(view), rel=1e-10)


@pytest.mark.parametrize("p", [4, 5, 6, 7, 8, 10, 11, 12, 14, 16])
def test_blur_effect_of_a_small_patch_is_scikit_image_s_with_the_box_that_fits(p):
    patch = luminance("chelsea")[120 : 120 + p, 100 : 100 + p]
    size = box_size(torch.from_numpy(patch))
    assert size == {4: 3, 5: 5, 6: 5, 7: 7, 8: 7, 10: 9}.get(p, 11)
    assert whole(blur_effect, patch) == pytest.approx(blur_effect_of_scikit_image(patch, h_size=size), rel=1e-10)


@every_photograph
def test_blur_effect_adds_up_gradients_before_it_divides_them(name):
    patches = cut(luminance(name))
    hidden = somewhere(patches)
    shares = []
    for axis, derivative in enumerate((sobel_h, sobel_v)):
        before = [np.abs(derivative(patch))[2:-1, 2:-1] for patch in patches[hidden].numpy()]
        blurred = [ndi.uniform_filter1d(patch, 11, axis=axis) for patch in patches[hidden].numpy()]
        after = [np.abs(derivative(patch))[2:-1, 2:-1] for patch in blurred]
        shares.append(np.minimum(before, after).sum() / np.sum(before))
    assert blur_effect(patches, hidden).item() == pytest.approx(max(shares), rel=1e-10)


# Closed forms -------------------------------------------------------------------------------------------------


def test_a_slope_has_the_sharpness_of_its_gradient():
    y, x = np.mgrid[:16, :16]
    slope = 0.1 + 0.02 * x - 0.03 * y
    assert whole(variance_of_laplacian, slope) == pytest.approx(0, abs=1e-28)
    assert whole(tenengrad, slope) == pytest.approx(0.02**2 + 0.03**2, rel=1e-12)
    assert whole(brenner, slope) == pytest.approx(0.04**2, rel=1e-12)
    assert whole(mean_gradient_magnitude, slope) == pytest.approx(math.hypot(0.02, 0.03), rel=1e-12)


def test_laplacians_vary_about_the_mean_of_the_image_not_of_the_patch():
    x = torch.arange(16).double()
    bowls = torch.stack([a * x**2 * torch.ones(16, 1).double() for a in (0.001, 0.003)])[None]
    expected = (0.003 - 0.001) ** 2  # the patches' Laplacians are 2a everywhere
    assert variance_of_laplacian(bowls, torch.ones(1, 2, dtype=torch.bool)).item() == pytest.approx(expected, rel=1e-10)


def test_forward_differences_see_what_alternates_between_pixels():
    chequers = (np.indices((16, 16)).sum(0) % 2).astype(float)
    assert whole(tenengrad, chequers) == whole(brenner, chequers) == 0
    assert whole(mean_gradient_magnitude, chequers) == pytest.approx(2**0.5, rel=1e-12)


@pytest.mark.parametrize("level", [0, 0.3, 1])
def test_a_flat_patch_has_no_detail_and_nothing_to_lose(level):
    flat = np.full((16, 16), float(level))
    assert [whole(function, flat) for function in FUNCTIONS] == [0, 0, 0, 0, 1]
    assert blur_effect_of_scikit_image(flat) == 1


def test_contrast_counts_except_in_blur_effect_and_brightness_never():
    patches, hidden = batch()
    for function, power in zip(FUNCTIONS, (2, 2, 2, 1, 0), strict=True):
        changed = function(0.25 + 0.5 * patches, hidden)
        torch.testing.assert_close(changed, 0.5**power * function(patches, hidden), rtol=1e-10, atol=0)


# Blur and seams -----------------------------------------------------------------------------------------------


@every_photograph
@every_function
def test_sharpness_falls_with_every_step_of_gaussian_blur(function, name):
    image = luminance(name)
    hidden = somewhere(cut(image))
    sigmas = (0, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6)
    numbers = [function(cut(ndi.gaussian_filter(image, sigma)), hidden).item() for sigma in sigmas]
    assert numbers == sorted(numbers, reverse=function is not blur_effect)
    assert len(set(numbers)) == len(sigmas)


@every_photograph
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mosaic_of_patch_means_has_no_detail_at_all(name, dtype):
    truth = torch.from_numpy(colours(name)).permute(2, 0, 1)[None].to(dtype)
    means = torch.nn.functional.avg_pool2d(truth, 16)
    mosaic = means.repeat_interleave(16, 2).repeat_interleave(16, 3)
    pair = Pair(mosaic, truth, somewhere(means.flatten(2).mT))
    assert [metric(pair).item() for metric in SHARPNESS] == pytest.approx([0, 0, 0, 0, 1], abs=1e-6)
    if name != "coffee":  # and the whole image's number is taken in
        assert blur_effect_of_scikit_image(rgb2gray(mosaic[0].permute(1, 2, 0).double().numpy())) < whole(
            blur_effect, luminance(name)
        )


def test_rounding_of_single_precision_is_not_detail():
    noise = torch.rand(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    nearly_flat = 0.7 + 2e-7 * noise
    assert nearly_flat.unique().numel() > 1
    assert blur_effect(nearly_flat, torch.ones(1, 4, dtype=torch.bool)).item() == 1


# Masks and batches --------------------------------------------------------------------------------------------


@every_function
def test_every_image_is_judged_alone(function):
    patches, hidden = batch()
    alone = torch.cat([function(patches[i : i + 1], hidden[i : i + 1]) for i in range(len(patches))])
    torch.testing.assert_close(function(patches, hidden), alone, rtol=1e-13, atol=0)
    assert alone.shape == (3,) and alone.unique().numel() == 3


@every_function
def test_visible_patches_change_nothing(function):
    patches, hidden = batch()
    expected = function(patches, hidden)
    for other in (torch.zeros_like(patches), torch.rand_like(patches), torch.full_like(patches, torch.nan)):
        assert torch.equal(function(torch.where(hidden[..., None, None], patches, other), hidden), expected)


@every_function
def test_each_hidden_patch_changes_something(function):
    patches, hidden = batch()
    changed = patches.clone()
    changed[torch.arange(3), hidden.int().argmax(1)] = torch.rand(16, 16, dtype=patches.dtype)
    assert (function(changed, hidden) != function(patches, hidden)).all()


@every_function
def test_the_order_of_patches_does_not_matter(function):
    patches, hidden = batch()
    order = torch.randperm(patches.shape[1], generator=torch.Generator().manual_seed(2))
    shuffled = function(patches[:, order], hidden[:, order])
    torch.testing.assert_close(shuffled, function(patches, hidden), rtol=1e-12, atol=0)


@every_function
def test_an_image_with_nothing_hidden_has_no_number_and_spares_the_others(function):
    patches, hidden = batch()
    expected = function(patches, hidden)
    hidden[1] = False
    found = function(patches, hidden)
    assert found.isnan().tolist() == [False, True, False]
    assert torch.equal(found[::2], expected[::2])


@every_function
def test_what_is_not_a_number_in_a_hidden_patch_stays_so(function):
    patches, hidden = batch()
    patches[2, hidden[2].int().argmax(), 8, 8] = torch.nan
    assert function(patches, hidden).isnan().tolist() == [False, False, True]


@every_function
def test_single_precision_is_enough(function):
    patches, hidden = batch()
    single = function(patches.float(), hidden)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), function(patches, hidden), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("function", "side"), list(zip(FUNCTIONS, (3, 3, 3, 2, 4), strict=True)))
def test_a_patch_below_the_filter_is_refused(function, side):
    hidden = torch.ones(1, 9, dtype=torch.bool)
    assert function(torch.rand(1, 9, side, side), hidden).isfinite()
    with pytest.raises(Undefined, match=f"^patches below {side} pixels$"):
        function(torch.rand(1, 9, side - 1, side - 1), hidden)


def test_metrics_read_the_reconstruction_s_hidden_patches():
    truth = torch.from_numpy(np.stack([colours(name) for name in PHOTOGRAPHS])).permute(0, 3, 1, 2)
    image = torch.from_numpy(np.stack([ndi.gaussian_filter(colours(n), (1, 1, 0)) for n in PHOTOGRAPHS]))
    hidden = somewhere(batch()[0])
    pair = Pair(image.permute(0, 3, 1, 2), truth, hidden)
    patches = torch.cat([cut(rgb2gray(x)) for x in image.numpy()])
    for metric, function in zip(SHARPNESS, FUNCTIONS, strict=True):
        torch.testing.assert_close(metric(pair), function(patches, hidden), rtol=1e-10, atol=0)
        assert metric.better == "truth" and not metric.paired


def test_ranges_hold_for_the_wildest_patches():
    generator = torch.Generator().manual_seed(4)
    wild = torch.rand(64, 4, 8, 8, generator=generator).round()
    stripes, chequers = (
        (torch.arange(8) % 4 > 1).float().expand(8, 8),
        (torch.arange(64).view(8, 8) * 9 // 8 % 2).float(),
    )
    wild[:4] = stripes
    wild[4:8] = chequers
    for metric, function in zip(SHARPNESS, FUNCTIONS, strict=True):
        numbers = function(wild, torch.ones(64, 4, dtype=torch.bool))
        assert metric.low <= numbers.min() and numbers.max() <= metric.high * (1 + 1e-6)
