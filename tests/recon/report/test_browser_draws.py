"""The draws of a predicted distribution on the page, pixel by pixel, and the slider from its mean to a draw."""

from dataclasses import replace

import numpy as np
import pytest

from recon.report.page import write_page
from tests.recon.report.canvas import PANEL, VIEWS, drawn, expected, labelled, magnified, seen, show
from tests.recon.report.comparison import ROWS, comparison, comparison_but, pictures, typed

pytestmark = [pytest.mark.slow, pytest.mark.browser]

KEYS = [key for key, _, _ in ROWS]
BLEND = "flow: from the mean to a draw"


def slider(page):
    return page.locator(".panels input")


def slide(page, alpha: float) -> None:
    slider(page).fill(f"{alpha:g}")
    page.wait_for_selector(f"#pictures[data-alpha='{alpha:g}']")


def shows(page, label: str, image: np.ndarray) -> bool:
    return np.array_equal(drawn(labelled(page, label)), magnified(image, PANEL))


def between(alpha: float, image: int = 0) -> np.ndarray:
    """The bytes nearest to mean + alpha (draw - mean)."""
    mean, draw = (pictures().rows[key][image].astype(float) for key in ("run/flow", "sample/flow"))
    return np.rint(mean + alpha * (draw - mean)).astype(np.uint8)


@pytest.mark.parametrize("view", ["composite", "prediction"])
def test_a_panel_of_a_draw_shows_this_draw(page, view):
    show(page, view)
    draws = pictures().draws["draws/flow"][0]
    for i in range(3):
        assert shows(page, f"flow: draw {i + 1}", seen(view, draws[i])), i
    assert len({image.tobytes() for image in draws}) == len(draws)
    assert labelled(page, "flow: draw 4").count() == 0


@pytest.mark.parametrize("view", VIEWS)
def test_the_deviation_is_shown_as_it_is_in_every_view(page, view):
    show(page, view)
    deviation = 4 * pictures().draws["draws/flow"][0].std(0).mean(-1, keepdims=True)
    deviation *= pictures().hidden[0][..., None]  # what is visible is known
    image = np.rint(deviation.clip(0, 255)).astype(np.uint8).repeat(3, -1)
    assert shows(page, "flow: deviation of the draws", image)
    hidden = pictures().hidden[0]
    assert image[hidden].mean() > 2 * image[~hidden].mean()  # as the example is made


@pytest.mark.parametrize("view", VIEWS)
def test_the_slider_goes_from_the_mean_to_a_draw(page, view):
    show(page, view)
    assert shows(page, BLEND, seen(view, between(0.5)))  # before it is touched
    for alpha in (0, 0.35, 1, 0.5):
        slide(page, alpha)
        assert shows(page, BLEND, seen(view, between(alpha))), alpha
        assert page.locator(".panels output").inner_text() == f"mean + {alpha:.2f} (draw \N{MINUS SIGN} mean)"
    for alpha, key in ((0, "run/flow"), (1, "sample/flow")):
        assert np.array_equal(between(alpha), pictures().rows[key][0])


def test_visible_pixels_of_the_blend_are_the_truths(page):
    visible = ~pictures().hidden[0].repeat(PANEL, 0).repeat(PANEL, 1)
    truth = magnified(pictures().truth[0], PANEL)
    for alpha in (0, 0.5, 1):
        slide(page, alpha)
        assert np.array_equal(drawn(labelled(page, BLEND))[visible], truth[visible])


def test_the_slider_stays_where_it_is_for_another_image(page):
    slide(page, 0.25)
    page.locator(".images label").nth(2).click()
    page.wait_for_selector("#pictures[data-image='2']")
    assert shows(page, BLEND, seen("composite", between(0.25, 2), 2))
    assert slider(page).input_value() == "0.25"


def test_arrows_on_the_slider_move_it_and_neither_image_nor_lens(page):
    slider(page).focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#pictures[data-alpha='0.55']")
    assert page.locator("#pictures").get_attribute("data-image") == "0"
    assert shows(page, "flow: draw 1", seen("composite", pictures().draws["draws/flow"][0, 0]))


def test_sliders_of_two_distributions_move_together(open_page, tmp_path):
    rows, shown = list(comparison()["rows"]), dict(pictures().rows)
    for kind, source in (("run", "runs/mse"), ("sample", "runs/adversarial"), ("draws", "draws/flow")):
        row = next(row for row in rows if row["key"] == f"{kind}/flow")
        rows.append(row | {"key": f"{kind}/other", "label": f"other ({kind})"})
        shown[f"{kind}/other"] = shown[source]
    draws = {key: pictures().draws["draws/flow"] for key in ("draws/flow", "draws/other")}
    found = typed(comparison() | {"rows": rows})
    page = open_page(write_page(found, replace(pictures(), rows=shown, draws=draws), tmp_path))
    slider(page).last.fill("1")
    page.wait_for_selector("#pictures[data-alpha='1']")
    assert [one.input_value() for one in slider(page).all()] == ["1", "1"]
    assert shows(page, BLEND, expected("composite", "sample/flow"))
    assert shows(page, "other: from the mean to a draw", expected("composite", "runs/adversarial"))


def test_a_row_takes_its_draws_with_it_and_brings_them_back(page):
    box = page.locator("#rows input").nth(KEYS.index("draws/flow"))
    group, every = page.locator(".draws"), page.locator(".panels figure:visible").count()
    labels = ["flow (mean of 5 draws)", *(f"flow: draw {i}" for i in (1, 2, 3)), "flow: deviation of the draws", BLEND]
    assert group.locator("figure").evaluate_all("all => all.map(one => one.dataset.label)") == labels
    box.uncheck()
    assert group.is_hidden() and page.locator(".panels figure:visible").count() == every - len(labels)
    box.check()
    assert group.is_visible() and page.locator(".panels figure:visible").count() == every
    assert shows(page, "flow: draw 2", seen("composite", pictures().draws["draws/flow"][0, 1]))


def test_a_page_without_distributions_has_no_slider_and_shows_its_pictures(open_page, tmp_path):
    found = comparison_but("run/flow", "sample/flow", "draws/flow")
    page = open_page(write_page(typed(found), replace(pictures(), draws={}), tmp_path))
    assert slider(page).count() == 0 and page.locator(".draws").count() == 0
    assert shows(page, "mse", expected("composite", "runs/mse"))


@pytest.mark.parametrize("width", [500, 1200])
def test_captions_of_draws_stay_within_their_panels(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    over = "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.textContent)"
    assert page.locator(".panels figcaption").evaluate_all(over) == []
    right = page.locator(".panels figure").evaluate_all("all => all.map(one => one.getBoundingClientRect().right)")
    assert max(right) <= width


def test_what_tells_the_rows_of_a_run_apart_is_not_cut_from_a_long_name(open_page, tmp_path):
    name = "a_name_that_says_all_there_is_to_say_about_a_run_of_400_epochs"
    rows = [row | {"label": row["label"].replace("flow (", f"{name} (")} for row in comparison()["rows"]]
    page = open_page(write_page(typed(comparison() | {"rows": rows}), pictures(), tmp_path))
    box = page.locator("#rows label", has_text="(mean of 5 draws)")
    cut = box.locator("span")
    assert cut.inner_text() == name and cut.evaluate("one => one.scrollWidth > one.clientWidth")
    assert box.get_attribute("title") == f"{name} (mean of 5 draws)"
