"""Plots of predicted distributions and what bounds them, and of representations."""

import pytest

from recon.report.plots import BLEND, LEAST, plots
from recon.report.series import Plot
from tests.recon.report.comparison import ROWS, TRAINED, comparison, typed

DRAWN = "draws/flow"


def drawn(**tables) -> dict[str, Plot]:
    return {plot.name: plot for plot in plots(typed(comparison() | tables))}


def line(plot: Plot, variant: str):
    (found,) = [series for series in plot.series if series.variant == variant]
    return found


def test_every_row_but_the_truth_stands_at_its_error_and_distance():
    points = {s.row: (s.x, s.y) for s in drawn()["frontier"].series if not s.line}
    planes = comparison()["planes"]
    assert points == {key: ([planes[key]["mse"]], [planes[key]["w2"]]) for key, _, _ in ROWS if key != "truth"}


def test_the_frontier_goes_from_the_row_of_least_error_to_the_square_of_its_distance():
    planes = comparison()["planes"]
    least = min((key for key, _, _ in ROWS if key != "truth"), key=lambda key: planes[key]["mse"])
    bound, (error, distance) = line(drawn()["frontier"], LEAST), planes[least].values()
    assert bound.row == least == "bayes"
    assert (bound.x[0], bound.y[0]) == (error, distance)
    assert (bound.x[-1], bound.y[-1]) == (pytest.approx(error + distance**2), 0)
    for x, y in zip(bound.x, bound.y, strict=True):
        assert x == pytest.approx(error + (distance - y) ** 2)


def test_a_row_that_has_seen_the_answer_bounds_nothing():
    oracle = next(row for row in comparison()["rows"] if row["key"] == "runs/adversarial") | {"key": "oracle/mse"}
    rows, planes = [*comparison()["rows"], oracle], {**comparison()["planes"], "oracle/mse": {"mse": 0.0, "w2": 0.01}}
    plot = drawn(rows=rows, planes=planes)["frontier"]
    assert line(plot, LEAST).row == "bayes"
    assert [series.x for series in plot.series if series.row == "oracle/mse"] == [[0.0]]
    alone = drawn(planes={"truth": planes["truth"], "oracle/mse": planes["oracle/mse"]}, rows=rows)["frontier"]
    assert [series.variant for series in alone.series] == [""]


def test_a_row_whose_error_is_not_defined_has_no_point():
    planes = comparison()["planes"] | {"bayes": {"mse": None, "w2": None}}
    plot = drawn(planes=planes)["frontier"]
    assert "bayes" not in {series.row for series in plot.series}
    assert line(plot, LEAST).row == "run/flow"


def test_from_the_mean_to_a_draw_starts_and_ends_at_their_points():
    blend, planes = line(drawn()["frontier"], BLEND), comparison()["planes"]
    assert blend.row == DRAWN and blend.notes[0] == "alpha 0" and blend.notes[-1] == "alpha 1"
    for i, key in ((0, "run/flow"), (-1, "sample/flow")):
        assert (blend.x[i], blend.y[i]) == pytest.approx(tuple(planes[key].values()))
    assert (blend.x, blend.y) == (comparison()["blends"][DRAWN]["mse"], comparison()["blends"][DRAWN]["w2"])


@pytest.mark.parametrize("draws", [2, 5, 16])
def test_flat_ranks_are_one_everywhere(draws):
    table = {"draws": draws, "ranks": [1 / (draws + 1)] * (draws + 1), "expected": [0.5], "coverage": [0.5]}
    (ranks,) = drawn(calibration={DRAWN: table})["ranks"].series
    assert ranks.row == DRAWN
    assert ranks.x == pytest.approx([i / draws for i in range(draws + 1)])
    assert ranks.y == pytest.approx([1] * (draws + 1))


def test_ranks_are_one_on_average():
    (ranks,) = drawn()["ranks"].series
    assert sum(ranks.y) / len(ranks.y) == pytest.approx(1)
    assert max(ranks.y) - min(ranks.y) > 0.1


def test_coverage_is_plotted_beside_the_diagonal():
    plot, table = drawn()["coverage"], comparison()["calibration"][DRAWN]
    assert plot.diagonal
    assert [(series.row, series.x, series.y) for series in plot.series] == [
        (DRAWN, table["expected"][::-1], table["coverage"][::-1])
    ]


def test_calibration_that_is_not_defined_is_a_gap():
    table = {"draws": 2, "ranks": [None] * 3, "expected": [1 / 3], "coverage": [None]}
    found = drawn(calibration={DRAWN: table})
    assert found["ranks"].series[0].y == [None] * 3 and found["coverage"].series[0].y == [None]


def test_without_distributions_there_is_no_calibration_and_without_planes_no_frontier():
    found = drawn(blends={}, calibration={})
    assert not {"ranks", "coverage"} & set(found)
    assert found["frontier"].variants == [LEAST]
    assert "frontier" not in drawn(planes={})


def test_accuracy_stands_against_sharpness_for_rows_that_have_both():
    plot = drawn()["sharpness_accuracy"]
    runs = [row for row in comparison()["rows"] if row["key"] in TRAINED]
    truth = next(row for row in comparison()["rows"] if row["kind"] == "truth")["values"]["tenengrad"]["value"]
    assert [series.row for series in plot.series] == [row["key"] for row in runs]
    for series, row in zip(plot.series, runs, strict=True):
        sharp = row["values"]["tenengrad"]
        assert series.x == [pytest.approx(sharp["value"] / truth)]
        assert series.x_interval == [(pytest.approx(sharp["low"] / truth), pytest.approx(sharp["high"] / truth))]
        assert series.y == [row["values"]["linear_mean"]["value"]]


def test_curves_of_accuracy_are_drawn_where_more_than_one_place_was_asked():
    found = drawn()
    depth = found["accuracy_by_depth"]
    assert [series.variant for series in depth.series] == ["linear mean", "linear class"] * 2 + ["linear mean"] * 2
    assert depth.series[1].y == [0.1, 0.2, None, 0.3] and depth.ticks == [1, 2, 3, 4]
    assert found["accuracy_by_labels"].log_x and found["accuracy_by_labels"].series[0].x == [0.01, 0.1, 1.0]
    assert "accuracy_by_blocks" not in found
