"""SSIM and MS-SSIM on photographs, against scikit-image, SciPy and torchmetrics."""

from functools import cache

import numpy as np
import pytest
import skimage.data
import torch
from scipy.ndimage import gaussian_filter
from skimage.measure import block_reduce
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from recon.metrics import chunks, structure
from recon.metrics.pair import Pair
from recon.metrics.passport import Undefined
from recon.metrics.structure import C1, SCALE_WEIGHTS, STRUCTURE, comparisons, ms_ssim, scales_for, ssim, ssim_map

NAMES = ["astronaut", "chelsea", "coffee"]
SETTINGS = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1, "channel_axis": 0}
BOTH = pytest.mark.parametrize("metric", [ssim, ms_ssim])


@cache
def whole(name: str) -> torch.Tensor:
    return torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)[None].double() / 255


def photograph(name: str, size: tuple[int, int] = (112, 150)) -> torch.Tensor:
    return whole(name)[..., : size[0], -size[1] :].clone()


def photographs(size: tuple[int, int] = (64, 96)) -> torch.Tensor:
    return torch.cat([photograph(name, size) for name in NAMES])


def noisy(truth: torch.Tensor, deviation: float) -> torch.Tensor:
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (truth + deviation * noise.to(truth.dtype)).clamp(0, 1)


