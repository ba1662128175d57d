"""Pictures of reconstructions: rows of images as one PNG file, and the panels of the page."""

import base64
import io
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from recon.result_table import RowInfo
from recon.runs import write_atomically

GREY = 0.5
GAP = 2  # pixels between images
DRAWS = 3  # that the page shows, of however many there are
CONTRAST = 4  # of the standard deviation of draws


def reconstruction_rows(truth: Tensor, hidden: Tensor, composite: Tensor) -> dict[str, Tensor]:
    """Title -> (B, 3, H, W) in [0, 1]: truth, masked input, composite, and signed error (grey: none)."""
    shown = composite.clamp(0, 1)
    return {
        "truth": truth,
        "masked": torch.where(hidden, torch.full_like(truth, GREY), truth),
        "reconstruction": shown,
        "error": GREY + (shown - truth) / 2,
    }


def image_grid(rows: list[Tensor]) -> Tensor:
    """Rows of images (B, 3, H, W) in [0, 1], an image per column, white between: (3, h, w)."""
    lines = []
    for images in rows:
        padded = torch.nn.functional.pad(images.float().cpu(), (0, GAP, 0, GAP), value=1.0)
        lines.append(torch.cat(list(padded), dim=2))
    return torch.cat(lines, dim=1)[:, :-GAP, :-GAP]


def write_rows(rows: dict[str, Tensor], caption: str, path: Path) -> Tensor:
    """Writes labelled rows of images as one picture; returns the bare grid (3, h, w) in [0, 1]."""
    grid = image_grid(list(rows.values()))
    _, h, w = grid.shape
    scale = max(1, round(1000 / w))  # whole pixels, so that every pixel of an image is a square of the picture
    left, bottom, dpi = 180, 32, 100
    width, height = left + w * scale, bottom + h * scale
    figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi)
    axes = figure.add_axes((left / width, bottom / height, w * scale / width, h * scale / height))
    axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for i, title in enumerate(rows):
        y = bottom + h * scale * (1 - (i + 0.5) / len(rows))
        figure.text((left - 8) / width, y / height, title, ha="right", va="center", fontsize=10, parse_math=False)
    figure.text(left / width, bottom / 2 / height, caption, ha="left", va="center", fontsize=10, parse_math=False)
    with write_atomically(path) as file:
        figure.savefig(file, format="png")
    return grid


def panels(rows: Sequence[RowInfo], pictures: dict[str, Any]) -> list[dict[str, Any]]:
    """What is shown of each image, in the order of the rows: key of the row, label, note, `images` (n, H, W, 3).

    The truth's has no prediction: None. Behind the mean of draws come some of them, their standard deviation, which is
    shown as it is (`whole`), and the way from the run's mean to its first draw (`blend`: the keys of both rows).
    """
    found = []
    drawn = {row.key for row in rows} & pictures["rows"].keys()
    for row in rows:
        if row.key in pictures["rows"] or row.kind == "truth":
            images = None if row.kind == "truth" else pictures["rows"][row.key]
            found.append(_panel(row, row.label, images, row.note))
        if (draws := pictures["draws"].get(row.key)) is not None:
            found += _panels_of_draws(row, draws, pictures["hidden"], drawn)
    return found


def _panel(
    row: RowInfo, label: str, images: np.ndarray | None, note: str | None = None, **special: Any
) -> dict[str, Any]:
    """`caption`: what stands below it, where others of its row stand beside it."""
    plain = {"caption": label, "whole": False, "blend": None}
    return {"key": row.key, "label": label, "note": note, "images": images} | plain | special


def _panels_of_draws(row: RowInfo, draws: np.ndarray, hidden: np.ndarray, drawn: Set[str]) -> list[dict[str, Any]]:
    """Of (n, S, H, W, 3) uint8, `hidden` where (n, H, W); `drawn` are the keys of the rows that have pictures."""
    run = row.key.partition("/")[2]

    def beside(caption: str, images: np.ndarray | None, note: str | None = None, **special: Any) -> dict[str, Any]:
        return _panel(row, f"{run}: {caption}", images, note, caption=caption, **special)

    found = [beside(f"draw {i + 1}", draws[:, i]) for i in range(min(DRAWS, draws.shape[1]))]
    note = f"{CONTRAST} times, in every view; bright where it does not know"
    found.append(beside("deviation of the draws", deviation(draws) * hidden[..., None], note, whole=True))
    ends = [f"run/{run}", f"sample/{run}"]
    return [*found, beside("from the mean to a draw", None, blend=ends)] if drawn.issuperset(ends) else found


def deviation(draws: np.ndarray) -> np.ndarray:
    """`CONTRAST` times the standard deviation over S, (n, S, H, W, 3) uint8 -> (n, H, W, 3) uint8: its mean as grey."""
    grey = draws.std(1, dtype=np.float64).mean(-1, keepdims=True) * CONTRAST
    return np.rint(grey.clip(0, 255)).astype(np.uint8).repeat(3, -1)


def picture_data(shown: Sequence[dict[str, Any]], pictures: dict[str, Any]) -> dict[str, Any]:
    """What the lens derives every view of the panels that are `shown` from.

    Pixels are PNG without loss, patch masks strings of 0 and 1 row by row; the truth's panel has no prediction.
    """
    p, (height, width) = pictures["patch_size"], pictures["truth"].shape[1:3]
    at = {each["key"]: i for i, each in reversed(list(enumerate(shown)))}  # a row's first panel is its own
    return {
        "patch_size": p,
        "size": [height, width],
        "names": list(pictures["names"]),
        "masks": ["".join(map(str, mask[::p, ::p].astype(int).ravel())) for mask in pictures["hidden"]],
        "truth": [_png(image) for image in pictures["truth"]],
        "predictions": [
            None if each["images"] is None else [_png(image) for image in each["images"]] for each in shown
        ],
        "whole": [each["whole"] for each in shown],
        "blends": [each["blend"] and [at[key] for key in each["blend"]] for each in shown],
    }


def _png(image: np.ndarray) -> str:
    """(H, W, 3) uint8 as a data URI."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
