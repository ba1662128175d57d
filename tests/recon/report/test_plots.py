"""Every plot shows what the comparison holds, the same on the page and in print."""

import copy

import matplotlib.image
import numpy as np
import plotly.graph_objects
import pytest

from recon.report.drawing import Plot, Series, looks
from recon.report.figures import plotly_figure, write_picture
from recon.report.plots import plots, write_plots
from tests.recon.report.comparison import ROWS, SCRIPT, TRAINED, comparison


def drawn(found=None) -> dict[str, Plot]:
    return {plot.name: plot for plot in plots(found or comparison())}


def points(plot: Plot) -> dict[str, tuple[float, float]]:
    return {series.row: (series.x[0], series.y[0]) for series in plot.series}


def value(key: str, metric: str) -> float:
    return next(row for row in comparison()["rows"] if row["key"] == key)["values"][metric]["value"]


def without(metric: str) -> dict:
    found = copy.deepcopy(comparison())
    for row in found["rows"]:
        row["values"][metric] = {"value": None, "low": None, "high": None, "n": 0, "reason": "not defined"}
    return found


def test_perception_stands_against_distortion_where_both_are_defined():
    found = points(drawn()["perception_distortion"])
    assert found == {key: (value(key, "masked_mse"), value(key, "kid")) for key, _, _ in ROWS if key != "truth"}


def test_without_kid_perception_is_the_sliced_wasserstein_distance():
    found = without("kid")
    for i, row in enumerate(found["rows"]):
        row["values"]["sliced_wasserstein"] = {"value": i / 10, "low": i / 20, "high": i / 5}
    plot = drawn(found)["perception_distortion"]
    assert "Wasserstein" in plot.y_label
    assert [y for _, y in points(plot).values()] == [i / 10 for i in range(len(ROWS))]
    assert [series.y_interval for series in plot.series] == [[(i / 20, i / 5)] for i in range(len(ROWS))]


def test_without_either_there_is_no_such_plot():
    assert "perception_distortion" not in drawn(without("kid"))
    assert "sharpness_seams" not in drawn(without("tenengrad"))


def test_every_band_stands_at_its_coherence_and_retention_and_tells_its_frequency():
    plot = drawn()["retention_coherence"]
    assert plot.diagonal
    assert [series.row for series in plot.series] == [key for key, _, _ in ROWS]
    for series in plot.series:
        data = comparison()["bands"][series.row]
        assert (series.x, series.y) == (data["coherence"], data["retention"])
        assert series.text == [f"{frequency:.3g} cycles per pixel" for frequency in data["frequency"]]


@pytest.mark.parametrize(
    ("name", "table", "x", "columns"),
    [
        ("bands", "bands", "frequency", ["retention", "coherence"]),
        ("mtf", "bands", "frequency", ["gain"]),
        ("spectra", "spectra", "frequency", ["power"]),
        ("distance_error", "by_distance", "distance", ["mse"]),
        ("distance_recovery", "by_distance", "distance", ["retention", "coherence"]),
    ],
)
def test_curves_are_those_of_the_comparison(name, table, x, columns):
    plot, data = drawn()[name], comparison()[table]
    expected = [(key, data[key][x], data[key][column]) for key, _, _ in ROWS if key in data for column in columns]
    assert [(series.row, series.x, series.y) for series in plot.series] == expected
    assert len(plot.variants) == (len(columns) if len(columns) > 1 else 0)
    assert (plot.log_x, plot.log_y) == (name == "spectra", name == "spectra")


def test_the_truth_is_as_sharp_as_the_truth():
    plot = drawn()["sharpness_seams"]
    found = points(plot)
    assert found["truth"] == pytest.approx((value("truth", "seam_ratio"), 1.0), rel=1e-15)
    assert plot.guide == found["truth"]
    assert found["runs/mse"][1] == pytest.approx(value("runs/mse", "tenengrad") / value("truth", "tenengrad"))
    for series in plot.series:
        ((low, high),) = series.y_interval
        assert low <= series.y[0] <= high


def test_by_ratio_is_plotted_where_it_was_measured():
    assert not {"ratio_psnr", "ratio_recovery"} & set(drawn())
    curves = {"ratio": [0.5, 0.75], "psnr": [23.0, 21.0], "retention": [0.8, 0.6], "coherence": [0.7, 0.5]}
    found = drawn(comparison() | {"by_ratio": {"runs/mse": curves}})
    assert [series.y for series in found["ratio_psnr"].series] == [[23.0, 21.0]]
    assert [series.y for series in found["ratio_recovery"].series] == [[0.8, 0.6], [0.7, 0.5]]
    assert list(found["ratio_psnr"].ticks) == [0.5, 0.75]


