"""Differences are paired over images and corrected for their number, and a winner needs one that remains."""

import itertools
import math
from dataclasses import replace

import pytest
import scipy.stats
import torch

from recon.comparison import differences as module
from recon.comparison.differences import corrected, difference, differences, distances, holm, with_decisions
from recon.evaluation.protocol import Protocol
from recon.result_table import Column, Comparison, Difference, Results, RowInfo, Value
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


def compared(columns: list[Column], rows, own=()) -> Comparison:
    """The rows' differences, decided."""
    infos = [RowInfo(key, key, "run", own=own if key == "good" else ()) for key in rows]
    protocol = Protocol("photos", "val", N, (16, 16), 4, "random", 0.75, 0)
    found = Comparison("", "", protocol, "", None, columns, infos, Results(), {}, differences(columns, rows))
    return with_decisions(replace(found, distances=distances(columns, rows)))


def best(column: Column, rows, own=()) -> list[str]:
    return compared([column], rows, own).best[column.name]


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
    interval = difference("score", a, b, from_truth=True)
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
    assert difference("retention", b, b, from_truth=True).value == 0
    assert difference("retention", a, b, from_truth=True).value == pytest.approx(
        abs(2 * per_band.mean().item() - 1) - abs(per_band.mean().item() - 1), rel=1e-9
    )


def test_detail_differs_by_the_ratios_of_sums():
    one, two, truth = (hardness().abs() + offset for offset in (1, 2, 3))
    a, b = ((made_of({"run": {"tenengrad": x}, "truth": {"tenengrad": truth}}), "run") for x in (one, two))
    expected = (one.sum() - two.sum()) / truth.sum()
    assert difference("detail", a, b).value == pytest.approx(expected.item(), rel=1e-12)
    assert difference("detail", a, b, from_truth=True).value == pytest.approx(-expected.item(), rel=1e-12)


def test_the_p_value_of_a_mean_is_that_of_the_paired_t_test(rows):
    for a, b in itertools.combinations(rows, 2):
        x, y = (rows[key][0]["run/score"].numpy() for key in (a, b))
        expected = scipy.stats.ttest_rel(x, y).pvalue
        assert difference("score", rows[a], rows[b]).p == pytest.approx(expected, rel=1e-6)


def test_holm_by_hand_and_for_any_order():
    """Of 0.01, 0.04, 0.03, 0.005 (Holm 1979): times 4, 3, 2, 1 in their order, never falling."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    for order in itertools.permutations([0.01, 0.04, 0.03, 0.005]):
        assert dict(zip(order, holm(order), strict=True))[0.03] == pytest.approx(0.06)
    assert holm([0.5, 0.9]) == [1, 1] and holm([0.02]) == [0.02] and holm([]) == []


def test_a_family_of_equal_runs_has_a_false_difference_in_one_of_twenty():
    """Without the correction one of ten pairs of five equal runs is told apart in 28% of cases."""
    pairs = list(itertools.combinations(range(5), 2))
    values = torch.randn(400, 5, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).numpy()
    tests = {pair: scipy.stats.ttest_rel(*(values[:, i] for i in pair), axis=1) for pair in pairs}
    bounds = {pair: test.confidence_interval() for pair, test in tests.items()}
    alone = together = 0
    for i in range(len(values)):
        found = corrected(
            [
                Difference(
                    "score", str(a), str(b), 0.0, bounds[a, b].low[i], bounds[a, b].high[i], False, 20, test.pvalue[i]
                )
                for (a, b), test in tests.items()
            ]
        )
        alone += any(d.p <= module.LEVEL for d in found)
        together += any(d.excludes_zero for d in found)
        assert all((d.p_holm <= module.LEVEL) == d.excludes_zero for d in found)
    assert 10 <= together <= 30 < 80 <= alone  # of 400; 20 and 112 are expected


def test_the_columns_of_the_scoreboard_are_a_family_of_their_own():
    """A difference that remains among few comparisons need not remain among many."""
    generator = torch.Generator().manual_seed(0)
    scores = {name: torch.randn(2, N, dtype=torch.float64, generator=generator) for name in ("ssim", *"abcdefghij")}
    z = scores["ssim"][0]
    scores["ssim"] = torch.stack([(z - z.mean()) / z.std() + 2.6 / math.sqrt(N), torch.zeros(N)])  # t = 2.6
    scores["a"] = scores["ssim"].clone()
    runs = {key: (made_of({"run": {n: x[i] for n, x in scores.items()}}), "run") for i, key in enumerate(("x", "y"))}
    columns = [Column("group", name, "", "", None, None, "higher", "", paired=True) for name in scores]
    comparison = compared(columns, runs)
    found = {d.metric: d for d in comparison.differences}
    assert found["ssim"].p == found["a"].p < 0.05 and not found["a"].excludes_zero  # no row has a value: no scoreboard
    shown = Results(Value("", key, "ssim", value=0.5) for key in runs)
    again = with_decisions(replace(comparison, results=shown))
    found = {d.metric: d for d in again.differences}
    assert found["ssim"].p_holm == found["ssim"].p and found["ssim"].excludes_zero and again.best["ssim"] == ["x"]
    assert found["a"].p_holm == pytest.approx(10 * found["a"].p) and again.best["a"] == []


def test_a_run_whose_objective_minimised_the_network_is_not_ranked_by_it(rows):
    assert best(HIGHER, rows, own=("score",)) == []
    rows["bad"] = (made_of({"run": {"score": hardness() - 1 + noise(4)}, "truth": {"score": hardness()}}), "run")
    assert best(HIGHER, rows, own=("score",)) == ["same", "alike"]
