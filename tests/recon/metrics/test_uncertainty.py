"""Proper scores of draws, against scoringrules and closed forms."""

import math

import numpy as np
import pytest
import scipy.fft
import scipy.stats
import scoringrules
import skimage.data
import torch

from recon.metrics.base import colour_patches
from recon.metrics.uncertainty import (
    UNCERTAINTY,
    coverage,
    crps,
    energy_score,
    moments,
    per_image_scores,
    plane,
)
from tests.recon.metrics.scenes import normal, uniform

MANY = 40000


def standard_error(values: torch.Tensor) -> float:
    return (values.std() / math.sqrt(len(values))).item()


@pytest.mark.parametrize("s", [2, 3, 8, 17])
def test_crps_is_scoringrules_fair_estimate(s):
    draws, truth = normal(s, 5, 4), normal(5, 4, seed=1)
    expected = scoringrules.crps_ensemble(truth.numpy(), draws.numpy(), m_axis=0, estimator="fair", backend="numpy")
    np.testing.assert_allclose(crps(draws, truth).numpy(), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("s", "p"), [(2, 1), (3, 7), (8, 48)])
def test_energy_score_is_scoringrules_fair_estimate_per_root_of_values(s, p):
    draws, truth = normal(s, 5, p), normal(5, p, seed=1)
    arrays = truth.numpy(), draws.movedim(0, 1).numpy()
    expected = scoringrules.es_ensemble(*arrays, estimator="fair", backend="numpy") / math.sqrt(p)
    np.testing.assert_allclose(energy_score(draws, truth).numpy(), expected, rtol=1e-10, atol=1e-14)


def test_scores_of_float32_are_summed_in_float64():
    """Around 1000 a float32 resolves differences of a ten-thousandth."""
    draws, truth = (x.round(decimals=2) for x in (1000 + normal(4, 9), 1000 + normal(9, seed=1)))
    found = crps(draws.float(), truth.float())
    assert found.dtype == torch.float64
    assert torch.equal(found, crps(draws.float().double(), truth.float().double()))


def test_one_draw_scores_its_error():
    draws, truth = normal(1, 6, 5), normal(6, 5, seed=1)
    assert torch.equal(crps(draws, truth), (draws[0] - truth).abs())
    rms = (draws[0] - truth).square().mean(-1).sqrt()
    assert torch.allclose(energy_score(draws, truth), rms, rtol=1e-12, atol=0)


@pytest.mark.parametrize("score", [crps, energy_score])
def test_draws_that_are_all_alike_score_the_error_of_one(score):
    draws, truth = normal(1, 6, 5).expand(4, 6, 5), normal(6, 5, seed=1)
    assert torch.allclose(score(draws, truth), score(draws[:1], truth), rtol=1e-12, atol=0)


