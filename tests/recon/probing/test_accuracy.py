"""Intervals of accuracies: closed forms, scipy, and how often they cover the truth."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import scipy.stats
import torch

from losses import InvalidSetting
from recon.probing.accuracy import accuracy, difference

TRIALS = 1000
TOLERANCE = 4 * (0.95 * 0.05 / TRIALS) ** 0.5  # binomial, 4 standard errors: 2.8 points


def answers(generator: torch.Generator, easy: torch.Tensor, seeds: int, wander: float, noise: float) -> torch.Tensor:
    """(seeds, n): right where an image's ease, a seed's and a single answer's luck sum to more than 0."""
    luck = noise * torch.randn(seeds, len(easy), generator=generator)
    return easy + wander * torch.randn(seeds, 1, generator=generator) + luck > 0


def truth(mean: float, *sigmas: float) -> float:
    return scipy.stats.norm.cdf(mean / np.hypot.reduce([1.0, *sigmas]))


def covered(seeds: int, wander: float, noise: float, images: int = 200) -> float:
    generator, expected = torch.Generator().manual_seed(0), truth(0.5, wander, noise)
    times = 0
    for _ in range(TRIALS):
        easy = 0.5 + torch.randn(images, generator=generator)
        found = accuracy(answers(generator, easy, seeds, wander, noise))
        times += found.low <= expected <= found.high
    return times / TRIALS


def test_one_seed_is_student_s_interval_of_the_images():
    correct = torch.arange(40)[None] % 4 > 0
    found = accuracy(correct)
    values = correct[0].double().numpy()
    low, high = scipy.stats.t.interval(0.95, 39, values.mean(), scipy.stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((0.75, low, high), rel=1e-12)
    assert found.covers == "images" and found.images == 40 and found.per_seed == (0.75,) and found.freedom == 39


def test_images_and_seeds_by_hand():
    correct = torch.tensor([[1, 1, 1, 0, 0, 1, 1, 1], [1, 0, 1, 0, 0, 1, 0, 1]]).bool()
    of_images, of_seeds = np.var([1, 0.5, 1, 0, 0, 1, 0.5, 1], ddof=1) / 8, np.var([0.75, 0.5], ddof=1) / 2
    freedom = (of_images + of_seeds) ** 2 / (of_images**2 / 7 + of_seeds**2 / 1)
    found = accuracy(correct)
    error = np.sqrt(of_images + of_seeds)
    assert (found.standard_error, found.freedom) == pytest.approx((error, freedom), rel=1e-12)
    half = scipy.stats.t.ppf(0.975, freedom) * error
    assert found.mean == 0.625 and found.covers == "images and seeds" and found.per_seed == (0.75, 0.5)
    assert (found.low, found.high) == pytest.approx((max(0, 0.625 - half), min(1, 0.625 + half)), rel=1e-12)


def test_two_probes_of_one_seed_are_the_paired_t_test():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(1, 60, generator=generator) < p for p in (0.9, 0.6))
    found = difference(a, b)
    theirs = scipy.stats.ttest_rel(a[0].double().numpy(), b[0].double().numpy()).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)
    assert found.excludes_zero and found.covers == "images"


def test_where_images_do_not_differ_seeds_are_compared_by_welch():
    # Every image is as hard as another for the means of the seeds, so that the first term vanishes.
    a = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1]]).bool()
    b = torch.tensor([[0, 1, 0, 0], [1, 0, 1, 1]]).bool()
    found = difference(a, b)
    theirs = scipy.stats.ttest_ind(a.double().mean(1).numpy(), b.double().mean(1).numpy(), equal_var=False)
    expected = theirs.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert found.freedom == pytest.approx(theirs.df) and found.covers == "images and seeds"


def test_differences_change_sign_with_their_order():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(3, 50, generator=generator) < 0.7, torch.rand(2, 50, generator=generator) < 0.6
    ours, theirs = difference(a, b), difference(b, a)
    assert (ours.mean, ours.low, ours.high) == pytest.approx((-theirs.mean, -theirs.high, -theirs.low), rel=1e-12)
    assert ours.mean == pytest.approx(accuracy(a).mean - accuracy(b).mean)


