"""The perception-distortion plane: distances of Gaussians, blends and the frontier, against scipy and closed forms."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from recon.metrics.uncertainty import blend, frontier, gaussian_distance, mean_and_covariance, moments, plane
from tests.recon.metrics.scenes import normal, uniform


def covariance(d: int, seed: int, rank: int | None = None) -> torch.Tensor:
    factor = normal(d, rank or d, seed=seed)
    return factor @ factor.T / d


def root(c: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.real(scipy.linalg.sqrtm(c.numpy())))


def population(mean: torch.Tensor, cov: torch.Tensor) -> torch.Tensor:
    """`moments` of a distribution of that mean and covariance, of weight 1."""
    known = torch.cat([torch.ones(1).double(), mean])
    return torch.outer(known, known) + torch.block_diag(torch.zeros(1, 1).double(), cov)


def test_moments_add_up_over_sets_of_vectors():
    x = normal(300, 7)
    assert torch.allclose(moments(x), moments(x[:100]) + moments(x[100:]), rtol=1e-12, atol=1e-12)
    assert torch.allclose(moments(torch.cat([x, x])), 2 * moments(x), rtol=1e-12, atol=1e-12)
    for twice in (moments(x), 2 * moments(x)):
        mean, cov = mean_and_covariance(twice)
        np.testing.assert_allclose(mean.numpy(), x.mean(0).numpy(), rtol=0, atol=1e-14)
        np.testing.assert_allclose(cov.numpy(), np.cov(x.numpy().T, bias=True), rtol=0, atol=1e-13)


def test_moments_of_float32_are_summed_in_float64():
    x = uniform(1000, 3)
    assert torch.equal(moments(x), moments(x.double())) and moments(x).dtype == torch.float64


@pytest.mark.parametrize("d", [2, 9, 40])
def test_the_distance_of_gaussians_is_that_of_scipy_s_root(d):
    a, b, mean, other = covariance(d, 1), covariance(d, 2), normal(d, seed=3), normal(d, seed=4)
    middle = root(root(a) @ b @ root(a))
    expected = ((mean - other).square().sum() + (a + b - 2 * middle).trace()).item()
    assert gaussian_distance(mean, a, other, b) == pytest.approx(expected, rel=1e-8)
    assert gaussian_distance(other, b, mean, a) == pytest.approx(expected, rel=1e-8)


def test_the_distance_of_gaussians_with_common_axes_is_that_of_their_deviations():
    axes = torch.linalg.qr(normal(6, 6)).Q
    a, b = uniform(6, seed=1).double(), uniform(6, seed=2).double()
    a[0] = b[1] = 0  # degenerate along an axis
    mean = torch.zeros(6).double()
    found = gaussian_distance(mean, axes * a @ axes.T, mean, axes * b @ axes.T)
    assert found == pytest.approx((a.sqrt() - b.sqrt()).square().sum().item(), abs=1e-6)


def test_the_distance_in_one_dimension_is_that_of_means_and_deviations():
    numbers = (torch.tensor(x, dtype=torch.float64) for x in ([0.3], [[0.04]], [0.5], [[0.25]]))
    assert gaussian_distance(*numbers) == pytest.approx(0.2**2 + (0.5 - 0.2) ** 2, rel=1e-12)


def test_a_gaussian_is_at_no_distance_from_itself():
    """Of smooth patches' spectrum, nine decades of it; unit intensity, to the hundredth of an 8-bit level per value."""
    axes = torch.linalg.qr(normal(64, 64)).Q
    cov = axes * torch.logspace(1, -8, 64, dtype=torch.float64) @ axes.T
    distance = gaussian_distance(normal(64), cov, normal(64), cov)
    assert 0 <= math.sqrt(distance / 64) < 0.01 / 255


def test_the_distance_of_gaussians_is_a_metric_below_the_root_mean_square_distance():
    x, y, z = (uniform(400, 5, seed=i).double() ** (i + 1) for i in range(3))
    fits = [mean_and_covariance(moments(v)) for v in (x, y, z)]
    xy, yz, xz = (math.sqrt(gaussian_distance(*fits[i], *fits[j])) for i, j in ((0, 1), (1, 2), (0, 2)))
    assert 0 < xz < xy + yz
    for distance, a, b in ((xy, x, y), (yz, y, z), (xz, x, z)):
        assert distance < (a - b).square().sum(1).mean().sqrt()


def test_what_is_not_finite_has_no_distance():
    x = normal(20, 4)
    x[0, 0] = math.nan
    fit, bad = mean_and_covariance(moments(normal(20, 4, seed=1))), mean_and_covariance(moments(x))
    assert math.isnan(gaussian_distance(*fit, *bad)) and math.isnan(gaussian_distance(*bad, *fit))
    assert all(math.isnan(value) for value in plane(moments(torch.cat([x, x], dim=1)), 4))


