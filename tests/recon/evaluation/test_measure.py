"""Gathering numbers image by image: batches, images without a value, patches without bands."""

import pytest
import skimage.data
import torch

from recon.evaluation.measures import FURTHEST, Gauge, moments_by_distance
from recon.evaluation.suite import Instruments
from recon.metrics import METRICS, Pair
from recon.metrics.deep import PooledFeatures
from recon.metrics.recovery import band_moments

COLOUR = torch.tensor([0.5, 0.4, 0.3], dtype=torch.float64)


@pytest.fixture(scope="module")
def instruments() -> Instruments:
    return Instruments(METRICS, PooledFeatures("random", "conv1_1"), {"lpips": "not here"}, COLOUR)


def scene(n: int = 6, size: int = 48) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Truth, a noisy prediction of it, and a mask of 8-pixel patches."""
    photograph = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1).float() / 255
    truth = torch.stack([photograph[:, 60 * i : 60 * i + size, 200 : 200 + size] for i in range(n)])
    generator = torch.Generator().manual_seed(0)
    predicted = truth + 0.1 * torch.randn(truth.shape, generator=generator)
    mask = torch.rand(n, (size // 8) ** 2, generator=generator) < 0.75
    return truth, predicted, mask


def gathered(instruments, truth, predicted, mask, sizes):
    gauge = Gauge(instruments, patch_size=8, device=torch.device("cpu"))
    batches = zip(*(x.split(sizes) for x in (truth, predicted, mask)), strict=True)
    return gauge.result([gauge.measure(Pair(p, t, m), instruments.features(t), p[:1]) for t, p, m in batches])


def test_batches_give_what_one_image_at_a_time_gives(instruments):
    whole, single = (gathered(instruments, *scene(), sizes) for sizes in ([6], [1] * 6))
    assert whole.values.keys() == single.values.keys() >= METRICS.keys()
    for name, values in whole.values.items():
        torch.testing.assert_close(values, single.values[name], rtol=2e-5, atol=1e-6, equal_nan=True, msg=name)
    torch.testing.assert_close(whole.moments, single.moments, rtol=1e-10, atol=1e-12)


def test_a_prediction_with_nan_is_without_value_and_leaves_the_others_alone(instruments):
    truth, predicted, mask = scene()
    clean = gathered(instruments, truth, predicted, mask, [6])
    predicted[2] = torch.nan
    torn = gathered(instruments, truth, predicted, mask, [6])
    others = [0, 1, 3, 4, 5]
    for name, values in torn.values.items():
        assert values[2].isnan(), name
        if name not in ("kid", "sliced_wasserstein"):  # what an image adds to these depends on all the others
            torch.testing.assert_close(values[others], clean.values[name][others], equal_nan=True, msg=name)
        assert values[others].isfinite().any(), name
    assert torch.equal(torn.moments[others], clean.moments[others])


def test_what_is_predicted_in_visible_patches_changes_nothing(instruments):
    truth, predicted, mask = scene()
    other = torch.where(Pair(predicted, truth, mask).hidden, predicted, torch.rand_like(predicted))
    a, b = (gathered(instruments, truth, p, mask, [6]) for p in (predicted, other))
    for name, values in a.values.items():
        torch.testing.assert_close(values, b.values[name], rtol=0, atol=0, equal_nan=True, msg=name)


def test_moments_at_all_distances_add_up_to_those_of_all_hidden_patches():
    truth, predicted, mask = scene()
    pair = Pair(predicted, truth, mask)
    whole = band_moments(pair.patches, pair.true_patches, pair.mask, COLOUR)
    parts = moments_by_distance(pair, COLOUR)
    assert parts.shape == (6, FURTHEST, 8, 4)
    torch.testing.assert_close(parts.sum(1), whole, rtol=1e-10, atol=1e-12)


def test_an_image_with_nothing_hidden_has_no_value(instruments):
    truth, predicted, mask = scene()
    mask[3] = False
    measured = gathered(instruments, truth, predicted, mask, [6])
    for name, values in measured.values.items():
        if name != "kid":  # the features of the untouched truth
            assert values[3].isnan(), name


def test_patches_too_small_for_bands_have_a_reason_and_all_else(instruments):
    truth, predicted, _ = scene()
    mask = torch.rand(6, 24 * 24, generator=torch.Generator().manual_seed(1)) < 0.5
    gauge = Gauge(instruments, patch_size=2, device=torch.device("cpu"))
    measured = gauge.result([gauge.measure(Pair(predicted, truth, mask), instruments.features(truth), predicted[:0])])
    assert measured.moments is None and "patches below 4 pixels" in measured.reasons["retention"]
    assert measured.values["masked_psnr"].isfinite().all() and "kid" in measured.values
    assert measured.reasons["lpips"] == "not here"
