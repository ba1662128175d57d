"""Figures of reconstructions."""

from pathlib import Path

import matplotlib
import torch
from torch import Tensor

matplotlib.use("Agg")
from matplotlib import pyplot as plt

GREY = 0.5
GAP = 2


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
    figure = plt.figure(figsize=(width / dpi, height / dpi), dpi=dpi)
    axes = figure.add_axes((left / width, bottom / height, w * scale / width, h * scale / height))
    axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for i, title in enumerate(rows):
        y = bottom + h * scale * (1 - (i + 0.5) / len(rows))
        figure.text((left - 8) / width, y / height, title, ha="right", va="center", fontsize=10, parse_math=False)
    figure.text(left / width, bottom / 2 / height, caption, ha="left", va="center", fontsize=10, parse_math=False)
    temporary = path.with_name(path.name + ".tmp")
    figure.savefig(temporary, format="png")
    plt.close(figure)
    temporary.replace(path)
    return grid
