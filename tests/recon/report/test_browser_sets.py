"""Further sets of panels in a real browser, pixel by pixel: each has its own images and its own lens."""

import numpy as np
import pytest

from recon.report.page import write_page
from recon.report.pictures import Panel, PanelSet
from tests.recon.report.canvas import PANEL, drawn, expected, magnified, panel
from tests.recon.report.comparison import IMAGES, ROWS, pictures, typed

pytestmark = [pytest.mark.slow, pytest.mark.browser]

SIZE, SCALE = 80, 3  # pixels; of the screen per pixel, where nothing is zoomed
NAMES = ["first", "<b>second</b>"]
TITLES = ["one", "other"]


def images(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (len(NAMES), SIZE, SIZE, 3), dtype=np.uint8)


def shown(name: str) -> PanelSet:
    seed = 10 * TITLES.index(name)
    panels = [
        Panel(None, "image", "the held-out image", None),
        Panel("truth", "truth", "the truth", images(seed + 1)),
        Panel("runs/mse", "mse, a head", "mse", images(seed + 2), "a head"),
    ]
    return PanelSet(name, f"Set {name}", "What is seen.", NAMES, images(seed), panels)


@pytest.fixture
def page(open_page, tmp_path, without_drawing):
    opened = open_page(write_page(typed(), pictures(), tmp_path, [shown(name) for name in TITLES]))
    for name in TITLES:
        opened.wait_for_selector(f"#{name}[data-view]")
    return opened


def canvases(page, name: str) -> list:
    return page.locator(f"#{name} canvas").all()


def holds(page, name: str, image: int) -> bool:
    """Whether every panel shows its picture to the pixel."""
    seed = 10 * TITLES.index(name)
    found = [drawn(canvas) for canvas in canvases(page, name)]
    return all(np.array_equal(one, magnified(images(seed + i)[image], SCALE)) for i, one in enumerate(found))


def lens(page, name: str) -> set[tuple[str, str, str]]:
    """What the canvases of a section are seen under."""
    found = page.eval_on_selector_all(
        f"#{name} canvas", "all => all.map(c => [c.dataset.scale, c.dataset.x, c.dataset.y])"
    )
    return set(map(tuple, found))


def test_panels_show_their_pictures_as_they_are_in_every_view_of_the_reconstructions(page):
    assert [len(canvases(page, name)) for name in TITLES] == [3, 3]
    for view in ("truth", "error"):
        page.locator(f"#view input[value={view}]").check(force=True)
        page.wait_for_selector(f"#pictures[data-view={view}]")
        assert all(holds(page, name, 0) for name in TITLES)
    ids = page.eval_on_selector_all("[id]", "all => all.map(one => one.id)")
    assert len(set(ids)) == len(ids)


def test_an_image_is_chosen_for_one_set_alone(page):
    page.locator("#other .images label").nth(1).click()
    page.wait_for_selector("#other[data-image='1']")
    assert holds(page, "other", 1) and holds(page, "one", 0)
    assert page.locator("#other .image-name").inner_text() == "<b>second</b> (2 of 2)"
    page.locator("#one .panels").press("ArrowLeft")
    page.wait_for_selector("#one[data-image='1']")
    assert holds(page, "one", 1) and holds(page, "other", 1)
    assert np.array_equal(drawn(panel(page, "runs/mse")), magnified(expected("composite", "runs/mse"), PANEL))
    page.locator("#pictures .images button").first.click()
    page.wait_for_selector(f"#pictures[data-image='{IMAGES - 1}']")
    assert holds(page, "one", 1)


def test_one_lens_shows_the_same_place_in_all_panels_of_a_set_and_leaves_the_others(page):
    before = lens(page, "pictures"), lens(page, "other")
    canvas = page.locator("#one canvas").nth(2)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.25 * box["height"])
    page.mouse.wheel(0, -100)
    page.wait_for_selector("#one[data-zoom='1.25']")
    ((scale, x, y),) = lens(page, "one")
    assert float(scale) == pytest.approx(1.25 * SCALE)
    assert (float(x), float(y)) == pytest.approx((0.75 * SIZE * 0.2, 0.25 * SIZE * 0.2), abs=1)
    assert (lens(page, "pictures"), lens(page, "other")) == before
    page.locator("#one .panels").press("0")
    page.wait_for_selector("#one[data-zoom='1']")
    assert holds(page, "one", 0)


def test_a_row_that_is_switched_off_leaves_every_set_and_the_image_stays(page):
    keys = [key for key, _, _ in ROWS]
    for key, rest in (("runs/mse", ["image", "truth"]), ("truth", ["image"])):
        page.locator("#rows input").nth(keys.index(key)).uncheck()
        for name in TITLES:
            labels = "all => all.filter(one => !one.hidden).map(one => one.dataset.label)"
            assert page.locator(f"#{name} figure").evaluate_all(labels) == rest
    page.locator("#rows input").nth(keys.index("runs/mse")).check()
    assert page.locator("#other figure:visible").count() == 2


@pytest.mark.parametrize("width", [500, 1200])
def test_captions_stay_within_their_panels(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    over = "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.textContent)"
    assert page.locator("#one figcaption").evaluate_all(over) == []
