"""The whole page in a real browser: it opens, stays silent and harmless, and its plots belong together."""

import pytest

from tests.recon.report.comparison import ROWS, SCRIPT, comparison

pytestmark = pytest.mark.browser

PLOTS = [
    "perception_distortion",
    "frontier",
    "ranks",
    "coverage",
    "retention_coherence",
    "bands",
    "mtf",
    "spectra",
    "sharpness_seams",
    "distance_error",
    "distance_recovery",
    "gradient_norms",
    "gradient_cosines",
    "sharpness_accuracy",
    "accuracy_by_depth",
    "accuracy_by_labels",
]
# [row, colour of its lines, colour of its markers, whether it is shown], of everything that is drawn of a row
DRAWN = """() => [...document.querySelectorAll(".plot g[data-row]")].flatMap(group => {
    const [line, marker] = [group.querySelector("path[clip-path], path:not(defs path)"), group.querySelector("use")];
    const colour = (one, name) => one && getComputedStyle(one)[name];
    const shown = colour(group, "display") !== "none";
    return [[Number(group.dataset.row), colour(line, "stroke"), colour(marker, "fill"), shown]];
})"""
SWATCHES = "all => all.map(one => getComputedStyle(one.querySelector('.swatch')).backgroundColor)"


def test_the_page_opens_from_disk_without_a_request_an_error_or_a_dialog(page):
    page.wait_for_load_state("networkidle")
    names = page.eval_on_selector_all(".plot", "plots => plots.map(plot => plot.id)")
    assert names == [f"plot-{name}" for name in PLOTS]
    assert all(box["width"] > 400 and box["height"] > 300 for box in map(_box, page.locator(".plot svg").all()))
    ids = page.eval_on_selector_all("[id]", "all => all.map(one => one.id)")
    assert len(set(ids)) == len(ids)
    assert page.locator("h1").inner_text() == comparison()["title"]
    assert page.complaints == []


def _box(locator) -> dict[str, float]:
    return locator.bounding_box()


@pytest.mark.slow
def test_a_run_called_script_is_just_a_name(page):
    places = [
        "#table th.name",
        "#rows label",
        ".panels figcaption",
        "#wipe option",
        "#differences th",
        "#made h3",
    ]
    for place in [*places, ".plot text", ".plot g > title", ".plot use > title"]:
        assert page.locator(place, has_text=SCRIPT).count() > 0, place
    assert page.locator("h1 b, td script, th script, label script, option script, svg script").count() == 0
    assert page.complaints == []


@pytest.mark.slow
def test_a_point_tells_its_row_and_its_values_on_hover(page):
    point = page.locator("#plot-perception_distortion g[data-row='1'] use").first
    values = next(row for row in comparison()["rows"] if row["key"] == "runs/mse")["values"]
    told = f"mse\nmasked MSE {values['masked_mse']['value']:.4g}\nKD-VGG19 {values['kid']['value']:.4g}"
    assert point.locator("title").text_content() == told


@pytest.mark.slow
def test_a_row_has_one_colour_and_leaves_every_plot_together(page):
    swatches = page.eval_on_selector_all("#rows label", SWATCHES)
    assert len(set(swatches)) == len(ROWS)
    drawn = page.evaluate(DRAWN)
    assert {row for row, *_ in drawn} == set(range(len(ROWS)))
    for row, line, marker, shown in drawn:
        assert {line, marker} - {None} <= {swatches[row]} and shown
    assert sum(line is not None for _, line, _, _ in drawn) > 100
    assert sum(marker is not None for _, _, marker, _ in drawn) > 100
    page.locator("#rows input").nth(1).uncheck()
    assert {row for row, _, _, shown in page.evaluate(DRAWN) if not shown} == {1}
    assert {row for row, _, _, shown in page.evaluate(DRAWN) if shown} == set(range(len(ROWS))) - {1}
    page.locator("#rows input").nth(1).check()
    assert page.evaluate(DRAWN) == drawn


@pytest.mark.slow
def test_the_text_of_a_plot_can_be_selected(page):
    page.evaluate("getSelection().selectAllChildren(document.getElementById('plot-bands'))")
    selected = page.evaluate("getSelection().toString()")
    assert "frequency (cycles per pixel)" in selected and "coherence γ²" in selected and SCRIPT in selected


@pytest.mark.slow
def test_the_page_follows_the_theme(page):
    places = ["#plot-bands text", "#plot-bands g[data-row='1'] use"]
    colours = "places => places.map(place => getComputedStyle(document.querySelector(place)).fill)"
    seen = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        seen[scheme] = page.evaluate(colours, places)
    assert seen == {
        "light": ["rgb(28, 30, 33)", "rgb(53, 99, 217)"],
        "dark": ["rgb(232, 232, 230)", "rgb(130, 164, 255)"],
    }
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 21, 23)"
