"""Differences are paired over images, and a winner needs an interval that excludes zero."""

import pytest
import torch

from recon.comparison.differences import best, difference, differences, farther_from_truth
from recon.result_table import Column
from tests.recon.comparison.conftest import made_of

N = 60
HIGHER, LOWER, TRUTH = (
    Column("group", "score", "", "", None, None, better, "", paired=False) for better in ("higher", "lower", "truth")
)


def hardness() -> torch.Tensor:
    """What makes an image hard for every run: far larger than runs differ."""
    return 10 * torch.randn(N, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def noise(seed: int) -> torch.Tensor:
    return 0.1 * torch.randn(N, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def rows():
    """Three runs on the same images: `good` above `same` and `alike`, which do not differ."""
    scores = {"good": hardness() + 1 + noise(1), "same": hardness() + noise(2), "alike": hardness() + noise(3)}
    return {
        name: (made_of({"run": {"score": values}, "truth": {"score": hardness() + 5}}), "run")
        for name, values in scores.items()
    }


def test_a_run_does_not_differ_from_itself(rows):
    interval = difference("score", rows["good"], rows["good"])
    assert (interval.value, interval.low, interval.high) == (0, 0, 0) and not interval.excludes_zero


def test_a_small_difference_is_seen_through_images_that_differ_much_more(rows):
    interval = difference("score", rows["good"], rows["same"])
    assert interval.value == pytest.approx(1, abs=0.1) and interval.excludes_zero
    assert interval.high - interval.low < 0.2  # unpaired it would be about 7
    assert not difference("score", rows["same"], rows["alike"]).excludes_zero


def test_turned_round_a_difference_changes_its_sign(rows):
    there, back = difference("score", rows["good"], rows["same"]), difference("score", rows["same"], rows["good"])
    assert there.value == pytest.approx(-back.value, rel=1e-12)
    assert there.low == pytest.approx(-back.high, rel=1e-9)


def test_every_two_rows_are_compared_once(rows):
    found = differences([HIGHER], rows)
    assert [(d.a, d.b) for d in found] == [("good", "same"), ("good", "alike"), ("same", "alike")]
    assert [d.excludes_zero for d in found] == [True, True, False]


def test_the_leader_is_best_and_what_cannot_be_told_from_it(rows):
    assert best(HIGHER, rows) == ["good"]
    assert best(LOWER, rows) == ["same", "alike"]
    assert best(TRUTH, rows) == ["good"]  # the truth is above all of them


def test_where_no_interval_supports_a_winner_nobody_is_best(rows):
    del rows["good"]
    assert best(HIGHER, rows) == best(LOWER, rows) == []


def test_one_run_alone_is_not_best(rows):
    assert best(HIGHER, {"good": rows["good"]}) == []


def test_nearness_to_the_truth_counts_on_both_sides():
    above, below = ({"score": hardness() + offset} for offset in (0.5, -2.0))
    truth = {"score": hardness()}
    a, b = ((made_of({"run": each, "truth": truth}), "run") for each in (above, below))
    interval = farther_from_truth("score", a, b)
    assert interval.value == pytest.approx(-1.5) and interval.excludes_zero


def test_a_metric_that_one_row_lacks_has_no_difference(rows):
    empty = (made_of({"run": {}}), "run")
    assert difference("score", rows["good"], empty) is None
    assert difference("retention", rows["good"], empty) is None
    assert best(HIGHER, {"empty": empty, **rows}) == ["good"]


def test_a_row_with_too_few_values_for_an_interval_is_neither_best_nor_in_the_way(rows):
    few = torch.full((N,), torch.nan, dtype=torch.float64)
    few[:5] = 1000
    assert best(HIGHER, {"few": (made_of({"run": {"score": few}}), "run"), **rows}) == ["good"]


def test_recovery_differs_by_the_sums_of_both():
    moments = torch.rand(N, 4, 8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 1
    twice = moments.clone()
    twice[..., 2] *= 2  # twice the predicted energy
    a, b = ((made_of({"run": {"moments": m}}), "run") for m in (twice, moments))
    interval = difference("retention", a, b)
    per_band = (moments[..., 2].sum((0, 1)) / moments[..., 1].sum((0, 1)))[1:]
    assert interval.value == pytest.approx(per_band.mean().item(), rel=1e-9) and interval.excludes_zero
    assert farther_from_truth("retention", b, b).value == 0