def directly(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Mean squared error and distance per value of vectors (n, size), by numpy and scipy."""
    a, b = (torch.from_numpy(np.cov(v.numpy().T, bias=True)) for v in (x, y))
    distance = (x.mean(0) - y.mean(0)).square().sum() + (a + b - 2 * root(root(a) @ b @ root(a))).trace()
    return (x - y).square().mean().item(), math.sqrt(distance / x.shape[1])


@pytest.fixture(scope="module")
def answers() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A mean, a draw and the truth, (500, 6) each; neither is exact."""
    mean = 0.5 + 0.2 * normal(500, 6) @ covariance(6, 1)
    return mean, mean + 0.1 * normal(500, 6, seed=2), 0.02 + mean + 0.15 * normal(500, 6, seed=3).abs()


def test_the_plane_is_what_the_vectors_say(answers):
    mean, draw, truth = answers
    for x in (mean, draw, truth.flip(1).square()):
        assert plane(moments(torch.cat([x, truth], dim=1)), 6) == pytest.approx(directly(x, truth), rel=1e-6)


def test_the_truth_stands_at_the_origin_of_the_plane(answers):
    mse, w2 = plane(moments(torch.cat([answers[2]] * 2, dim=1)), 6)
    assert abs(mse) < 1e-14 and w2 < 1e-7


def test_blends_are_what_the_blended_vectors_say(answers):
    mean, draw, truth = answers
    alphas = [0, 0.25, 0.8, 1, 1.5, -0.5]
    found = blend(moments(torch.cat(answers, dim=1)), 6, alphas)
    for alpha, point in zip(alphas, zip(*found, strict=True), strict=True):
        assert point == pytest.approx(directly(mean + alpha * (draw - mean), truth), rel=1e-6)


# y = x* + e, with e independent of x* and of mean 0: x* = E(y | visible).
SIZE = 5
MEAN, KNOWN, UNKNOWN = normal(SIZE, seed=1), covariance(SIZE, 2), 0.4 * covariance(SIZE, 3)


def test_optimal_transport_of_the_conditional_mean_reaches_the_frontier():
    """x(P) = x* + (1 - P / G*) (T x* - x*), where T carries x*'s Gaussian to y's: theorem 4 of Freirich et al."""
    half = root(KNOWN)
    inverse = torch.linalg.inv(half)
    transport = inverse @ root(half @ (KNOWN + UNKNOWN) @ half) @ inverse

    def of(share: float) -> tuple[float, float]:
        linear = torch.eye(SIZE).double().lerp(transport, share)  # x - MEAN = linear (x* - MEAN)
        cross = linear @ KNOWN
        cov = torch.cat([torch.cat([cross @ linear.T, cross], 1), torch.cat([cross.T, KNOWN + UNKNOWN], 1)])
        return plane(population(torch.cat([MEAN, MEAN]), cov), SIZE)

    least, farthest = of(0)
    assert least == pytest.approx(UNKNOWN.trace().item() / SIZE, rel=1e-12)
    bound = frontier(least, farthest, points=9)
    assert bound[1][0] == farthest and bound[1][-1] == 0
    for i, (mse, w2) in enumerate(zip(*bound, strict=True)):
        assert of(i / 8) == pytest.approx((mse, w2), rel=1e-6, abs=1e-6)


def test_blends_with_an_exact_posterior_sample_cost_one_plus_alpha_squared_and_stay_above_the_frontier():
    """s = x* + e', e' a copy of e: E|x - y|² = (1 + α²) D*."""
    known = KNOWN.repeat(3, 3)
    own = torch.block_diag(torch.zeros(SIZE, SIZE).double(), UNKNOWN, UNKNOWN)
    alphas = [i / 10 for i in range(11)]
    mse, w2 = blend(population(MEAN.repeat(3), known + own), SIZE, alphas)
    assert mse == pytest.approx([(1 + alpha**2) * mse[0] for alpha in alphas], rel=1e-12)
    assert all(np.diff(w2) < 0) and w2[-1] < 1e-6  # at α = 1 the distribution is the truth's
    excess = [d - mse[0] - (w2[0] - p) ** 2 for d, p in zip(mse, w2, strict=True)]
    assert excess[0] == 0 and min(excess[1:]) > 0


def test_no_function_of_the_conditional_mean_crosses_the_frontier_whatever_the_distribution():
    """Every known value beside every error, so that these are independent exactly; neither is Gaussian."""
    known = uniform(40, 3).double() ** 2
    errors = 0.3 * (uniform(30, 3, seed=1) < 0.3).double()
    errors = errors - errors.mean(0)
    x, e = known.repeat_interleave(30, 0), errors.repeat(40, 1)
    truth = x + e

    def at(answer: torch.Tensor) -> tuple[float, float]:
        return plane(moments(torch.cat([answer, truth], dim=1)), 3)

    least, farthest = at(x)
    centre = x.mean(0)
    guesses = [x.clamp(0.1, 0.6), x.round(), x.flip(1), x.square(), *(centre + g * (x - centre) for g in (0.5, 1.2, 2))]
    guesses += [x + g * normal(40, 3).repeat_interleave(30, 0) for g in (0.1, 0.3)]  # noise that knows no error
    for mse, w2 in map(at, guesses):
        assert mse >= least + max(farthest - w2, 0) ** 2 - 1e-12
        assert mse > least


def test_the_frontier_ends_at_the_least_error_and_at_no_distance():
    mse, w2 = frontier(0.02, 0.3)
    assert len(mse) == len(w2) == 33 and (mse[0], w2[0]) == (0.02, 0.3)
    assert w2[-1] == 0 and mse[-1] == pytest.approx(0.02 + 0.3**2, rel=1e-12)
    assert all(np.diff(mse) > 0) and all(np.diff(w2) < 0)


@pytest.mark.gpu
def test_the_plane_is_the_same_on_cpu_and_cuda(device):
    vectors = normal(500, 3 * 16)
    for x, y in zip(*(blend(moments(v), 16, [0, 0.5]) for v in (vectors, vectors.to(device))), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9)
