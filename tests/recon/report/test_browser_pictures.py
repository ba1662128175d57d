"""The pictures of the page in a real browser, pixel by pixel: views, lens, wipe, grid."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.recon.report.canvas import PANEL, VIEWS, WIPE, drawn, expected, magnified, panel, show
from tests.recon.report.comparison import IMAGES, ROWS, H, P, W, pictures

pytestmark = [pytest.mark.slow, pytest.mark.browser]

KEYS = [key for key, _, _ in ROWS]


def photographed(canvas) -> np.ndarray:
    """The pixels of the screen where a canvas is; browsers place what lies between pixels on the nearest."""
    canvas.scroll_into_view_if_needed()
    screen, box = Image.open(io.BytesIO(canvas.page.screenshot())), canvas.bounding_box()
    x, y, w, h = (round(box[name]) for name in ("x", "y", "width", "height"))
    return np.asarray(screen.convert("RGB"))[y : y + h, x : x + w]


def wipe(page):
    return page.locator("#wipe canvas")


def lenses(page) -> set[tuple[float, ...]]:
    """(zoom, x, y) of every canvas of the pictures."""
    found = page.eval_on_selector_all(
        "#pictures canvas",
        "all => all.map(c => [c.dataset.scale * c.dataset.x, c.dataset.scale, c.dataset.x, c.dataset.y, c.width])",
    )
    return {(round(scale * W / width, 9), float(x), float(y)) for _, scale, x, y, width in map(floats, found)}


def floats(values: list) -> list[float]:
    return [float(value) for value in values]


def turn_wheel(page, canvas, steps: int, at: tuple[float, float] = (0.5, 0.5)) -> None:
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + at[0] * box["width"], box["y"] + at[1] * box["height"])
    for _ in range(abs(steps)):
        before = page.evaluate("document.getElementById('pictures').dataset.zoom")
        page.mouse.wheel(0, -100 if steps > 0 else 100)
        page.wait_for_function("before => document.getElementById('pictures').dataset.zoom !== before", arg=before)


def settle(page) -> None:
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


@pytest.mark.parametrize("view", VIEWS)
def test_every_panel_shows_the_view_that_is_switched_on_to_the_pixel(page, view):
    show(page, view)
    for key in KEYS:
        assert np.array_equal(drawn(panel(page, key)), magnified(expected(view, key), PANEL)), key


def test_views_are_told_apart_by_these_pictures():
    images = [expected(view, "runs/mse") for view in VIEWS]
    assert len({image.tobytes() for image in images}) == len(VIEWS)
    assert (expected("error", "truth") == 128).all()


def test_a_screen_of_two_pixels_per_pixel_is_used_in_full(open_page, file):
    page = open_page(file, device_scale_factor=2)
    assert np.array_equal(drawn(panel(page, "mosaic")), magnified(expected("composite", "mosaic"), 2 * PANEL))


def test_zooming_one_panel_zooms_all_around_the_same_point(page):
    turn_wheel(page, panel(page, "runs/adversarial"), 2, at=(0.75, 0.25))
    ((zoom, x, y),) = lenses(page)
    assert zoom == pytest.approx(1.25**2)
    pointer = 1 / PANEL * (1 - 1 / zoom)  # it stands on whole pixels of the screen, the panel need not
    assert (x, y) == pytest.approx((0.75 * W * (1 - 1 / zoom), 0.25 * H * (1 - 1 / zoom)), abs=pointer)
    turn_wheel(page, wipe(page), 1)
    ((closer, _, _),) = lenses(page)
    assert closer == pytest.approx(1.25**3)


def test_at_the_deepest_zoom_every_block_of_the_screen_is_one_pixel_of_the_source(page):
    canvas = panel(page, "runs/adversarial")
    show(page, "prediction")
    turn_wheel(page, canvas, 11, at=(0.6, 0.4))
    page.mouse.move(0, 0)
    ((zoom, left, top),) = lenses(page)
    assert zoom * PANEL == 40
    screen, source = photographed(canvas), expected("prediction", "runs/adversarial")
    assert screen.shape == (H * PANEL, W * PANEL, 3)
    rows, columns = ((np.arange(n) + 0.5) / 40 + offset for n, offset in ((H * PANEL, top), (W * PANEL, left)))
    within = [np.abs(at - at.round()) * 40 > 1 for at in (rows, columns)]  # a border may fall to either side
    within[0][:5], within[0][-5:], within[1][:5], within[1][-5:] = (False,) * 4  # rounded corners
    exact = source[np.floor(rows).astype(int)][:, np.floor(columns).astype(int)]
    chosen = np.ix_(*within)
    assert np.array_equal(screen[chosen], exact[chosen])
    assert len(np.unique(exact[chosen].reshape(-1, 3), axis=0)) > 20


def test_zooming_out_ends_at_the_whole_image_and_then_scrolls_the_page(page):
    canvas = panel(page, "truth")
    turn_wheel(page, canvas, 2)
    turn_wheel(page, canvas, -2)
    assert lenses(page) == {(1, 0, 0)}
    before = page.evaluate("scrollY")
    page.mouse.wheel(0, 100)
    page.wait_for_function("before => scrollY > before", arg=before)
    assert lenses(page) == {(1, 0, 0)}


def test_dragging_one_panel_moves_all_and_a_double_click_resets(page):
    canvas = panel(page, "runs/mse")
    turn_wheel(page, canvas, 4)
    ((zoom, x, y),) = lenses(page)
    box = canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] - 20, middle[1] + 12, steps=3)
    page.mouse.up()
    settle(page)
    ((same, left, top),) = lenses(page)
    assert same == zoom
    assert (left - x, top - y) == pytest.approx((20 / PANEL / zoom, -12 / PANEL / zoom), abs=1e-6)
    canvas.dblclick()
    settle(page)
    assert lenses(page) == {(1, 0, 0)}


def test_the_lens_obeys_the_keyboard(page):
    page.locator(".panels").focus()
    for key in ("+", "+", "+", "-"):
        page.keyboard.press(key)
    settle(page)
    ((zoom, x, y),) = lenses(page)
    assert zoom == pytest.approx(1.25**2)
    for key, step in (("ArrowRight", (1, 0)), ("ArrowLeft", (-1, 0)), ("ArrowDown", (0, 1)), ("ArrowUp", (0, -1))):
        page.keyboard.press(key)
        settle(page)
        ((_, left, top),) = lenses(page)
        assert (left - x, top - y) == pytest.approx((step[0] * W / zoom / 10, step[1] * H / zoom / 10)), key
        x, y = left, top
    page.keyboard.press("0")
    settle(page)
    assert lenses(page) == {(1, 0, 0)}


@pytest.mark.parametrize("how", ["thumbnail", "button", "arrow"])
def test_another_image_is_chosen_by_thumbnail_button_or_arrow(page, how):
    if how == "thumbnail":
        page.locator(".images label").nth(IMAGES - 1).click()
    elif how == "button":
        page.locator(".images button").first.click()
    else:
        page.locator(".panels").press("ArrowLeft")
    page.wait_for_selector(f"#pictures[data-image='{IMAGES - 1}']")
    for key in KEYS:
        assert np.array_equal(drawn(panel(page, key)), magnified(expected("composite", key, IMAGES - 1), PANEL)), key
    assert pictures().names[-1] in page.locator(".image-name").inner_text()


def test_the_wipe_shows_one_row_left_of_its_handle_and_another_right_of_it(page):
    page.locator("#left").select_option(label="mosaic")
    page.locator("#right").select_option(label="truth")
    show(page, "prediction")
    for share in (0.25, 0.7):
        page.locator("#wipe input").fill(str(100 * share))
        found, at = drawn(wipe(page)), round(share * W * WIPE)
        left, right = (magnified(expected("prediction", key), WIPE) for key in ("mosaic", "truth"))
        assert np.array_equal(found[:, : at - 2], left[:, : at - 2])
        assert np.array_equal(found[:, at + 2 :], right[:, at + 2 :])
        assert (found[:, at - 1 : at + 1] == 255).all()


def test_a_zoomed_wipe_is_still_parted_at_its_handle(page):
    turn_wheel(page, wipe(page), 3, at=(0.9, 0.2))
    page.locator("#wipe input").fill("30")
    found = {}
    for left, right in (("mosaic", "truth"), ("mosaic", "mosaic"), ("truth", "truth")):
        page.locator("#left").select_option(label=left)
        page.locator("#right").select_option(label=right)
        found[left, right] = drawn(wipe(page))
    at = round(0.3 * W * WIPE)
    assert np.array_equal(found["mosaic", "truth"][:, :at], found["mosaic", "mosaic"][:, :at])
    assert np.array_equal(found["mosaic", "truth"][:, at:], found["truth", "truth"][:, at:])
    assert not np.array_equal(found["mosaic", "mosaic"], found["truth", "truth"])


def test_the_handle_of_the_wipe_can_be_dragged_and_leaves_the_lens_alone(page):
    canvas = wipe(page)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 50, steps=3)
    page.mouse.up()
    assert float(page.locator("#wipe input").input_value()) == pytest.approx(25, abs=0.5)
    assert lenses(page) == {(1, 0, 0)}


def test_the_patch_grid_lies_on_patch_borders_alone_and_goes_again(page):
    canvas = panel(page, "truth")
    plain = drawn(canvas)
    page.locator("#grid").check()
    touched = (drawn(canvas) != plain).any(2)
    step, size = P * PANEL, (H * PANEL, W * PANEL)
    near = [((np.arange(n) + 1) % step <= 1) for n in size]  # the pixel before and the pixel after a border
    assert touched[near[0]].all() and touched[:, near[1]].all()
    assert not touched[~near[0]][:, ~near[1]].any()
    page.locator("#grid").uncheck()
    assert np.array_equal(drawn(canvas), plain)


def test_rows_can_be_hidden_and_come_back(page):
    every = page.locator(".panels figure:visible").count()
    page.locator("#rows input").nth(KEYS.index("mosaic")).uncheck()
    assert panel(page, "mosaic").is_hidden()
    assert page.locator(".panels figure:visible").count() == every - 1
    page.locator("#rows input").nth(KEYS.index("mosaic")).check()
    assert np.array_equal(drawn(panel(page, "mosaic")), magnified(expected("composite", "mosaic"), PANEL))