def test_a_probe_with_one_seed_is_said_to_leave_seeds_out():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(3, 50, generator=generator) < 0.7, torch.rand(1, 50, generator=generator) < 0.7
    assert difference(a, b).covers == difference(b, a).covers == difference(b, b).covers == "images"


def test_what_is_hard_for_both_falls_out_of_the_difference():
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(1, 400, generator=generator) < 0.5
    b = a.clone()
    b[0, a[0].nonzero()[:20, 0]] = False
    apart = accuracy(a).standard_error ** 2 + accuracy(b).standard_error ** 2
    assert difference(a, b).excludes_zero and difference(a, b).standard_error ** 2 < apart / 5


@pytest.mark.parametrize(("seeds", "wander", "noise"), [(1, 0.0, 0.5), (3, 0.0, 0.1), (3, 0.08, 0.3), (5, 0.1, 0.5)])
def test_the_truth_is_covered(seeds, wander, noise):
    assert 0.95 - TOLERANCE <= covered(seeds, wander, noise) <= 0.985


@pytest.mark.parametrize(("seeds", "share"), [(2, 0.88), (3, 0.92), (8, 0.94)])
def test_few_seeds_that_vary_more_than_images_cover_it_less_often(seeds, share):
    assert covered(seeds, wander=0.3, noise=0.3) == pytest.approx(share, abs=TOLERANCE)


def test_images_alone_would_not_cover_other_seeds():
    assert covered(1, wander=0.3, noise=0.3) < 0.7


def test_the_noise_of_single_answers_counts_twice_and_nothing_else_does():
    generator, seeds, images = torch.Generator().manual_seed(0), 3, 200
    squares, means = [], []
    for _ in range(TRIALS):
        coins = torch.rand(seeds, images, generator=generator) < 0.7
        squares.append(accuracy(coins).standard_error ** 2)
        means.append(accuracy(coins).mean)
    assert np.mean(squares) == pytest.approx(2 * 0.7 * 0.3 / (seeds * images), rel=0.1)
    assert np.var(means) == pytest.approx(0.7 * 0.3 / (seeds * images), rel=0.2)


@pytest.mark.parametrize(("seeds", "others"), [(1, 1), (3, 2)])
def test_equal_probes_are_told_apart_in_one_of_twenty(seeds, others):
    generator, times = torch.Generator().manual_seed(0), 0
    for _ in range(TRIALS):
        easy, wander = 0.5 + torch.randn(200, generator=generator), 0.2 * (seeds > 1)
        a, b = (answers(generator, easy, s, wander, 0.5) for s in (seeds, others))
        times += difference(a, b).excludes_zero
    # Seeds' noise, counted twice, makes it rarer, not more frequent.
    assert 0.01 < times / TRIALS <= 0.05 + TOLERANCE


@pytest.mark.parametrize("right", [True, False])
def test_all_right_and_all_wrong_have_the_exact_interval(right):
    found = accuracy(torch.full((2, 50), right))
    exact = scipy.stats.binomtest(50 * right, 50).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), rel=1e-12)


def test_intervals_stay_within_what_is_possible():
    correct = torch.ones(1, 20, dtype=torch.bool)
    correct[0, 0] = False
    assert accuracy(correct).high == 1 and accuracy(~correct).low == 0


def test_the_same_answers_do_not_differ():
    correct = torch.arange(40)[None] % 4 > 0
    found = difference(correct, correct)
    assert (found.mean, found.low, found.high) == (0, 0, 0) and not found.excludes_zero


def test_the_record_is_json():
    record = asdict(accuracy(torch.arange(40).view(2, 20) % 4 > 0))
    assert json.loads(json.dumps(record, allow_nan=False))["per_seed"] == [0.75, 0.75]


def test_wrong_shapes_are_named():
    with pytest.raises(InvalidSetting, match="1 images"):
        accuracy(torch.ones(3, 1, dtype=torch.bool))
    with pytest.raises(InvalidSetting, match="4 and 5 images"):
        difference(torch.ones(3, 4, dtype=torch.bool), torch.ones(3, 5, dtype=torch.bool))
