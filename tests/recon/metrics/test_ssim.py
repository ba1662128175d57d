"""SSIM on photographs, against scikit-image."""

import numpy as np
import pytest
import torch
from kornia.metrics import ssim as kornia_ssim
from skimage.metrics import structural_similarity

from recon.metrics import fidelity as structure
from recon.metrics.base import Undefined
from recon.metrics.fidelity import ms_ssim, ssim, ssim_map
from tests.recon.metrics.scenes import (
    DEGRADED,
    PHOTOGRAPHS,
    everywhere,
    noisy,
    photograph,
)

SETTINGS = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1, "channel_axis": 0}
BOTH = pytest.mark.parametrize("metric", [ssim, ms_ssim])


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("kind", DEGRADED)
def test_the_map_is_scikit_image_s_with_its_borders(name, kind):
    truth = photograph(name)
    image = DEGRADED[kind](truth)
    _, expected = structural_similarity(image[0].numpy(), truth[0].numpy(), full=True, **SETTINGS)
    np.testing.assert_allclose(ssim_map(image, truth)[0], expected.mean(0), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
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


def test_off_the_border_the_map_is_kornia_s():
    truth = photograph("astronaut")
    image = DEGRADED["noise"](truth)
    expected = kornia_ssim(image, truth, 11, eps=0.0)[0].mean(0)
    torch.testing.assert_close(ssim_map(image, truth)[0, 5:-5, 5:-5], expected[5:-5, 5:-5], rtol=0, atol=1e-6)


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


@pytest.mark.parametrize("name", PHOTOGRAPHS)
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