def blurred(truth: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.from_numpy(gaussian_filter(truth.numpy(), (0, 0, sigma, sigma)))


def mask_of(images: torch.Tensor, patch: int = 8, share: float = 0.75) -> torch.Tensor:
    """(B, N) bool."""
    patches = images.shape[2] * images.shape[3] // patch**2
    return torch.rand(len(images), patches, generator=torch.Generator().manual_seed(0)) < share


def hidden_in(images: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W) bool: single pixels, so that no two scales see the same share."""
    shape = (len(images), 1, *images.shape[2:])
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.6


def everywhere(images: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(images), 1, *images.shape[2:], dtype=torch.bool)


DEGRADED = {
    "noise": lambda truth: noisy(truth, 0.05),
    "slight noise": lambda truth: noisy(truth, 0.002),
    "blur": lambda truth: blurred(truth, 2),
    "negative": lambda truth: 1 - truth,
    "black": torch.zeros_like,
}


# SSIM


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", DEGRADED)
def test_the_map_is_scikit_image_s_with_its_borders(name, kind):
    truth = photograph(name)
    image = DEGRADED[kind](truth)
    _, expected = structural_similarity(image[0].numpy(), truth[0].numpy(), full=True, **SETTINGS)
    np.testing.assert_allclose(ssim_map(image, truth)[0], expected.mean(0), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", DEGRADED)
def test_single_precision_is_enough_for_every_pixel(name, kind):
    truth = photograph(name)
    image = DEGRADED[kind](truth).float()
    values = ssim_map(image, truth.float())
    _, expected = structural_similarity(
        image[0].double().numpy(), truth[0].float().double().numpy(), full=True, **SETTINGS
    )
    assert values.dtype == torch.float32
    np.testing.assert_allclose(values[0], expected.mean(0), rtol=0, atol=1e-6)


def test_single_precision_is_enough_where_it_is_flat_and_bright():
    truth = torch.full((1, 3, 32, 32), 0.93)
    image = noisy(truth, 0.0005)
    assert float((ssim_map(image, truth) - ssim_map(image.double(), truth.double())).abs().max()) < 1e-6


def test_the_smallest_image_is_one_window():
    truth = photograph("coffee", (11, 13))
    image = noisy(truth, 0.1)
    _, expected = structural_similarity(image[0].numpy(), truth[0].numpy(), full=True, **SETTINGS)
    np.testing.assert_allclose(ssim_map(image, truth)[0], expected.mean(0), rtol=0, atol=1e-11)


@BOTH
@pytest.mark.parametrize("size", [(10, 40), (40, 10)])
def test_an_image_smaller_than_the_window_has_no_value(metric, size):
    truth = photograph("coffee", size)
    with pytest.raises(Undefined, match="below 11 pixels"):
        metric(truth, truth, everywhere(truth))


@pytest.mark.parametrize("name", NAMES)
def test_scikit_image_s_mean_is_that_of_a_hidden_middle(name):
    truth = photograph(name)
    image, hidden = noisy(truth, 0.05), torch.zeros(1, 1, 112, 150, dtype=torch.bool)
    hidden[..., 5:-5, 5:-5] = True
    expected = structural_similarity(image[0].numpy(), truth[0].numpy(), **SETTINGS)
    assert ssim(image, truth, hidden).item() == pytest.approx(expected, rel=1e-12)
    assert ssim(image.float(), truth.float(), hidden).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("sizes", [(56, 57), (113, 112), (64, 64)])
def test_the_window_s_matrix_may_be_cut_anywhere(sizes, monkeypatch):
    truth = photograph("chelsea", sizes)
    image = noisy(truth, 0.1)
    maps = []
    for rows in (7, 56, 1000):
        monkeypatch.setattr(structure, "BLOCK", rows)
        maps.append(ssim_map(image, truth))
    for found in maps[1:]:
        torch.testing.assert_close(found, maps[0], rtol=0, atol=1e-12)


# MS-SSIM


def expected_ms_ssim(image: np.ndarray, truth: np.ndarray, hidden: np.ndarray, scales: int) -> float:
    """By scikit-image's maps and SciPy's filter: (3, H, W) twice and (H, W)."""
    terms, share = [], hidden.astype(float)
    for scale in range(scales):
        if scale:
            even = tuple(slice(2 * (n // 2)) for n in share.shape)
            image, truth = (block_reduce(x[:, *even], (1, 2, 2), np.mean) for x in (image, truth))
            share = block_reduce(share[even], (2, 2), np.mean)
        _, both = structural_similarity(image, truth, full=True, **SETTINGS)
        x, y = (gaussian_filter(z, (0, 1.5, 1.5), truncate=3.5) for z in (image, truth))
        luminance = (2 * x * y + C1) / (x * x + y * y + C1)
        term = both if scale == scales - 1 else both / luminance
        terms.append(max(0, np.average(term.mean(0), weights=share)))
    weights = np.array(SCALE_WEIGHTS[:scales]) * (1.0001 / sum(SCALE_WEIGHTS[:scales]))
    return float(np.prod(np.array(terms) ** weights))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("size", "scales"), [((16, 20), 1), ((64, 64), 3), ((113, 151), 4), ((176, 201), 5)])
@pytest.mark.parametrize("kind", ["noise", "blur"])
def test_ms_ssim_is_made_of_scikit_image_s_maps_over_hidden_area(name, size, scales, kind):
    truth = photograph(name, size)
    image, hidden = DEGRADED[kind](truth), hidden_in(truth)
    expected = expected_ms_ssim(image[0].numpy(), truth[0].numpy(), hidden[0, 0].numpy(), scales)
    assert ms_ssim(image, truth, hidden).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_ms_ssim_is_torchmetrics_but_for_the_border(name):
    """In an even frame mirrors agree; cut as torchmetrics cuts them, the same terms then give its very number."""
    frame, betas = 40, SCALE_WEIGHTS[:3]
    photo = photograph(name, (48, 64))
    image, truth = (torch.nn.functional.pad(x, [frame] * 4, value=0.5) for x in (noisy(photo, 0.1), photo))
    expected = multiscale_structural_similarity_index_measure(image, truth, data_range=1.0, betas=betas).item()
    found = 1.0
    for scale, weight in enumerate(betas):
        luminance, contrast = comparisons(image, truth)
        term = contrast[..., 5:-5, 5:-5] if scale < 2 else luminance * contrast
        found *= term.mean().item() ** weight
        image, truth = (torch.nn.functional.avg_pool2d(x, 2) for x in (image, truth))
    assert found == pytest.approx(expected, rel=1e-8)  # its exponents are float32


@pytest.mark.parametrize(("name", "kind"), [("astronaut", "noise"), ("chelsea", "blur"), ("coffee", "blur")])
def test_ms_ssim_of_a_whole_photograph_is_near_torchmetrics(name, kind):
    """Its border, 5 pixels a side, is 9% of the finest map and 59% of the fourth scale's."""
    truth = photograph(name, (224, 224))
    image = DEGRADED[kind](truth)
    expected = multiscale_structural_similarity_index_measure(image, truth, data_range=1.0).item()
    assert ms_ssim(image, truth, everywhere(truth)).item() == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize(
    ("size", "scales"),
    [(10, 0), (11, 1), (21, 1), (22, 2), (43, 2), (44, 3), (64, 3), (88, 4), (175, 4), (176, 5), (999, 5)],
)
def test_as_many_scales_are_used_as_hold_a_window(size, scales):
    assert scales_for(size, size) == scales_for(1000, size) == scales_for(size, 1000) == scales


@pytest.mark.parametrize(("size", "scales"), [(16, 1), (32, 2), (64, 3), (96, 4), (192, 5)])
def test_flat_images_show_the_exponent_of_the_coarsest_scale(size, scales):
    image, truth = (torch.full((1, 3, size, size), value, dtype=torch.float64) for value in (0.2, 0.6))
    luminance = (2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4)
    exponent = SCALE_WEIGHTS[scales - 1] / sum(SCALE_WEIGHTS[:scales]) * 1.0001
    assert ms_ssim(image, truth, everywhere(truth)).item() == pytest.approx(luminance**exponent, rel=1e-9)


def test_a_negative_is_nothing_alike():
    truth = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert (ssim(1 - truth, truth, everywhere(truth)) < -0.9).all()
    assert torch.equal(ms_ssim(1 - truth, truth, everywhere(truth)), torch.zeros(2, dtype=torch.float64))


# Both


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_truth_is_exactly_one(metric, dtype):
    truth = photographs().to(dtype)
    value = metric(truth, truth, hidden_in(truth))
    assert value.dtype == dtype
    torch.testing.assert_close(value, torch.ones(3, dtype=dtype), rtol=0, atol=4 * torch.finfo(dtype).eps)


@BOTH
def test_image_and_truth_may_change_places(metric):
    truth = photographs()
    image, hidden = noisy(truth, 0.1), hidden_in(truth)
    torch.testing.assert_close(metric(image, truth, hidden), metric(truth, image, hidden), rtol=1e-12, atol=0)


@BOTH
def test_every_image_is_judged_alone(metric, monkeypatch):
    truth = photographs()
    image, hidden = noisy(truth, 0.1), hidden_in(truth)
    alone = torch.cat([metric(image[i : i + 1], truth[i : i + 1], hidden[i : i + 1]) for i in range(3)])
    for pixels in (1, 2 * 64 * 96, 3 * 64 * 96):  # one image at a time, two, all
        monkeypatch.setattr(chunks, "CHUNK_PIXELS", pixels)
        torch.testing.assert_close(metric(image, truth, hidden), alone, rtol=1e-12, atol=0)


@BOTH
def test_single_precision_is_near_double(metric):
    truth = photographs()
    image, hidden = noisy(truth, 0.1), hidden_in(truth)
    single = metric(image.float(), truth.float(), hidden)
    torch.testing.assert_close(single.double(), metric(image, truth, hidden), rtol=0, atol=1e-6)


@BOTH
def test_flat_and_black_images_have_a_value(metric):
    for grey in (0.0, 0.5, 1.0):
        flat = torch.full((1, 3, 64, 64), grey)
        assert metric(flat, flat, everywhere(flat)).item() == 1
    assert 0 <= metric(torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64), everywhere(flat)).item() < 0.5