def test_norms_and_cosines_over_training_are_told_apart_by_term():
    found = drawn()
    norms, cosines = found["gradient_norms"], found["gradient_cosines"]
    assert [(series.row, series.variant) for series in norms.series] == [
        (run, term) for run in TRAINED for term in ("mse", "perceptual")
    ]
    assert norms.variants == ["mse", "perceptual"] and norms.log_y
    assert cosines.variants == ["perceptual~mse"]
    for series in cosines.series:
        assert series.y == comparison()["training"][series.row]["curves"]["cosine/perceptual~mse"]


def test_rows_are_told_apart_on_white_and_on_black_and_the_ninth_run_too():
    rows = [{"key": f"run {i}", "kind": "run"} for i in range(20)]
    rows += [row for row in comparison()["rows"] if row["kind"] != "run"]
    found = looks(rows)
    assert [look.position for look in found.values()] == list(range(len(rows)))
    for theme in ("light", "dark"):
        assert len({getattr(look, theme) for look in found.values()}) == len(rows)


@pytest.mark.parametrize("name", drawn())
def test_plotly_takes_every_figure_and_draws_every_series(name):
    plot = drawn()[name]
    figure = plotly_figure(plot, looks(comparison()["rows"]))
    plotly.graph_objects.Figure(figure)  # refuses what it does not know
    lines = [trace for trace in figure["data"] if "meta" in trace]
    assert [(trace["x"], trace["y"]) for trace in lines] == [(list(s.x), list(s.y)) for s in plot.series]
    assert [ROWS[trace["meta"]["row"]][0] for trace in lines] == [series.row for series in plot.series]


def test_a_name_is_neither_a_tag_nor_a_template_for_plotly():
    for name in (SCRIPT, "<a href='x'>y</a>", "%{x} 80%mse", "a&b"):
        series = Series("row", name, [1.0], [2.0], text=[name])
        figure = plotly_figure(Plot("p", "t", "", "x", "y", [series]), looks([{"key": "row", "kind": "run"}]))
        (trace,) = figure["data"]
        told = trace["hovertemplate"].removeprefix("<b>").split("</b>")[0]
        for text in (trace["name"], told, *trace["text"]):
            assert not set("<>%") & set(text)


def test_intervals_reach_from_low_to_high():
    series = Series("row", "a", [1.0, 2.0], [5.0, 6.0], "markers", y_interval=[(4.5, 5.25), None])
    figure = plotly_figure(Plot("p", "t", "", "x", "y", [series]), looks([{"key": "row", "kind": "run"}]))
    bars = figure["data"][0]["error_y"]
    assert (bars["arrayminus"], bars["array"]) == ([0.5, 0.0], [0.25, 0.0])
    assert "error_x" not in figure["data"][0]


def test_every_plot_is_a_picture_file_too(tmp_path):
    paths = write_plots(comparison(), tmp_path)
    assert [path.name for path in paths] == [f"{name}.png" for name in drawn()]
    assert sorted(tmp_path.iterdir()) == sorted(paths)


@pytest.mark.parametrize("name", ["_hidden", "$\\frac{1", "a\nb", SCRIPT])
def test_any_name_is_printed_as_it_is(tmp_path, name):
    def printed(label: str) -> np.ndarray:
        series = [Series("row", label, [1.0, 2.0, None, 3.0], [2.0, 1.0, 5.0, None])]
        write_picture(Plot("p", "t", "", "x", "y", series), looks([{"key": "row", "kind": "run"}]), tmp_path / "p.png")
        return matplotlib.image.imread(tmp_path / "p.png")

    long, short = printed(name + "mmmmmmmmmm"), printed(name)
    assert long.shape[1] > short.shape[1]  # the legend has an entry, and it is this text


@pytest.mark.parametrize("log", [False, True])
def test_a_line_is_printed_in_the_colour_of_its_row(tmp_path, log):
    look = looks([{"key": "row", "kind": "run"}])
    lone = Series("row", "a", [0.1, 1.0, 10.0], [0.0, 1.0, 100.0], variant="b")
    plot = Plot("p", "t", "", "x", "y", [lone], log_x=log, log_y=log, diagonal=True, guide=(1.0, 1.0), ticks=(1.0,))
    write_picture(plot, look, tmp_path / "p.png")
    picture = matplotlib.image.imread(tmp_path / "p.png")[..., :3]
    colour = np.array([int(look["row"].light[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    assert (np.abs(picture - colour).max(-1) < 0.01).sum() > 500


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
