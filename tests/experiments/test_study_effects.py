"""Means over seeds and images, and Holm's correction."""

import math

import pytest
import scipy.stats
import torch

from experiments.study.effects import Effect, corrected, effect, pseudo_values


def test_one_seed_is_the_t_test_over_images():
    values = torch.randn(1, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.4
    found, theirs = effect(values), scipy.stats.ttest_1samp(values[0].numpy(), 0)
    assert found.p == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()))


def test_many_images_alike_is_the_t_test_over_seeds():
    """Where all images agree, the seeds alone vary."""
    seeds = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    found, theirs = effect(seeds[:, None].expand(3, 100)), scipy.stats.ttest_1samp(seeds.numpy(), 0)
    assert found.p == pytest.approx(theirs.pvalue)


def test_an_interval_holds_for_new_seeds_and_images():
    """Coverage of the mean 0 under crossed random effects, 600 studies of 3 seeds and 50 images."""
    generator = torch.Generator().manual_seed(0)
    inside = 0
    for _ in range(600):
        seeds, images, rest = (torch.randn(*shape, generator=generator) for shape in ((3, 1), (1, 50), (3, 50)))
        found = effect(0.1 * seeds + images + 0.5 * rest)
        inside += found.low <= 0 <= found.high
    assert 0.93 <= inside / 600 <= 0.99


def test_images_without_a_value_in_one_seed_are_left_out():
    values = torch.tensor([[1.0, 2.0, math.nan, 4.0], [1.5, 2.5, 3.0, 5.0]])
    assert effect(values) == effect(values[:, [0, 1, 3]])
    assert math.isnan(effect(values[:, 2:3]).value)


def test_equal_runs_do_not_differ_and_constant_shifts_do():
    same, shifted = effect(torch.zeros(3, 10)), effect(torch.full((3, 10), 0.1))
    assert (same.value, same.p, same.differs) == (0, 1, False)
    assert shifted.differs and shifted.low == pytest.approx(0.1)


def test_holm_is_that_of_the_textbook():
    """P-values of Holm's procedure, computed by hand: sorted ones times 4, 3, 2, 1, never falling."""
    ps = [0.01, 0.04, 0.03, 0.005, math.nan]
    found = corrected([Effect(1, 0, 2, p, p < 0.05, 3, 10) for p in ps])
    assert [e.p for e in found[:4]] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [e.differs for e in found] == [True, False, False, True, False]


def test_pseudo_values_of_a_mean_are_the_values():
    values = torch.rand(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sums = torch.stack([values, torch.ones(30, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(pseudo_values(sums, lambda s: s[:, 0] / s[:, 1]), values)


def test_pseudo_values_of_a_ratio_have_the_delta_methods_error():
    x, y = torch.rand(2, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    found = pseudo_values(torch.stack([x, y], dim=1), lambda s: s[:, 0] / s[:, 1])
    ratio = x.sum() / y.sum()
    assert found.mean().item() == pytest.approx(ratio.item(), rel=1 / 400)  # the jackknife also takes out bias
    assert found.std().item() == pytest.approx(((x - ratio * y) / y.mean()).std().item(), rel=0.01)
