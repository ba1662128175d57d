"""Plots are drawn as they are: every value and interval of every row in its colour, under names as they are."""

import copy
import itertools
import math
import re
from functools import cache
from xml.etree import ElementTree

import matplotlib.image
import matplotlib.style
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from recon.report.drawing import STYLE, draw, row_styles, svg, write_png
from recon.report.plots import plots
from recon.report.series import Plot, Series
from recon.result_table import RowInfo
from tests.recon.report.comparison import ROWS, SCRIPT, typed

STYLES = row_styles(typed().rows)
ONE = row_styles([RowInfo("row", "row", "run")])
NAMES = ["_hidden", "$\\frac{1", "a\nb", SCRIPT, "<a href='x'>y</a>", "%{x} 80%mse", "a&b", "x" * 150]


def drawn(plot: Plot, styles=STYLES) -> Figure:
    with matplotlib.style.context(STYLE):
        figure = draw(plot, styles)
        figure.draw_without_rendering()
    return figure


PLOTS = {plot.name: plot for plot in plots(typed())}


@cache
def drawn_once(name: str) -> Figure:
    return drawn(PLOTS[name])


@cache
def svg_once(name: str) -> str:
    return svg(PLOTS[name], STYLES)


def lines(figure: Figure) -> list:
    """The lines of the series, in their order; others have no data of a row."""
    return [line for line in figure.axes[0].lines if (line.get_gid() or "").startswith("series-")]


def gaps(values) -> list[float]:
    return [math.nan if value is None else value for value in values]


def lone(name: str, **options) -> Plot:
    series = Series("row", name, [1.0, 2.0, None, 3.0], [2.0, 1.0, 5.0, None], notes=[name] * 4)
    return Plot("p", "t", "", "x", "y", [series], **options)


def texts(plot: Plot, styles) -> tuple[list[str], list[str]]:
    """Texts and tooltips of the SVG."""
    root = ElementTree.fromstring(svg(plot, styles))
    return [each.text for each in root.iter("text")], [each.text for each in root.iter("title")]


def test_rows_are_told_apart_on_white_and_on_black_and_the_ninth_run_too():
    rows = [RowInfo(f"run {i}", "", "run") for i in range(20)]
    rows += [row for row in typed().rows if row.kind != "run"]
    found = row_styles(rows)
    assert [style.position for style in found.values()] == list(range(len(rows)))
    for theme in ("light", "dark"):
        assert len({getattr(style, theme) for style in found.values()}) == len(rows)
    runs = list(found.values())[:20]
    assert all(a.marker != b.marker for a, b in itertools.pairwise(runs))
    others = {style.marker for style in list(found.values())[20:]}
    assert len(others) == len(rows) - 20 and not others & {style.marker for style in runs}


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_every_series_is_drawn_at_its_values_in_the_colour_and_marker_of_its_row(plot):
    figure = drawn_once(plot.name)
    found = lines(figure)
    for series, line in zip(plot.series, found, strict=True):
        np.testing.assert_array_equal(np.array(line.get_xdata(), float), gaps(series.x))
        np.testing.assert_array_equal(np.array(line.get_ydata(), float), gaps(series.y))
        style = STYLES[series.row]
        assert line.get_color() == style.light
        assert line.get_marker() == (style.marker if series.mark_every else "none")
    axes = figure.axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == tuple(
        "log" if log else "linear" for log in (plot.log_x, plot.log_y)
    )
    assert (axes.get_xlabel(), axes.get_ylabel()) == (plot.x_label, plot.y_label)
    if plot.ticks:
        assert list(axes.get_xticks()) == list(plot.ticks)
    dashes = {
        series.variant: line.get_linestyle() for series, line in zip(plot.series, found, strict=True) if series.line
    }
    assert len(set(dashes.values())) == len(dashes)


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_every_row_and_variant_has_an_entry_in_a_legend_that_covers_no_data(plot):
    figure = drawn_once(plot.name)
    rows = [text.get_text() for text in figure.legends[0].get_texts()]
    assert rows == list(dict.fromkeys(series.label for series in plot.series))
    variants = figure.axes[0].get_legend()
    assert [text.get_text() for text in variants.get_texts()] == plot.variants if variants else not plot.variants
    for legend in [figure.legends[0], *([variants] if variants else [])]:
        inner = figure.axes[0].get_window_extent()
        for text in legend.get_texts():
            assert not text.get_window_extent().overlaps(inner)


