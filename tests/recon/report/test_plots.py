"""Every plot shows what the comparison holds, the same on the page and in print."""

import copy

import pytest

from recon.report.drawing import Plot
from recon.report.plots import plots, write_plots
from tests.recon.report.comparison import ROWS, TRAINED, comparison, typed


def drawn(found=None) -> dict[str, Plot]:
    return {plot.name: plot for plot in plots(typed(found))}


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
        assert series.notes == [f"{frequency:.3g} cycles per pixel" for frequency in data["frequency"]]


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


def test_every_plot_is_a_picture_file_too(tmp_path, without_drawing):
    paths = write_plots(typed(), tmp_path)
    assert [path.name for path in paths] == [f"{name}.png" for name in drawn()]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