def test_of_one_value_the_energy_score_is_the_crps():
    draws, truth = normal(6, 50, 1), normal(50, 1, seed=1)
    assert torch.allclose(energy_score(draws, truth), crps(draws, truth)[..., 0], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("score", [crps, energy_score])
def test_neither_score_falls_below_zero(score):
    """Truths in the midst of their draws come nearest to it."""
    draws = normal(5, 2000, 3)
    for truth in (draws.mean(0), draws.median(0).values, normal(2000, 3, seed=1)):
        assert score(draws, truth).min() > -1e-14


def test_scores_do_not_depend_on_the_order_of_draws():
    draws, truth = normal(5, 40, 3), normal(40, 3, seed=1)
    for score in (crps, energy_score):
        assert torch.allclose(score(draws.flip(0), truth), score(draws, truth), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("s", [1, 2, 4, 9])
@pytest.mark.parametrize("y", [-0.3, 1.7])
def test_expected_crps_is_the_gaussian_closed_form_whatever_the_number_of_draws(s, y):
    """Within 5 standard errors, which are under a tenth of what the estimate that is not fair is off by."""
    found = crps(normal(s, MANY, seed=s), torch.full((MANY,), y).double())
    density, below = scipy.stats.norm.pdf(y), scipy.stats.norm.cdf(y)
    expected = y * (2 * below - 1) + 2 * density - 1 / math.sqrt(math.pi)
    if s == 1:  # the error of one draw: no spread is taken off
        expected += 1 / math.sqrt(math.pi)
    assert found.mean().item() == pytest.approx(expected, abs=5 * standard_error(found))
    assert 5 * standard_error(found) < 0.5 / s / math.sqrt(math.pi)


@pytest.mark.parametrize("s", [2, 4, 9])
def test_expected_energy_score_does_not_depend_on_the_number_of_draws(s):
    """Of draws and truth from N(0, 1) in P dimensions: E|x - y| / 2, |x - y| / sqrt 2 being chi distributed."""
    p = 6
    found = energy_score(normal(s, MANY, p, seed=s), normal(MANY, p, seed=100))
    expected = scipy.stats.chi(p).mean() * math.sqrt(2 / p) / 2
    assert found.mean().item() == pytest.approx(expected, abs=5 * standard_error(found))


@pytest.mark.parametrize("score", [crps, energy_score])
@pytest.mark.parametrize(("shift", "spread"), [(0.3, 1), (0, 0.6), (0, 1.6), (-0.2, 0.8)])
def test_another_distribution_than_the_truth_s_scores_worse(score, shift, spread):
    """On average, by more than 5 standard errors of the paired difference."""
    draws, truth = normal(4, MANY, 3), normal(MANY, 3, seed=1)
    worse = score(shift + spread * draws, truth) - score(draws, truth)
    worse = worse.view(MANY, -1).mean(1)
    assert worse.mean() > 5 * standard_error(worse)


@pytest.fixture(scope="module")
def scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draws (4, 3, 3, 64, 64) around photographs, these, and masks of patches of 8 pixels."""
    names = ("astronaut", "chelsea", "coffee")
    truth = np.stack([getattr(skimage.data, name)()[100:164, 100:164] / 255 for name in names])
    truth = torch.from_numpy(truth).permute(0, 3, 1, 2).float()
    draws = (truth + 0.1 * normal(4, *truth.shape).float()).clamp(0, 1)
    return draws, truth, uniform(3, 64) < 0.75


def test_image_scores_are_scoringrules_of_scipy_s_coefficients_and_of_pixels(scene):
    draws, truth, mask = scene
    found = per_image_scores(draws, truth, mask)
    for i in range(3):
        x = np.stack([colour_patches(d[i : i + 1], 8)[0, mask[i]].double().numpy() for d in draws])
        y = colour_patches(truth[i : i + 1], 8)[0, mask[i]].double().numpy()
        c, true = (scipy.fft.dctn(a, axes=(-2, -1), norm="ortho") for a in (x, y))
        expected = scoringrules.crps_ensemble(true, c, m_axis=0, estimator="fair", backend="numpy").mean()
        assert found["crps"][i].item() == pytest.approx(expected, rel=1e-10)
        x, y = np.moveaxis(x.reshape(4, len(y), 192), 0, 1), y.reshape(-1, 192)
        expected = scoringrules.es_ensemble(y, x, estimator="fair", backend="numpy").mean() / math.sqrt(192)
        assert found["energy_score"][i].item() == pytest.approx(expected, rel=1e-10)
        ranks = np.bincount((c < true).sum(0).ravel(), minlength=5)
        np.testing.assert_allclose(found["ranks"][i].numpy(), ranks, atol=3)  # ties to the sixth decimal


def test_visible_pixels_change_no_score(scene):
    draws, truth, mask = scene
    hidden = mask.view(3, 1, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    repainted = per_image_scores(draws.where(hidden, torch.nan), truth.where(hidden, 1 - truth), mask)
    for name, values in per_image_scores(draws, truth, mask).items():
        assert torch.equal(values, repainted[name])


def test_every_image_is_scored_alone(scene):
    together = per_image_scores(*scene)
    alone = [per_image_scores(scene[0][:, i : i + 1], scene[1][i : i + 1], scene[2][i : i + 1]) for i in range(3)]
    for name, values in together.items():
        assert values.dtype == torch.float64 and torch.equal(values, torch.cat([one[name] for one in alone]))


def test_an_image_without_a_score_has_nan_alone(scene):
    """One with nothing hidden, whose ranks count nothing, and one with NaN in a draw."""
    draws, truth, mask = (x.clone() for x in scene)
    mask[0], draws[2, 1] = False, math.nan
    found, before = per_image_scores(draws, truth, mask), per_image_scores(*scene)
    for name in ("crps", "energy_score"):
        assert found[name].isnan().tolist() == [True, True, False] and found[name][2] == before[name][2]
    assert found["ranks"][0].tolist() == [0] * 5 and found["ranks"][1].isnan().all()
    assert torch.equal(found["ranks"][2], before["ranks"][2])


@pytest.mark.parametrize("level", [0.0, 1.0, 0.7])
def test_flat_patches_tie_in_all_coefficients_but_the_mean(level):
    """Rounding errors of the transform break no tie, whatever the level of truth and draws."""
    truth = torch.full((1, 3, 56, 56), level)
    mask = torch.ones(1, 49, dtype=torch.bool)
    for draws, means in [([level] * 3, [0.25] * 4), ([0.1, 0.5, 0.9], [sum(x < level for x in (0.1, 0.5, 0.9))])]:
        ranks = per_image_scores(torch.tensor(draws).view(3, 1, 1, 1, 1) * torch.ones(1, 3, 56, 56), truth, mask)
        expected = torch.full((4,), 63 / 4).double()
        expected += torch.tensor(means) if len(means) == 4 else torch.eye(4)[means[0]]
        assert torch.allclose(ranks["ranks"][0], 49 * 3 * expected, rtol=1e-12)


def test_black_for_white_is_the_worst_energy_score():
    black, white = torch.zeros(2, 1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    scores = per_image_scores(black, white, torch.ones(1, 4, dtype=torch.bool))
    assert scores["energy_score"].item() == pytest.approx(1, rel=1e-12)
    assert scores["crps"].item() == pytest.approx(8 / 64, rel=1e-12)  # the mean's coefficient is p times the mean


@pytest.mark.gpu
def test_scores_are_the_same_on_cpu_and_cuda(scene, device):
    cpu, gpu = per_image_scores(*scene), per_image_scores(*(x.to(device) for x in scene))
    for name, values in cpu.items():
        torch.testing.assert_close(gpu[name].cpu(), values, rtol=1e-9, atol=1e-9)
    assert coverage(gpu["ranks"][0])[1].device.type == device.type


def test_scores_stay_within_their_ranges(scene):
    draws, truth, mask = scene
    infos = {info.name: info for info in UNCERTAINTY}
    assert list(infos) == ["crps", "energy_score", "bits_per_dim", "expected_calibration_error", "luma_w2"]
    for x in (draws, 1 - draws, draws.round(), draws[:1], truth.expand_as(draws)):
        found = per_image_scores(x, truth, mask)
        for name in ("crps", "energy_score"):
            assert (found[name] >= infos[name].low).all() and (found[name] <= infos[name].high).all()
        grey = [colour_patches(v, 8)[:, :, 1].flatten(2).flatten(0, 1) for v in (x[0], truth)]
        w2 = plane(moments(torch.cat(grey, dim=1)), 64)[1]
        assert infos["luma_w2"].low <= w2 <= infos["luma_w2"].high
