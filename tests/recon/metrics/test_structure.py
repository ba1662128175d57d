"""Laws of SSIM and MS-SSIM both."""

import pytest
import torch

from recon.metrics import base as chunks
from recon.metrics.base import METRICS, Pair
from recon.metrics.fidelity import ms_ssim, ssim
from tests.recon.metrics.scenes import (
    blurred,
    everywhere,
    hidden_in,
    noisy,
    photographs,
)

BOTH = pytest.mark.parametrize("metric", [ssim, ms_ssim])

STRUCTURE = [METRICS[name] for name in ("ssim", "ms_ssim")]


def mask_of(images: torch.Tensor, patch: int = 8, share: float = 0.75) -> torch.Tensor:
    """(B, N) bool."""
    patches = images.shape[2] * images.shape[3] // patch**2
    return torch.rand(len(images), patches, generator=torch.Generator().manual_seed(0)) < share


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
        monkeypatch.setattr(chunks, "CACHE_VALUES", pixels)
        torch.testing.assert_close(metric(image, truth, hidden), alone, rtol=1e-12, atol=0)


def test_a_chunk_fits_a_cpu_s_cache_or_half_of_a_gpu_s_free_memory(monkeypatch):
    """64 MiB are free and 32 MiB kept by torch's allocator, at 512 bytes a number."""
    values = 1000
    assert chunks.chunk_length(values, torch.device("cpu")) == 49
    assert chunks.chunk_length(values, torch.device("cpu"), 2500) == 2
    assert chunks.chunk_length(10**9, torch.device("cpu")) == 1
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (64 * 2**20, 80 * 2**20))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 40 * 2**20)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 8 * 2**20)
    assert chunks.chunk_length(values, torch.device("cuda", 0)) == 98


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


def test_the_metrics_lead_to_these_functions():
    truth = photographs()
    pair = Pair(noisy(truth, 0.1), truth, mask_of(truth))
    functions = {"ssim": ssim, "ms_ssim": ms_ssim}
    for metric in STRUCTURE:
        value = metric(pair)
        assert torch.equal(value, functions[metric.name](pair.image, truth, pair.hidden)) and value.shape == (3,)
        assert metric.low <= value.min() and value.max() <= metric.high and metric.better == "higher"