@BOTH
def test_an_image_without_a_value_leaves_the_others_theirs(metric):
    truth = photographs()
    image, hidden = noisy(truth, 0.1), hidden_in(truth)
    expected = metric(image, truth, hidden)[2]
    image[0, 1, 30, 40], hidden[1] = torch.nan, False
    value = metric(image, truth, hidden)
    assert value[:2].isnan().all()
    torch.testing.assert_close(value[2], expected, rtol=1e-12, atol=0)


@BOTH
@pytest.mark.parametrize("degrade", [blurred, noisy])
def test_more_blur_and_more_noise_are_worse(metric, degrade):
    truth = photographs((176, 192))
    images = [
        truth,
        *(degrade(truth, amount) for amount in ((0.5, 1, 2, 4) if degrade is blurred else (0.01, 0.05, 0.1, 0.3))),
    ]
    values = torch.stack([metric(image, truth, hidden_in(truth)) for image in images])
    assert (values.diff(dim=0) < 0).all()


@BOTH
def test_hiding_what_is_wrong_is_worse_than_hiding_what_is_right(metric):
    truth = photographs()
    image, hidden = truth.clone(), torch.zeros(3, 1, 64, 96, dtype=torch.bool)
    image[..., :40] = noisy(truth, 0.2)[..., :40]
    hidden[..., :40] = True
    assert (metric(image, truth, hidden) < metric(image, truth, everywhere(truth))).all()
    assert (metric(image, truth, everywhere(truth)) < metric(image, truth, ~hidden)).all()


@pytest.mark.parametrize("metric", STRUCTURE, ids=lambda metric: metric.name)
def test_what_a_prediction_holds_in_visible_patches_changes_nothing(metric):
    truth, mask = photographs(), mask_of(photographs())
    image = noisy(truth, 0.1)
    pair = Pair(image, truth, mask)
    repainted = torch.where(pair.hidden, image, 1 - image)
    assert torch.equal(metric(pair), metric(Pair(repainted, truth, mask)))


def test_the_passports_lead_to_these_functions():
    truth = photographs()
    pair = Pair(noisy(truth, 0.1), truth, mask_of(truth))
    functions = {"ssim": ssim, "ms_ssim": ms_ssim}
    assert [metric.name for metric in STRUCTURE] == list(functions)
    for metric in STRUCTURE:
        value = metric(pair)
        assert torch.equal(value, functions[metric.name](pair.image, truth, pair.hidden)) and value.shape == (3,)
        assert metric.low <= value.min() and value.max() <= metric.high and metric.better == "higher"
