"""Bootstrap intervals, against scipy and simulated coverage."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from recon.metrics import intervals
from recon.metrics.intervals import difference_interval, mean_interval, multiplicities, resamples, statistic_interval


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ratio(sums: torch.Tensor) -> torch.Tensor:
    return sums[:, 0] / sums[:, 1]


def test_the_p_value_of_a_mean_is_scipy_s_t_test():
    values = normal(40, 3) + torch.tensor([0.0, 0.3, 3.0], dtype=torch.float64)
    expected = scipy.stats.ttest_1samp(values.numpy(), 0).pvalue
    assert [mean_interval(each).p for each in values.T] == pytest.approx(expected, rel=1e-9)
    counted = torch.cat([values, torch.ones(40, 1)], dim=1)
    assert statistic_interval(counted, lambda sums: sums[:, :3] / sums[:, 3:]).p == pytest.approx(expected, rel=1e-9)
    assert math.isnan(mean_interval(values[:9, 0]).p)


@pytest.fixture
def scipy_s_draws(monkeypatch):
    """Lets both draw the same images."""

    def draws(n: int, count: int, seed: int) -> torch.Tensor:
        return torch.from_numpy(np.random.default_rng(seed).integers(0, n, (count, n)))

    monkeypatch.setattr(intervals, "resamples", draws)
    intervals.multiplicities.cache_clear()
    yield
    intervals.multiplicities.cache_clear()


def scipy_s(data: tuple, statistic, paired: bool = False):
    found = scipy.stats.bootstrap(
        data, statistic, paired=paired, n_resamples=500, method="BCa", rng=np.random.default_rng(3)
    )
    return found.confidence_interval


def test_the_mean_has_scipy_s_interval(scipy_s_draws):
    values = normal(30).exp()
    found, expected = mean_interval(values, count=500, seed=3), scipy_s((values.numpy(),), np.mean)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert found.value == pytest.approx(values.mean().item(), rel=1e-12) and found.images == 30


def test_a_statistic_of_sums_has_scipy_s_interval(scipy_s_draws):
    rows = normal(30, 2).exp()
    found = statistic_interval(rows, ratio, count=500, seed=3)
    columns = tuple(rows.T.numpy())
    expected = scipy_s(columns, lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert found.value == pytest.approx(columns[0].sum() / columns[1].sum(), rel=1e-12) and found.images == 30


def test_a_difference_has_scipy_s_paired_interval(scipy_s_draws):
    a, b = normal(30, seed=1), normal(30, seed=2)
    found = difference_interval(a, b, count=500, seed=3)
    expected = scipy_s((a.numpy(), b.numpy()), lambda a, b, axis: (a - b).mean(axis), paired=True)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-10)


def test_the_same_arguments_draw_the_same_images():
    assert torch.equal(resamples(20, 50, 1), resamples(20, 50, 1))
    assert not torch.equal(resamples(20, 50, 1), resamples(20, 50, 2))
    assert resamples(20, 50).shape == (50, 20) and set(resamples(20, 50).flatten().tolist()) == set(range(20))


def test_multiplicities_count_the_draws():
    drawn, counts = resamples(20, 50, 1), multiplicities(20, 50, 1)
    assert counts.tolist() == [np.bincount(row, minlength=20).tolist() for row in drawn.numpy()]


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_hold_the_truth_as_often_as_they_say(level):
    """Of 1000 means of 100 images; within four binomial deviations, and half a percent that the method lacks."""
    held = 0
    for seed in range(1000):
        found = mean_interval(normal(100, seed=seed), level)
        held += found.low <= 0 <= found.high
    expected = level - 0.005
    assert held / 1000 == pytest.approx(expected, abs=4 * math.sqrt(level * (1 - level) / 1000))


def test_differences_exclude_zero_as_seldom_as_they_say():
    """Of 500 pairs of runs that differ by chance alone, on images that differ far more."""
    excluded = 0
    for seed in range(500):
        images = 10 * normal(100, seed=3 * seed)
        runs = [images + normal(100, seed=3 * seed + i) for i in (1, 2)]
        excluded += difference_interval(*runs).excludes_zero
    assert excluded / 500 == pytest.approx(0.055, abs=4 * math.sqrt(0.055 * 0.945 / 500))


@pytest.mark.parametrize(("n", "share"), [(10, 0.10), (20, 0.07), (50, 0.06), (256, 0.05)])
def test_few_images_exclude_zero_too_often_by_what_the_t_distribution_says(n, share):
    """Of 2000 sets of n images whose values are noise; within four binomial deviations.

    The interval is about the mean plus and minus 1.96 of its errors, those made without Bessel's correction.
    """
    expected = 2 * scipy.stats.t.sf(1.96 * math.sqrt((n - 1) / n), n - 1)
    assert round(expected, 2) == share  # as the module says
    values = normal(n, 2000, seed=n)
    found = statistic_interval(values, lambda sums: sums / n)
    for i in range(3):
        assert mean_interval(values[:, i])[:3] == pytest.approx([bounds[i] for bounds in found[:3]], rel=1e-9)
    excluded = np.mean((np.array(found.low) > 0) | (np.array(found.high) < 0))
    assert excluded == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 2000))


def test_a_difference_that_images_share_is_found_between_images_that_differ_more():
    images = 10 * normal(100, seed=1)
    a, b = images + 0.3, images + 0.1 * normal(100, seed=2)
    assert difference_interval(a, b).excludes_zero and difference_interval(b, a).excludes_zero
    low, high = mean_interval(a)[1:3]
    assert low < mean_interval(b).value < high


def test_a_run_does_not_differ_from_itself():
    values = normal(30)
    assert difference_interval(values, values) == (0, 0, 0, 30, 1)
    assert not difference_interval(values, values).excludes_zero
    both = torch.stack([values, values.exp()], dim=1)[:, None].repeat(1, 2, 1)
    assert statistic_interval(both, lambda sums: ratio(sums[:, 0]) - ratio(sums[:, 1]))[:3] == (0, 0, 0)


@pytest.mark.parametrize("value", [0.1, 1 / 3, -7.7])
def test_what_never_varies_has_no_width(value):
    assert mean_interval(torch.full((37,), value, dtype=torch.float64)) == (value, value, value, 37, 0)


def test_images_without_a_value_are_left_out():
    values = normal(30)
    gaps = torch.cat([values[:10], torch.tensor([math.nan, math.nan]), values[10:]])
    assert mean_interval(gaps) == mean_interval(values)
    a, b = gaps.clone(), 2 * gaps
    a[0], b[1] = math.nan, math.nan
    assert difference_interval(a, b) == difference_interval(values[2:], 2 * values[2:])
    rows = torch.stack([values.exp(), values.exp() + 1], dim=1)
    broken = torch.cat([rows, torch.tensor([[1, math.nan], [math.inf, 1]])])
    assert statistic_interval(broken, ratio) == statistic_interval(rows, ratio)


def test_one_image_has_a_value_and_no_interval():
    for found in (mean_interval(torch.tensor([3.0])), statistic_interval(torch.tensor([[3.0, 1.0]]), ratio)):
        assert found.value == 3 and found.images == 1
        assert math.isnan(found.low) and math.isnan(found.high) and not found.excludes_zero


def test_no_image_has_neither():
    nothing = torch.tensor([[1, math.nan]] * 4)
    for found in (mean_interval(nothing[:, 1]), statistic_interval(nothing, lambda sums: sums[:, 0])):
        assert all(math.isnan(x) for x in found[:3]) and found.images == 0 and not found.excludes_zero


def test_an_infinite_value_has_no_interval():
    """As PSNR of the truth."""
    for values in ([1, math.inf, 2], [math.inf, 1, 2]):
        found = mean_interval(torch.tensor(values))
        assert found.value == math.inf and math.isnan(found.low) and math.isnan(found.high)


def test_a_list_of_statistics_has_a_list_of_intervals():
    rows = normal(30, 2, 3).exp()
    together = statistic_interval(rows, ratio)
    each = [statistic_interval(rows[:, :, i], ratio) for i in range(3)]
    for field in ("value", "low", "high"):
        assert getattr(together, field) == pytest.approx([getattr(x, field) for x in each], rel=1e-12)


def test_a_sum_of_one_number_per_image_needs_no_second_dimension():
    values = normal(30)
    assert statistic_interval(values, lambda sums: sums / 30)[:3] == pytest.approx(mean_interval(values)[:3], rel=1e-9)


def test_half_the_confidence_lies_outside_on_either_side():
    """Of a mean of many images the interval is the normal one."""
    values = normal(200)
    found = mean_interval(values, level=0.9, count=20000)
    half = 1.6449 * values.std(correction=0).item() / math.sqrt(200)
    assert found.high - found.value == pytest.approx(half, rel=0.04)
    assert found.value - found.low == pytest.approx(half, rel=0.04)


def test_a_long_tail_is_covered_as_often_as_the_docstring_says():
    """Means of lognormal values; 600 intervals tell a share of 0.83 to 4.6%, three standard errors."""
    for n, share in ((10, 0.83), (256, 0.92)):
        found = [mean_interval(normal(n, seed=1000 * n + i).exp()) for i in range(600)]
        held = sum(i.low <= math.exp(0.5) <= i.high for i in found) / len(found)
        assert held == pytest.approx(share, abs=0.046), n


def test_values_that_are_all_equal_have_an_interval_of_no_width():
    for value in (0.3, 0.0):
        found = mean_interval(torch.full((20,), value, dtype=torch.float64))
        assert found == (value, value, value, 20, float(value == 0))
