"""Gathering numbers image by image: batches, images without a value, patches without bands."""

import pytest
import skimage.data
import torch

from recon.evaluation.evaluator import FURTHEST, Evaluator, MetricSuite, moments_by_distance
from recon.evaluation.results import Measured
from recon.metrics import METRICS, Pair
from recon.metrics.feature_networks import VGG19Features
from recon.metrics.recovery import band_moments

COLOUR = torch.tensor([0.5, 0.4, 0.3], dtype=torch.float64)


@pytest.fixture(scope="module")
def suite() -> MetricSuite:
    return MetricSuite(METRICS, VGG19Features("random", "conv1_1"), {"lpips": "not here"}, {}, [])


def scene(n: int = 6, size: int = 48) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Truth, a noisy prediction of it, and a mask of 8-pixel patches."""
    photograph = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1).float() / 255
    truth = torch.stack([photograph[:, 60 * i : 60 * i + size, 200 : 200 + size] for i in range(n)])
    generator = torch.Generator().manual_seed(0)
    predicted = truth + 0.1 * torch.randn(truth.shape, generator=generator)
    mask = torch.rand(n, (size // 8) ** 2, generator=generator) < 0.75
    return truth, predicted, mask


def gathered(suite, truth, predicted, mask, sizes) -> Measured:
    evaluator = Evaluator(suite, 8, COLOUR)
    for t, p, m in zip(*(x.split(sizes) for x in (truth, predicted, mask)), strict=True):
        evaluator.update(Pair(p, t, m), p, pictured=[0])
    return evaluator.compute(suite.features(truth))


def per_image(measured: Measured) -> dict[str, torch.Tensor]:
    """Metric -> a value per image."""
    return {name: values for name, values in measured.tensors.items() if name not in ("moments", "power", "pictures")}


def test_batches_give_what_one_image_at_a_time_gives(suite):
    whole, single = (gathered(suite, *scene(), sizes) for sizes in ([6], [1] * 6))
    assert per_image(whole).keys() == per_image(single).keys() >= METRICS.keys()
    for name, values in per_image(whole).items():
        torch.testing.assert_close(values, single.tensors[name], rtol=2e-5, atol=1e-6, equal_nan=True, msg=name)
    torch.testing.assert_close(whole.tensors["moments"], single.tensors["moments"], rtol=1e-10, atol=1e-12)


def test_a_prediction_with_nan_is_without_value_and_leaves_the_others_alone(suite):
    truth, predicted, mask = scene()
    clean = gathered(suite, truth, predicted, mask, [6])
    predicted[2] = torch.nan
    torn = gathered(suite, truth, predicted, mask, [6])
    others = [0, 1, 3, 4, 5]
    for name, values in per_image(torn).items():
        assert values[2].isnan(), name
        if name not in ("kid", "sliced_wasserstein"):  # what an image adds to these depends on all the others
            torch.testing.assert_close(values[others], clean.tensors[name][others], equal_nan=True, msg=name)
        assert values[others].isfinite().any(), name
    assert torch.equal(torn.tensors["moments"][others], clean.tensors["moments"][others])


def test_what_is_predicted_in_visible_patches_changes_nothing(suite):
    truth, predicted, mask = scene()
    other = torch.where(Pair(predicted, truth, mask).hidden, predicted, torch.rand_like(predicted))
    a, b = (gathered(suite, truth, p, mask, [6]) for p in (predicted, other))
    for name, values in per_image(a).items():
        torch.testing.assert_close(values, b.tensors[name], rtol=0, atol=0, equal_nan=True, msg=name)


def test_moments_at_all_distances_add_up_to_those_of_all_hidden_patches():
    truth, predicted, mask = scene()
    pair = Pair(predicted, truth, mask)
    whole = band_moments(pair.patches, pair.true_patches, pair.mask, COLOUR)
    parts = moments_by_distance(pair, COLOUR)
    assert parts.shape == (6, FURTHEST, 8, 4)
    torch.testing.assert_close(parts.sum(1), whole, rtol=1e-10, atol=1e-12)


def test_an_image_with_nothing_hidden_has_no_value(suite):
    truth, predicted, mask = scene()
    mask[3] = False
    measured = gathered(suite, truth, predicted, mask, [6])
    for name, values in per_image(measured).items():
        if name != "kid":  # the features of the untouched truth
            assert values[3].isnan(), name


def test_patches_too_small_for_bands_have_a_reason_and_all_else(suite):
    truth, predicted, _ = scene()
    mask = torch.rand(6, 24 * 24, generator=torch.Generator().manual_seed(1)) < 0.5
    evaluator = Evaluator(suite, 2, COLOUR)
    evaluator.update(Pair(predicted, truth, mask), predicted)
    measured = evaluator.compute(suite.features(truth))
    assert "moments" not in measured.tensors and "patches below 4 pixels" in measured.reasons["retention"]
    assert measured.tensors["masked_psnr"].isfinite().all() and "kid" in measured.tensors
    assert measured.reasons["lpips"] == "not here"