def test_intervals_reach_from_low_to_high():
    series = Series("row", "a", [1.0, 2.0], [5.0, 6.0], line=False, y_interval=[(4.5, 5.25), None])
    figure = drawn(Plot("p", "t", "", "x", "y", [series]), ONE)
    (bars,) = (each for each in figure.axes[0].collections if isinstance(each, LineCollection))
    assert [segment.tolist() for segment in bars.get_segments()] == [[[1, 4.5], [1, 5.25]], [[2, 6], [2, 6]]]
    assert bars.get_gid() == "row-0"


def test_a_point_tells_its_values_and_its_note_and_a_gap_has_none():
    _, titles = texts(lone("a"), ONE)
    assert titles == ["a", "a\nx 1\ny 2\na", "a\nx 2\ny 1\na"]


def test_zero_and_its_rounding_are_gaps_on_a_logarithmic_axis():
    series = Series("row", "a", [1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 10.0, 1e-33])
    plot = Plot("p", "t", "", "x", "y", [series], log_y=True)
    figure = drawn(plot, ONE)
    assert np.isnan(lines(figure)[0].get_ydata().astype(float)).tolist() == [False, True, False, True]
    assert texts(plot, ONE)[1] == ["a", "a\nx 1\ny 1", "a\nx 3\ny 10"]


@pytest.mark.parametrize("end", [1.5, 3, 10, 50, 1e3, 1e5, 1e8])
def test_a_logarithmic_axis_of_any_length_has_a_few_ticks_with_numbers(end):
    series = Series("row", "a", [1.0, end], [1.0, end])
    axes = drawn(Plot("p", "t", "", "x", "y", [series], log_x=True, log_y=True), ONE).axes[0]
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        shown = [tick.label1.get_text() for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        assert 2 <= len(shown) <= 12 and all(float(text) > 0 for text in shown)


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_the_same_plot_is_the_same_svg_whose_rows_can_be_told(plot):
    found = svg_once(plot.name)
    assert svg(copy.deepcopy(plot), STYLES) == found
    root = ElementTree.fromstring(found)
    rows = {STYLES[series.row].position for series in plot.series}
    for position in rows:
        assert f"var(--row-{position})" in found or ROWS[position][0] == "truth"
        # a line or points, the line of the legend, and its text
        assert len(root.findall(f".//g[@data-row='{position}']")) >= 3
    assert {int(each.get("data-row")) for each in root.iter() if each.get("data-row")} == rows
    assert "#" not in re.sub(r"#\w+\)|\"#\w+\"", "", found)  # every colour is a variable of the page
    assert "font-family" not in found and "<style" not in found


def test_no_two_plots_share_an_id_and_every_reference_is_met():
    everything = [svg_once(name) for name in PLOTS]
    ids = [each for text in everything for each in re.findall(r'\bid="([^"]*)"', text)]
    assert len(set(ids)) == len(ids)
    for text in everything:
        used = set(re.findall(r'url\(#(\w+)\)|href="#(\w+)"', text))
        assert {a or b for a, b in used} == set(re.findall(r'\bid="([^"]*)"', text))


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_drawn_as_it_is(tmp_path, name):
    shown, told = texts(lone(name), ONE)
    assert "\n".join(shown).endswith(name)  # lines of a text stand for themselves
    assert told[0] == name and told[1].startswith(name) and told[1].endswith(name)
    write_png(lone(name), ONE, tmp_path / "a.png")
    write_png(lone(name + "mm"), ONE, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_a_name_that_xml_cannot_hold_is_drawn_all_the_same():
    shown, _ = texts(Plot("p", "t", "", "x", "y", [Series("row", "a\x01b", [1.0], [2.0], mark_every=0)]), ONE)
    assert "a\N{REPLACEMENT CHARACTER}b" in shown


def test_a_long_name_widens_the_picture(tmp_path):
    widths = []
    for name in ("a", "m" * 150):
        write_png(lone(name), ONE, tmp_path / "p.png")
        widths.append(matplotlib.image.imread(tmp_path / "p.png").shape[1])
    assert widths[0] == 1280 and widths[1] > 1500


@pytest.mark.parametrize("log", [False, True])
def test_a_line_is_printed_in_the_colour_of_its_row(tmp_path, log):
    series = Series("row", "a", [0.1, 1.0, 10.0], [0.0, 1.0, 100.0], variant="b")
    plot = Plot("p", "t", "", "x", "y", [series], log_x=log, log_y=log, diagonal=True, guide=(1.0, 1.0), ticks=(1.0,))
    write_png(plot, ONE, tmp_path / "p.png")
    picture = matplotlib.image.imread(tmp_path / "p.png")[..., :3]
    colour = np.array([int(ONE["row"].light[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    assert (np.abs(picture - colour).max(-1) < 0.01).sum() > 500
