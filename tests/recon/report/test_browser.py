"""The whole page in a real browser: it opens, stays silent and harmless, and its plots belong together."""

from tests.recon.report.comparison import ROWS, SCRIPT, comparison

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
# [row, colour of line, colour of marker, shown] of every row's line in every plot
TRACES = """() => [...document.querySelectorAll(".plot")].flatMap(plot => plot.data.filter(trace => trace.meta)
    .map(trace => [trace.meta.row, trace.line.color, trace.marker.color, trace.visible]))"""


def draw_all(page) -> None:
    """Plots are drawn when they come near the window."""
    for plot in page.locator(".plot").all():
        plot.scroll_into_view_if_needed()
        plot.locator(".main-svg").first.wait_for()


def test_the_page_opens_from_disk_without_a_request_an_error_or_a_dialog(whole_page):
    draw_all(whole_page)
    whole_page.wait_for_load_state("networkidle")
    names = whole_page.eval_on_selector_all(".plot", "plots => plots.map(plot => plot.id)")
    assert names == [f"plot-{name}" for name in PLOTS]
    assert whole_page.locator("h1").inner_text() == comparison()["title"]
    assert whole_page.complaints == []


def test_no_plot_offers_to_upload_itself(whole_page):
    plot = whole_page.locator("#plot-bands")
    plot.scroll_into_view_if_needed()
    plot.hover()
    titles = whole_page.eval_on_selector_all(".modebar-btn", "all => all.map(one => one.dataset.title)")
    assert any("Zoom" in title for title in titles)
    assert not [title for title in titles if "share" in title.lower() or "cloud" in title.lower()]


def test_a_run_called_script_is_just_a_name(whole_page):
    places = ["#table th.name", "#rows label", "#panels figcaption", "#wipe option", "#differences th", "#made h3"]
    for place in places:
        assert whole_page.locator(place, has_text=SCRIPT).count() > 0, place
    assert whole_page.locator("h1 b, td script, th script, label script, option script").count() == 0
    plot = whole_page.locator("#plot-perception_distortion")
    plot.scroll_into_view_if_needed()
    plot.locator(".point").nth(2).hover(force=True)
    assert SCRIPT in plot.locator(".hovertext").text_content()
    assert whole_page.complaints == []


def test_a_row_has_one_colour_and_leaves_every_plot_together(whole_page):
    draw_all(whole_page)
    traces = whole_page.evaluate(TRACES)
    colours = {row: line for row, line, _, _ in traces}
    assert all(line == marker == colours[row] and shown for row, line, marker, shown in traces)
    assert len(set(colours.values())) == len(ROWS)
    whole_page.locator("#rows input").nth(1).uncheck()
    assert {row for row, _, _, shown in whole_page.evaluate(TRACES) if not shown} == {1}
    assert {row for row, _, _, shown in whole_page.evaluate(TRACES) if shown} == set(colours) - {1}


def test_the_page_follows_the_theme(whole_page):
    draw_all(whole_page)
    font = "() => document.querySelector('#plot-bands').layout.font.color"
    seen = {}
    for scheme in ("light", "dark"):
        whole_page.emulate_media(color_scheme=scheme)
        whole_page.wait_for_function(f"seen => !seen.includes(({font})())", arg=list(seen.values()))
        seen[scheme] = whole_page.evaluate(font)
    assert seen == {"light": "#1c1e21", "dark": "#e8e8e6"}
    assert whole_page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 21, 23)"
