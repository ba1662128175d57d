"""The spectrum of hidden patches, against scipy and closed forms."""

import math
from functools import cache

import numpy as np
import pytest
import scipy.fft
import skimage.data
import torch
from skimage.filters import gaussian

from losses.reconstruction import patchify
from recon.metrics.base import METRICS, Pair, Undefined
from recon.metrics.spectrum import (
    QUANTISATION,
    band_frequency,
    band_power,
    bands,
    dct2,
    high_frequency_share,
    log_spectral_distance,
    spectral_slope,
)

SPECTRUM = [METRICS[name] for name in ("high_frequency_share", "spectral_slope", "log_spectral_distance")]
PHOTOGRAPHS = ["astronaut", "chelsea", "coffee"]


@cache
def photograph(name: str, blur: float = 0) -> torch.Tensor:
    """(1, 3, 256, 256) in [0, 1]."""
    pixels = getattr(skimage.data, name)()[:256, 100:356] / 255
    if blur:
        pixels = gaussian(pixels, blur, channel_axis=2)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float()


def random_mask(b: int, n: int, share: float = 0.75) -> torch.Tensor:
    return torch.rand(b, n, generator=torch.Generator().manual_seed(0)) < share


def photographs(p: int, blur: float = 0) -> Pair:
    truth = torch.cat([photograph(name) for name in PHOTOGRAPHS])
    image = torch.cat([photograph(name, blur) for name in PHOTOGRAPHS])
    return Pair(image, truth, random_mask(3, (256 // p) ** 2))


def from_coefficients(coefficients: np.ndarray) -> torch.Tensor:
    """Patches with these DCT coefficients: (..., p, p) -> (1, N, p, p)."""
    patches = torch.from_numpy(scipy.fft.idctn(coefficients, axes=(-2, -1), norm="ortho"))
    return patches.reshape(1, -1, *patches.shape[-2:])


def all_hidden(patches: torch.Tensor) -> torch.Tensor:
    return torch.ones(patches.shape[:2], dtype=torch.bool)


@pytest.mark.parametrize("p", [4, 7, 8, 16])
def test_the_transform_is_scipy_s(p):
    patches = photographs(16).grey_patches.double()[..., :p, :p]
    expected = scipy.fft.dctn(patches.numpy(), axes=(-2, -1), norm="ortho")
    np.testing.assert_allclose(dct2(patches).numpy(), expected, rtol=0, atol=1e-13)
    assert dct2(patches.float()).dtype == torch.float32
    np.testing.assert_allclose(dct2(patches.float()).numpy(), expected, rtol=0, atol=1e-5)


def test_bands_are_rings_and_the_mean_is_alone():
    assert bands(4).tolist() == [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 3, 3], [3, 3, 3, 3]]
    for p in (8, 16, 32):
        assert (bands(p) == 0).sum() == 1 and bands(p)[0, 0] == 0
        assert bands(p)[0].tolist() == bands(p)[:, 0].tolist() == list(range(p))
        assert bands(p).max() == p - 1


def test_band_frequencies_count_cycles_per_pixel():
    """The cosine of band k across a patch of p pixels makes k / 2 periods on them."""
    assert band_frequency(8).tolist() == [k / 16 for k in range(8)]


@pytest.mark.parametrize("p", [8, 16])
def test_band_power_is_the_mean_square_over_hidden_patches_and_the_band(p):
    pair = photographs(p)
    found, ring = band_power(pair.grey_patches, pair.mask), bands(p).numpy()
    for i, (patches, hidden) in enumerate(zip(pair.grey_patches.numpy(), pair.mask.numpy(), strict=True)):
        square = scipy.fft.dctn(patches[hidden].astype(float), axes=(-2, -1), norm="ortho") ** 2
        expected = [square[:, ring == r].mean() for r in range(p)]
        np.testing.assert_allclose(found[i].numpy(), expected, rtol=1e-11)


@pytest.mark.parametrize(("u", "v", "share"), [(0, 1, 0), (4, 0, 0), (3, 3, 1), (0, 5, 1), (7, 7, 1), (2, 3, 0)])
def test_one_cosine_is_low_or_high(u, v, share):
    """Of 8 pixels: 4 half periods are half of Nyquist, which is not above it."""
    coefficients = np.zeros((1, 8, 8))
    coefficients[0, u, v], coefficients[0, 0, 0] = 0.3, 4
    patches = from_coefficients(coefficients)
    assert high_frequency_share(patches, all_hidden(patches)).item() == pytest.approx(share, abs=1e-12)


def test_the_share_of_flat_power_is_the_share_of_coefficients():
    patches = from_coefficients(0.1 * np.random.default_rng(0).choice([-1, 1], size=(20, 8, 8)))
    order = np.arange(8)
    high = np.sqrt(order[:, None] ** 2 + order**2) > 4
    found = high_frequency_share(patches, all_hidden(patches)).item()
    assert found == pytest.approx(high.sum() / 63, rel=1e-12)


@pytest.mark.parametrize("p", [8, 16])
@pytest.mark.parametrize("exponent", [0, 1, 2, 3])
def test_the_slope_of_a_power_law_is_its_exponent(p, exponent):
    """Exactly for white power; else to what unequal coefficients of one band bend it."""
    order = np.arange(p)
    radius = np.maximum(np.sqrt(order[:, None] ** 2 + order**2), 1)
    patches = from_coefficients(10 * radius[None] ** (-exponent / 2))
    slope = spectral_slope(patches, all_hidden(patches)).item()
    assert slope == pytest.approx(-exponent, abs=1e-9 if exponent == 0 else 0.04 * exponent)


@pytest.mark.parametrize("exponent", [1, 2, 3])
def test_the_slope_of_a_random_field_is_near_its_exponent(exponent):
    """Cut into patches, a field's slope is somewhat flatter."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(512), np.fft.fftfreq(512)))
    frequency[0, 0] = 1
    noise = np.random.default_rng(0).normal(size=(512, 512))
    field = np.fft.ifft2(np.fft.fft2(noise) * frequency ** (-exponent / 2)).real
    patches = patchify(torch.from_numpy(field / field.std())[None, None], 16).unflatten(2, (16, 16))
    assert -exponent < spectral_slope(patches, all_hidden(patches)).item() < -exponent + 0.25


def test_photographs_fall_about_as_the_square_of_frequency():
    pair = photographs(16)
    slopes = spectral_slope(pair.true_grey_patches, pair.mask)
    assert (slopes > -3).all() and (slopes < -1.5).all()


@pytest.mark.parametrize("contrast", [0.5, 0.9, 2.0])
def test_the_distance_of_a_change_in_contrast_is_its_decibels(contrast):
    """On values so large that the power of rounding is nothing."""
    pair = photographs(8)
    true = 1e4 * pair.true_grey_patches.double()
    found = log_spectral_distance(contrast * true, true, pair.mask)
    assert torch.allclose(found, torch.tensor(abs(20 * math.log10(contrast))).double(), atol=1e-5)


def test_the_distance_is_the_root_mean_square_over_bands():
    coefficients = np.ones((1, 4, 4))
    changed = coefficients * np.sqrt(10.0) ** (bands(4).numpy() - 1)  # 0, 10 and 20 dB in the three bands
    patches, true = (from_coefficients(1e3 * c) for c in (changed, coefficients))
    expected = math.sqrt((0**2 + 10**2 + 20**2) / 3)
    assert log_spectral_distance(patches, true, all_hidden(patches)).item() == pytest.approx(expected, abs=1e-6)


def test_flat_patches_are_as_far_as_rounding_allows():
    pair = photographs(8)
    true = band_power(pair.true_grey_patches, pair.mask)[:, 1:]
    flat = pair.true_grey_patches.mean((-2, -1), keepdim=True).expand_as(pair.true_grey_patches)
    expected = (10 * ((true + QUANTISATION) / QUANTISATION).log10()).square().mean(1).sqrt()
    assert torch.allclose(log_spectral_distance(flat, pair.true_grey_patches, pair.mask), expected, atol=1e-4)


def test_a_mosaic_of_patch_means_has_no_detail():
    truth = photographs(8)
    mosaic = torch.nn.functional.avg_pool2d(truth.truth, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    pair = Pair(mosaic, truth.truth, truth.mask)
    assert high_frequency_share(pair.grey_patches, pair.mask).tolist() == [0, 0, 0]
    assert spectral_slope(pair.grey_patches, pair.mask).isnan().all()


@pytest.mark.parametrize("p", [8, 16])
def test_blur_takes_high_frequencies_away_step_by_step(p):
    pairs = [photographs(p, blur) for blur in (0, 0.4, 0.7, 1, 1.5)]
    shares = torch.stack([high_frequency_share(pair.grey_patches, pair.mask) for pair in pairs])
    slopes = torch.stack([spectral_slope(pair.grey_patches, pair.mask) for pair in pairs])
    distances = torch.stack(
        [log_spectral_distance(pair.grey_patches, pair.true_grey_patches, pair.mask) for pair in pairs]
    )
    assert (shares.diff(dim=0) < 0).all() and (slopes.diff(dim=0) < 0).all()
    assert (distances[0] == 0).all() and (distances.diff(dim=0) > 0).all()


def test_brightness_does_not_count():
    pair = photographs(8)
    patches, true = pair.grey_patches.double(), pair.true_grey_patches.double()
    for metric in (high_frequency_share, spectral_slope):
        assert torch.allclose(metric(patches + 0.3, pair.mask), metric(patches, pair.mask), rtol=1e-10, atol=0)
    assert (log_spectral_distance(true + 0.3, true, pair.mask) < 1e-8).all()


@pytest.mark.parametrize("metric", SPECTRUM, ids=lambda metric: metric.name)
def test_visible_patches_change_nothing(metric):
    pair = photographs(8, blur=1)
    repainted = Pair(pair.image, torch.where(pair.hidden, pair.truth, 1 - pair.truth), pair.mask)
    assert torch.equal(metric(pair), metric(repainted)) and metric(pair).isfinite().all()


@pytest.mark.parametrize("metric", SPECTRUM, ids=lambda metric: metric.name)
def test_every_image_is_judged_alone(metric):
    pair = photographs(8, blur=1)
    alone = [metric(Pair(*(x[i : i + 1] for x in (pair.image, pair.truth, pair.mask)))) for i in range(3)]
    assert metric(pair).shape == (3,) and torch.allclose(metric(pair), torch.cat(alone), rtol=1e-12, atol=0)


@pytest.mark.parametrize("metric", SPECTRUM, ids=lambda metric: metric.name)
def test_an_image_without_a_value_has_nan_alone(metric):
    """One with nothing hidden, and one with NaN in its prediction."""
    pair = photographs(8, blur=1)
    image, mask = pair.image.clone(), pair.mask.clone()
    mask[0], image[1] = False, math.nan
    values = metric(Pair(image, pair.truth, mask))
    assert values.isnan().tolist() == [True, True, False] and values[2] == metric(pair)[2]


@pytest.mark.parametrize("metric", SPECTRUM, ids=lambda metric: metric.name)
def test_black_images_have_a_defined_answer(metric):
    black = torch.zeros(2, 3, 16, 16)
    values = metric(Pair(black, black, torch.ones(2, 4, dtype=torch.bool)))
    expected = math.nan if metric.name == "spectral_slope" else 0
    assert np.array_equal(values.numpy(), [expected] * 2, equal_nan=True)


@pytest.mark.parametrize("metric", SPECTRUM, ids=lambda metric: metric.name)
def test_patches_below_four_pixels_have_no_spectrum(metric):
    images = torch.rand(1, 3, 6, 6)
    with pytest.raises(Undefined, match="patches below 4 pixels"):
        metric(Pair(images, images, torch.ones(1, 4, dtype=torch.bool)))
