"""What the canvases of the page hold, and what they should."""

import base64
import io
import json

import numpy as np
from PIL import Image

from tests.recon.report.comparison import label, pictures

PANEL, WIPE = 4, 10  # screen pixels per image pixel where nothing is zoomed
VIEWS = ["truth", "masked", "composite", "prediction", "error"]


def seen(view: str, prediction: np.ndarray, image: int = 0) -> np.ndarray:
    """A prediction (H, W, 3) uint8 in this view, from the arrays alone."""
    truth, hidden = pictures().truth[image], pictures().hidden[image][..., None]
    composite = np.where(hidden, prediction, truth)
    error = 128 + np.trunc((composite.astype(int) - truth) / 2)
    found = {"truth": truth, "masked": np.where(hidden, 128, truth), "composite": composite, "error": error}
    return (found | {"prediction": prediction})[view].astype(np.uint8)


def expected(view: str, key: str, image: int = 0) -> np.ndarray:
    """What a row shows, (H, W, 3) uint8."""
    return seen(view, pictures().rows[key][image], image)


def magnified(image: np.ndarray, scale: int) -> np.ndarray:
    return image.repeat(scale, 0).repeat(scale, 1)


def drawn(canvas) -> np.ndarray:
    """What a canvas holds, (h, w, 3) uint8."""
    uri = canvas.evaluate("canvas => canvas.toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))


def labelled(page, text: str):
    """The canvas of the panel with this label."""
    return page.locator(f"#pictures .panels figure[data-label={json.dumps(text)}] canvas")


def panel(page, key: str):
    """The canvas of a row's own panel."""
    return labelled(page, label(key))


def show(page, view: str) -> None:
    page.locator(f"#view input[value={view}]").check(force=True)
    page.wait_for_selector(f"#pictures[data-view={view}]")
