"""Figures of reconstructions."""

from pathlib import Path

import matplotlib
import torch
from torch import Tensor

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (after the backend is chosen)

GREY = 0.5
GAP = 2


def reconstruction_columns(truth: Tensor, hidden: Tensor, composite: Tensor) -> dict[str, Tensor]:
    """Title -> (B, 3, H, W) in [0, 1]: truth, masked input, composite, and signed error (grey: none)."""
    return {
        "truth": truth,
        "masked": torch.where(hidden, torch.full_like(truth, GREY), truth),
        "reconstruction": composite.clamp(0, 1),
        "error": (GREY + (composite.clamp(0, 1) - truth) / 2),
    }


def side_by_side(columns: dict[str, Tensor], caption: str, path: Path) -> Tensor:
    """Writes the columns as one labelled picture, an image per row; returns the bare grid (3, h, w) in [0, 1]."""
    grid = torch.cat([_stacked(images) for images in columns.values()], dim=2)[:, :, :-GAP]
    _, h, w = grid.shape
    scale = max(1, round(700 / w))  # whole pixels, so that every pixel of the image is a square of the picture
    dpi, top, bottom = 100, 26, 30
    figure = plt.figure(figsize=(w * scale / dpi, (h * scale + top + bottom) / dpi), dpi=dpi)
    height = h * scale + top + bottom
    axes = figure.add_axes((0, bottom / height, 1, h * scale / height))
    axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    column = w / len(columns)
    for i, title in enumerate(columns):
        figure.text((i + 0.5) * column / w, 1 - top / 2 / height, title, ha="center", va="center", fontsize=11)
    figure.text(0.5, bottom / 2 / height, caption, ha="center", va="center", fontsize=9, parse_math=False)
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary)
    plt.close(figure)
    temporary.replace(path)
    return grid


def _stacked(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (3, B*(H+gap)-gap, W+gap), white between."""
    padded = torch.nn.functional.pad(images.float().cpu(), (0, GAP, 0, GAP), value=1.0)
    return torch.cat(list(padded), dim=1)[:, :-GAP]
