"""RankMe and the exponent of alpha-ReQ: features of known covariance, numpy, invariances, and their intervals."""

import numpy as np
import pytest
import torch

from losses import InvalidSetting
from recon.metrics import Undefined
from recon.probing.features import ProbedEncoder
from recon.probing.label_free import MEASURES, alpha_req, measure_features, rankme
from recon.probing.probe_results import MAX_IMAGES

BOTH = pytest.mark.parametrize("measure", [rankme, alpha_req])


def gaussian(images: int, width: int, alpha: float = 0.0, seed: int = 0) -> torch.Tensor:
    """Normal features whose covariance has the eigenvalues k^-alpha, along the axes."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.arange(1, width + 1, dtype=torch.float64) ** (-alpha / 2)
    return torch.randn(images, width, generator=generator, dtype=torch.float64) * scales


def exactly(alpha: float, images: int = 64, width: int = 32) -> torch.Tensor:
    """Centred features whose sample covariance has the eigenvalues k^-alpha, and no others, exactly."""
    noise = gaussian(images, width)
    axes = torch.linalg.qr(noise - noise.mean(0)).Q
    return axes * torch.arange(1, width + 1, dtype=torch.float64) ** (-alpha / 2) * images**0.5


def rotation(width: int) -> torch.Tensor:
    return torch.linalg.qr(gaussian(width, width, seed=1)).Q


def test_an_isotropic_gaussian_fills_every_dimension_in_the_limit():
    found = [rankme(gaussian(images, 16)).mean().item() for images in (20, 200, 20_000)]
    assert found == sorted(found) and found[0] < 15 and 15.99 < found[-1] <= 16
    # The singular values of many images are those of the covariance, here 1 and 1/2: p = 2/3 and 1/3.
    two = gaussian(100_000, 2) * torch.tensor([1.0, 0.5])
    assert rankme(two).mean().item() == pytest.approx(3 / 2 ** (2 / 3), rel=0.01)


@pytest.mark.parametrize(("images", "width"), [(200, 40), (30, 40)])
def test_features_of_a_subspace_have_at_most_its_dimensions(images, width):
    """Also in float32, whose rounding leaves the subspace."""
    axes = rotation(width)[:5]
    features = (gaussian(images, 5) @ axes).float()
    assert 4 < rankme(features).mean().item() <= 5
    equal = torch.eye(width, dtype=torch.float64)[:5].repeat(7, 1)
    assert rankme(equal).mean().item() == pytest.approx(5, abs=1e-9)
    assert rankme(torch.full((9, 4), 3.0)).mean().item() == pytest.approx(1, abs=1e-9)  # a collapsed encoder


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_recovered(alpha):
    assert alpha_req(exactly(alpha)).mean().item() == pytest.approx(alpha, abs=1e-9)
    assert alpha_req(gaussian(20_000, 192, alpha) + 5).mean().item() == pytest.approx(alpha, abs=0.02)


@pytest.mark.parametrize("shape", [(300, 150), (60, 150), (80, 20)])
def test_both_equal_their_formulas_in_numpy(shape):
    features = gaussian(*shape, alpha=0.7) + 0.3
    sizes = np.linalg.svd(features.numpy(), compute_uv=False)
    shares = sizes / sizes.sum() + 1e-7  # as published: the constant makes no difference that one would see
    assert rankme(features).mean().item() == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-3)
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(features.numpy().T)))[::-1]
    k = np.arange(6, min(100, shape[1], shape[0] - 1) + 1)
    slope = np.polyfit(np.log(k), np.log(eigenvalues[k - 1]), 1, w=k**-0.5)[0]  # w: of residuals, not of their squares
    assert alpha_req(features).mean().item() == pytest.approx(-slope, rel=1e-9)


@BOTH
@pytest.mark.parametrize("images", [90, 30])
def test_neither_axes_nor_scale_nor_order_matter(measure, images):
    features = gaussian(images, 40, 1.0) + 0.1
    order = torch.randperm(images, generator=torch.Generator().manual_seed(2))
    expected = measure(features)
    torch.testing.assert_close(measure(features @ rotation(40)), expected)
    torch.testing.assert_close(measure(7 * features), expected)
    torch.testing.assert_close(measure(features[order]), expected[order])


def test_a_mean_counts_for_rankme_and_not_for_the_exponent():
    features = gaussian(200, 20, 1.0)
    torch.testing.assert_close(alpha_req(features + 9), alpha_req(features))
    assert rankme(features + 9).mean() < 0.9 * rankme(features).mean()


@BOTH
def test_an_image_s_part_is_what_its_absence_changes(measure):
    """The jackknife: without image i of n the measure changes by (mean - part i) / (n - 1), to first order."""
    features = gaussian(400, 12, 0.5)
    parts = measure(features)
    absent = torch.stack([measure(torch.cat([features[:i], features[i + 1 :]])).mean() for i in range(40)])
    first_order = parts.mean() + (parts.mean() - parts[:40]) / 399
    assert (absent - first_order).norm() < 0.15 * (absent - parts.mean()).norm()


@BOTH
def test_the_standard_error_is_the_spread_over_other_images(measure):
    several = [measure(gaussian(300, 40, 1.0, seed)) for seed in range(150)]
    spread = torch.stack([parts.mean() for parts in several]).std().item()
    errors = torch.stack([parts.std() / 300**0.5 for parts in several]).mean().item()
    assert errors == pytest.approx(spread, rel=0.2)  # a standard deviation of 150 is known to 6%


@BOTH
def test_features_that_are_not_finite_are_refused(measure):
    with pytest.raises(InvalidSetting, match="not finite"):
        measure(torch.tensor([[1.0, float("nan")]]))


def test_what_is_not_defined_is_said_and_the_rest_is_measured():
    features = {"class/1": torch.zeros(9, 20), "mean/1": torch.ones(9, 20), "mean/2": gaussian(9, 20)}
    found, undefined = measure_features(ProbedEncoder("run", "R", None), features, list(MEASURES))
    assert [result.name for result in found] == ["run/rankme/mean/1", "run/rankme/mean/2", "run/alpha_req/mean/2"]
    assert undefined == [
        "rankme of R, class/1, is not defined: the features are all zero",
        "alpha_req of R, class/1, is not defined: the features vary in 0 dimensions; a slope needs 7",
        "alpha_req of R, mean/1, is not defined: the features vary in 0 dimensions; a slope needs 7",
    ]
    with pytest.raises(Undefined):
        alpha_req(gaussian(7, 20))  # six dimensions


def test_so_many_images_are_enough():
    """More are drawn at random, the same ones for every encoder."""
    features = gaussian(MAX_IMAGES + 5000, 2)
    features[:5000] = 0  # a folder's first class
    (one,), _ = measure_features(ProbedEncoder("run", "", None), {"mean/1": features}, ["rankme"])
    (other,), _ = measure_features(ProbedEncoder("untrained", "", None), {"mean/1": features * 2}, ["rankme"])
    assert one.per_image.shape == (1, MAX_IMAGES) and one.per_image.dtype == torch.float32
    torch.testing.assert_close(one.per_image, other.per_image)
    assert one.estimate.mean == pytest.approx(rankme(features).mean().item(), rel=0.01)
    assert one.estimate.covers == "images" and one.estimate.low < one.estimate.mean < one.estimate.high
