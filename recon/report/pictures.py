"""Pictures of reconstructions: rows of images as one PNG file, and the panels of the page."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from PIL import Image
from torch import Tensor

from recon.result_table import RowInfo
from recon.run_folder import write_atomically

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
    bottom, dpi = 32, 100
    lines = [line.replace("$", r"\$") for title in rows for line in title.split("\n")]
    widest = max(0.0, *(TextPath((0, 0), line, size=10).get_extents().width for line in lines))
    left = max(180, round(widest * dpi / 72) + 20)  # points to pixels
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


@dataclass(frozen=True)
class Pictures:
    """Images that were measured, and what is reconstructed of them; all uint8.

    Args:
        names: of the images.
        truth: (n, H, W, 3); `hidden`: where, (n, H, W) bool.
        rows: row key -> raw prediction (n, H, W, 3). A row without pictures has no panel, but for the truth.
        draws: key of a row that is the mean of some draws -> (n, S, H, W, 3).
    """

    patch_size: int
    names: Sequence[str]
    truth: np.ndarray
    hidden: np.ndarray
    rows: Mapping[str, np.ndarray]
    draws: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Panel:
    """What is shown of each image in one place: `images` (n, H, W, 3) uint8 of the row `key`; None for the truth.

    Args:
        key: None of what belongs to no row.
        caption: what stands below it, where others of its row stand beside it.
        whole: shown as it is in every view.
        blend: keys of two rows; the panel shows the way from the one to the other.
    """

    key: str | None
    label: str
    caption: str
    images: np.ndarray | None
    note: str | None = None
    whole: bool = False
    blend: tuple[str, str] | None = None


@dataclass(frozen=True)
class PanelSet:
    """Panels of further images, which are shown as they are, in a section of the page; the first one has no `images`.

    Args:
        name: unique, a word. title, about: what stands above the panels.
        names: of the images, (n, H, W, 3) uint8.
    """

    name: str
    title: str
    about: str
    names: Sequence[str]
    images: np.ndarray
    panels: Sequence[Panel]


def panels(rows: Sequence[RowInfo], pictures: Pictures) -> list[Panel]:
    """The panels of the page, in the order of the rows.

    Behind the mean of draws come some of them, their standard deviation, and the way from the run's mean to its first
    draw.
    """
    found = []
    drawn = {row.key for row in rows} & pictures.rows.keys()
    for row in rows:
        plain = Panel(row.key, row.label, row.label, None, row.note)
        if row.kind == "truth":
            found.append(plain)
        elif row.key in pictures.rows:
            found.append(replace(plain, images=pictures.rows[row.key]))
        if row.key in pictures.draws:
            run, draws = row.key.partition("/")[2], pictures.draws[row.key]
            captions: dict[str, dict[str, Any]] = {
                f"draw {i + 1}": {"images": draws[:, i]} for i in range(min(DRAWS, draws.shape[1]))
            }
            note = f"{CONTRAST} times, in every view; bright where it does not know"
            spread = deviation(draws) * pictures.hidden[..., None]
            captions["deviation of the draws"] = {"images": spread, "note": note, "whole": True}
            if drawn.issuperset(ends := (f"run/{run}", f"sample/{run}")):
                captions["from the mean to a draw"] = {"images": None, "blend": ends}
            found += [Panel(row.key, f"{run}: {caption}", caption, **shown) for caption, shown in captions.items()]
    return found


def deviation(draws: np.ndarray) -> np.ndarray:
    """`CONTRAST` times the standard deviation over S, (n, S, H, W, 3) uint8 -> (n, H, W, 3) uint8: its mean as grey."""
    grey = draws.std(1, dtype=np.float64).mean(-1, keepdims=True) * CONTRAST
    return np.rint(grey.clip(0, 255)).astype(np.uint8).repeat(3, -1)


def picture_data(shown: Sequence[Panel], pictures: Pictures) -> dict[str, Any]:
    """What the lens derives every view of the panels that are `shown` from.

    Pixels are PNG without loss, patch masks strings of 0 and 1 row by row; the truth's panel has no prediction.
    """
    p = pictures.patch_size
    at = {panel.key: i for i, panel in reversed(list(enumerate(shown)))}  # a row's first panel is its own
    return {
        "patch_size": p,
        "size": pictures.truth.shape[1:3],
        "names": pictures.names,
        "masks": ["".join(map(str, mask[::p, ::p].astype(int).ravel())) for mask in pictures.hidden],
        "truth": _pngs(pictures.truth),
        "predictions": [None if panel.images is None else _pngs(panel.images) for panel in shown],
        "whole": [panel.whole for panel in shown],
        "blends": [panel.blend and [at[key] for key in panel.blend] for panel in shown],
    }


def set_data(shown: PanelSet) -> dict[str, Any]:
    """What the lens shows a set of panels from, as `picture_data`."""
    return {
        "size": shown.images.shape[1:3],
        "names": shown.names,
        "truth": _pngs(shown.images),
        "predictions": [None if panel.images is None else _pngs(panel.images) for panel in shown.panels],
        "whole": [True] * len(shown.panels),
        "blends": [None] * len(shown.panels),
    }


def _pngs(images: np.ndarray) -> list[str]:
    """(n, H, W, 3) uint8 as data URIs."""
    return ["data:image/png;base64," + base64.b64encode(png(image)).decode() for image in images]


def png(image: np.ndarray) -> bytes:
    """An image (H, W, 3) uint8 as a file of PNG, without loss."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, format="PNG")
    return file.getvalue()
