"""Fidelity on hidden pixels, against scikit-image and closed forms."""

import math

import numpy as np
import pytest
import skimage.data
import torch
from skimage.metrics import peak_signal_noise_ratio
from sklearn.metrics import mean_absolute_error

from recon.metrics.base import METRICS, Pair
from recon.metrics.fidelity import MAX_PSNR, area_mean, masked_l1, masked_mse, masked_psnr, mean_of_visible


def photograph(name: str) -> torch.Tensor:
    pixels = getattr(skimage.data, name)()[:160, :240]
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].double() / 255


def hidden_somewhere(images: torch.Tensor, share: float, seed: int = 0) -> torch.Tensor:
    """(B, 1, H, W) bool."""
    b, _, h, w = images.shape
    return torch.rand(b, 1, h, w, generator=torch.Generator().manual_seed(seed)) < share


def noisy(truth: torch.Tensor, deviation: float, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return truth + deviation * torch.randn(truth.shape, generator=generator, dtype=truth.dtype)


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
@pytest.mark.parametrize("deviation", [0.003, 0.1])
def test_masked_psnr_is_scikit_image_s_on_the_hidden_pixels(name, deviation):
    truth = photograph(name)
    image, hidden = noisy(truth, deviation), hidden_somewhere(truth, 0.75)
    chosen = hidden[0, 0].numpy()
    reference, test = (x[0].numpy()[:, chosen] for x in (truth, image.clamp(0, 1)))
    expected = peak_signal_noise_ratio(reference, test, data_range=1)
    assert masked_psnr(image, truth, hidden).item() == pytest.approx(expected, rel=1e-12)
    assert masked_mse(image, truth, hidden).item() == pytest.approx(np.mean((reference - test) ** 2), rel=1e-12)


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_masked_l1_is_scikit_learn_s_on_the_hidden_pixels(name):
    truth = photograph(name)
    image, hidden = noisy(truth, 0.1), hidden_somewhere(truth, 0.75)
    chosen = hidden[0, 0].numpy()
    reference, test = (x[0].numpy()[:, chosen].ravel() for x in (truth, image.clamp(0, 1)))
    assert masked_l1(image, truth, hidden).item() == pytest.approx(mean_absolute_error(reference, test), rel=1e-12)


def test_single_precision_is_enough():
    truth = photograph("astronaut")
    image, hidden = noisy(truth, 0.05), hidden_somewhere(truth, 0.75)
    double, single = masked_psnr(image, truth, hidden), masked_psnr(image.float(), truth.float(), hidden)
    assert single.dtype == torch.float32 and single.item() == pytest.approx(double.item(), abs=1e-4)
    double, single = masked_l1(image, truth, hidden), masked_l1(image.float(), truth.float(), hidden)
    assert single.dtype == torch.float32 and single.item() == pytest.approx(double.item(), rel=1e-6)


def test_visible_pixels_do_not_count():
    truth = photograph("astronaut")
    image, hidden = noisy(truth, 0.1), hidden_somewhere(truth, 0.5)
    repainted = torch.where(hidden, image, 1 - image)
    assert torch.equal(masked_psnr(image, truth, hidden), masked_psnr(repainted, truth, hidden))
    assert torch.equal(masked_l1(image, truth, hidden), masked_l1(repainted, truth, hidden))


@pytest.mark.parametrize("metric", [masked_mse, masked_l1, masked_psnr])
def test_every_image_is_judged_alone(metric):
    truth = torch.cat([photograph("astronaut"), photograph("coffee")])
    image, hidden = noisy(truth, 0.1), hidden_somewhere(truth, 0.6)
    together = metric(image, truth, hidden)
    alone = torch.cat([metric(image[i : i + 1], truth[i : i + 1], hidden[i : i + 1]) for i in range(2)])
    assert together.shape == (2,) and torch.allclose(together, alone, rtol=1e-12, atol=0)


@pytest.mark.parametrize("error", [0.5, 0.1, 0.01])
def test_a_constant_error_has_a_closed_form(error):
    truth = torch.full((1, 3, 8, 8), 0.25, dtype=torch.float64)
    hidden = hidden_somewhere(truth, 0.5)
    assert masked_psnr(truth + error, truth, hidden).item() == pytest.approx(-20 * math.log10(error), rel=1e-12)
    assert masked_l1(truth - error / 5, truth, hidden).item() == pytest.approx(error / 5, rel=1e-12)


def test_what_leaves_the_range_is_clamped():
    truth, hidden = torch.ones(1, 3, 4, 4), torch.ones(1, 1, 4, 4, dtype=torch.bool)
    assert masked_mse(truth + 5, truth, hidden).item() == 0 and masked_psnr(
        truth + 5, truth, hidden
    ).item() == pytest.approx(MAX_PSNR)
    assert masked_mse(truth - 5, truth, hidden).item() == 1
    assert masked_l1(truth + 5, truth, hidden).item() == 0 and masked_l1(truth - 5, truth, hidden).item() == 1


def test_a_share_of_hidden_weighs_as_much_as_it_hides():
    values = torch.tensor([[[[1.0, 5.0, 100.0]], [[3.0, 7.0, 100.0]]]])
    assert area_mean(values, torch.tensor([[[[1.0, 0.25, 0.0]]]])).item() == pytest.approx((4 + 0.25 * 12) / 2.5)


def test_an_image_with_nothing_hidden_has_no_value_and_the_others_have_theirs():
    truth = torch.cat([photograph("astronaut"), photograph("coffee")])
    image, hidden = noisy(truth, 0.1), hidden_somewhere(truth, 0.6)
    hidden[0] = False
    for metric in (masked_mse, masked_l1, masked_psnr):
        value = metric(image, truth, hidden)
        assert value[0].isnan()
        torch.testing.assert_close(value[1:], metric(image[1:], truth[1:], hidden[1:]), rtol=1e-12, atol=0)


def test_more_noise_is_further_from_the_truth():
    truth, hidden = photograph("coffee"), hidden_somewhere(photograph("coffee"), 0.75)
    images = [noisy(truth, deviation) for deviation in (0.001, 0.01, 0.05, 0.1, 0.3)]
    for metric, sign in ((masked_mse, 1), (masked_l1, 1), (masked_psnr, -1)):
        values = [sign * metric(image, truth, hidden).item() for image in images]
        assert values == sorted(values) and len(set(values)) == len(values)


def test_the_metrics_lead_to_these_functions():
    truth = torch.cat([photograph("astronaut"), photograph("coffee")])
    mask = torch.rand(2, 10 * 15, generator=torch.Generator().manual_seed(0)) < 0.75
    pair = Pair(noisy(truth, 0.1), truth, mask)
    functions = {"masked_mse": masked_mse, "masked_l1": masked_l1, "masked_psnr": masked_psnr}
    for metric in (METRICS[name] for name in functions):
        value = metric(pair)
        assert torch.equal(value, functions[metric.name](pair.image, truth, pair.hidden)) and value.shape == (2,)
        assert metric.low <= value.min() and value.max() <= metric.high and metric.paired


def test_the_mean_of_the_visible_is_each_image_s_own_per_channel():
    truth = torch.cat([photograph("astronaut"), photograph("coffee")])
    hidden = hidden_somewhere(truth, 0.7)
    filled = mean_of_visible(truth, hidden)
    for image, chosen, found in zip(truth.numpy(), hidden[:, 0].numpy(), filled.numpy(), strict=True):
        assert np.array_equal(found[:, ~chosen], image[:, ~chosen])
        colour = np.array([channel[~chosen].mean() for channel in image])
        np.testing.assert_allclose(found[:, chosen], np.repeat(colour[:, None], chosen.sum(), 1), rtol=1e-12)


def test_the_mean_of_the_visible_never_looks_at_the_hidden():
    truth = photograph("chelsea")
    hidden = hidden_somewhere(truth, 0.7)
    other = mean_of_visible(torch.where(hidden, 1 - truth, truth), hidden)
    assert torch.equal(mean_of_visible(truth, hidden), other)
