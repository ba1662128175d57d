"""The rank of the truth among draws, and how often their central intervals cover it."""

import math

import numpy as np
import pytest
import scipy.fft
import scipy.stats
import torch

from recon.metrics.uncertainty import (
    coverage,
    expected_calibration_error,
    rank_counts,
)
from tests.recon.metrics.scenes import normal, uniform

MANY = 40000


def of_hidden(draws: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Rank counts of the patches of draws (S, B, N, ...) and truth (B, N, ...) that count: (B, S+1)."""
    return rank_counts(draws[..., None][:, weight].flatten(2), truth[..., None][weight].flatten(1), weight)


def histogram(draws: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Rank counts of draws (S, n) and truth (n,), as one image of n patches: (S+1,)."""
    return of_hidden(draws[:, None], truth[None], torch.ones(1, len(truth), dtype=torch.bool))[0]


def test_ranks_are_equally_frequent_where_draws_have_the_truth_s_distribution():
    """Draws share their mean with the truth, which differs from one value to another."""
    centre = 3 * normal(MANY)
    counts = histogram(centre + normal(7, MANY, seed=1), centre + normal(MANY, seed=2))
    assert counts.sum() == MANY
    low, high = scipy.stats.chi2(7).ppf([0.001, 0.999])
    assert low < scipy.stats.chisquare(counts.numpy()).statistic < high


def test_overconfident_draws_make_a_u_and_timid_draws_a_hump():
    truth, draws = normal(MANY), normal(7, MANY, seed=1)
    narrow, wide = histogram(0.5 * draws, truth), histogram(2 * draws, truth)
    assert (narrow.diff()[:3] < 0).all() and (narrow.diff()[4:] > 0).all()
    assert (wide.diff()[:3] > 0).all() and (wide.diff()[4:] < 0).all()


def test_a_shift_of_the_draws_tilts_the_ranks():
    counts = histogram(0.5 + normal(7, MANY, seed=1), normal(MANY))
    assert (counts.diff() < 0).all()


@pytest.mark.parametrize(
    ("draws", "expected"),
    [
        ([0.0, 0.4, 1.0], [0, 0, 1, 0]),
        ([0.0, 0.1, 0.5], [0, 0, 0.5, 0.5]),
        ([0.5, 1.0, 0.5], [1 / 3, 1 / 3, 1 / 3, 0]),
        ([0.5, 0.5, 0.5], [0.25, 0.25, 0.25, 0.25]),
        ([0.9, 0.9, 0.9], [1, 0, 0, 0]),
    ],
)
def test_a_tie_counts_in_equal_parts_for_every_rank_it_allows(draws, expected):
    counts = histogram(torch.tensor(draws)[:, None], torch.tensor([0.5]))
    np.testing.assert_allclose(counts.numpy(), expected, rtol=1e-15)


def test_rank_counts_are_the_mean_over_all_ways_to_break_ties():
    """Jitter smaller than any difference breaks them; 5 deviations of its mean over repetitions."""
    draws, truth, repeats = (4 * uniform(3, 60)).floor(), (4 * uniform(60, seed=1)).floor(), 400
    counts = histogram(draws, truth)
    jittered = [
        histogram(draws + 0.1 * uniform(3, 60, seed=2 * i + 2), truth + 0.1 * uniform(60, seed=2 * i + 3))
        for i in range(repeats)
    ]
    jittered = torch.stack(jittered)
    assert counts.sum().item() == pytest.approx(60, rel=1e-14)
    assert ((counts - jittered.mean(0)).abs() < 5 * jittered.std(0) / math.sqrt(repeats)).all()


def test_every_value_of_a_weighted_patch_has_one_rank_in_its_image():
    draws, truth = normal(4, 3, 10, 3, 2, 2), normal(3, 10, 3, 2, 2, seed=1)
    draws[0, :, 4] = truth[:, 4]
    weight = uniform(3, 10) < 0.6
    counts = of_hidden(draws, truth, weight)
    assert counts.shape == (3, 5) and counts.dtype == torch.float64
    assert torch.allclose(counts.sum(1), 12 * weight.sum(1).double(), rtol=1e-14)
    for i in range(3):
        alone = histogram(draws[:, i, weight[i]].flatten(1), truth[i, weight[i]].flatten())
        assert torch.allclose(counts[i], alone, rtol=1e-14)
    first = torch.arange(10) < 5
    parts = of_hidden(draws, truth, weight & first) + of_hidden(draws, truth, weight & ~first)
    assert torch.allclose(counts, parts, rtol=1e-14)


def test_ranks_ignore_patches_without_weight_and_nan_spoils_one_image():
    draws, truth, weight = normal(4, 3, 10, 2), normal(3, 10, 2, seed=1), uniform(3, 10) < 0.6
    counts = of_hidden(draws, truth, weight)
    draws[:, ~weight], truth[~weight] = math.nan, 7
    assert torch.equal(of_hidden(draws, truth, weight), counts)
    draws[2, 1, weight[1]] = math.nan
    found = of_hidden(draws, truth, weight)
    assert found[1].isnan().all() and torch.equal(found[::2], counts[::2])


@pytest.mark.parametrize("s", [1, 2, 4, 7])
def test_coverage_of_equal_counts_is_what_is_expected(s):
    expected, found = coverage(torch.full((s + 1,), 12.0, dtype=torch.float64))
    assert expected.shape == found.shape == (s // 2,)
    assert torch.allclose(found, expected, rtol=1e-14)
    assert expected.tolist() == [(s + 1 - 2 * k) / (s + 1) for k in range(1, s // 2 + 1)]


def test_coverage_is_the_share_of_truths_between_the_kth_lowest_and_highest_draw():
    draws, truth = normal(6, 500), normal(500, seed=1)
    expected, found = coverage(histogram(0.7 * draws, truth))
    ordered = 0.7 * draws.sort(0).values
    for k in (1, 2, 3):
        between = (ordered[k - 1] < truth) & (truth < ordered[-k])
        assert found[k - 1].item() == pytest.approx(between.double().mean().item(), rel=1e-12)
    assert (found < expected).all()  # overconfident


def test_calibrated_draws_cover_as_expected():
    """Within 5 binomial deviations."""
    expected, found = coverage(histogram(normal(9, MANY), normal(MANY, seed=1)))
    assert ((found - expected).abs() < 5 * (expected * (1 - expected) / MANY).sqrt()).all()


def test_the_calibration_error_is_zero_for_equal_counts_and_for_one_draw_not_defined():
    counts = torch.tensor([[12.0] * 5, [30.0, 0, 0, 0, 30.0], [0, 0, 60.0, 0, 0]], dtype=torch.float64)
    # Of four draws the two central intervals hold 0.6 and 0.2: nothing lies in them, or all.
    assert expected_calibration_error(counts).tolist() == pytest.approx([0, (0.6 + 0.2) / 2, (0.4 + 0.8) / 2])
    assert expected_calibration_error(counts[0]).item() == 0
    assert expected_calibration_error(torch.ones(2, dtype=torch.float64)).isnan()


def test_the_calibration_error_tells_a_perfect_sampler_from_too_narrow_and_too_wide_ones():
    """The share of truths N(0, 1) between two of nine draws N(0, s²), counted by numpy."""
    errors = {}
    for s in (0.6, 1, 1.6):
        draws, truth = s * normal(9, MANY), normal(MANY, seed=1)
        errors[s] = expected_calibration_error(histogram(draws, truth)).item()
        ordered, y = np.sort(draws.numpy(), 0), truth.numpy()
        found = [np.mean((ordered[k] < y) & (y < ordered[8 - k])) for k in range(4)]
        assert errors[s] == pytest.approx(np.mean(np.abs(np.array(found) - [0.8, 0.6, 0.4, 0.2])), abs=1e-12)
    assert errors[1] < 0.01 < 0.1 < min(errors[0.6], errors[1.6])
