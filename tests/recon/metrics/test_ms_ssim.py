"""MS-SSIM on photographs, against maps of scikit-image and SciPy, and torchmetrics."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.measure import block_reduce
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from recon.metrics.fidelity import C1, SCALE_WEIGHTS, ms_ssim, scales_for, similarity, ssim
from tests.recon.metrics.scenes import (
    DEGRADED,
    PHOTOGRAPHS,
    everywhere,
    hidden_in,
    noisy,
    photograph,
)

SETTINGS = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1, "channel_axis": 0}


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


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize(("size", "scales"), [((16, 20), 1), ((64, 64), 3), ((113, 151), 4), ((176, 201), 5)])
@pytest.mark.parametrize("kind", ["noise", "blur"])
def test_ms_ssim_is_made_of_scikit_image_s_maps_over_hidden_area(name, size, scales, kind):
    truth = photograph(name, size)
    image, hidden = DEGRADED[kind](truth), hidden_in(truth)
    expected = expected_ms_ssim(image[0].numpy(), truth[0].numpy(), hidden[0, 0].numpy(), scales)
    assert ms_ssim(image, truth, hidden).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_ms_ssim_is_torchmetrics_but_for_the_border(name):
    """In an even frame mirrors agree; cut as torchmetrics cuts them, the same terms then give its very number."""
    frame, betas = 40, SCALE_WEIGHTS[:3]
    photo = photograph(name, (48, 64))
    image, truth = (torch.nn.functional.pad(x, [frame] * 4, value=0.5) for x in (noisy(photo, 0.1), photo))
    expected = multiscale_structural_similarity_index_measure(image, truth, data_range=1.0, betas=betas).item()
    found = 1.0
    for scale, weight in enumerate(betas):
        term = similarity(image, truth, luminance=scale == 2)
        term = term[..., 5:-5, 5:-5] if scale < 2 else term
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
