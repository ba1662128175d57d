"""Pictures of a transfer: held-out images with what each encoder's heads found in them."""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from recon.dense.scenes import IGNORED, Scene
from recon.report.pictures import write_rows

SHOWN = 8  # held-out images
SIDE = 192  # pixels of a picture
SURE = 0.5  # score from which a detection is drawn
OPACITY = 0.55
LABEL = 16  # characters of a line of a row's label
COLOURS = {
    "blue": "#3563d9",
    "orange": "#e06a12",
    "green": "#16946a",
    "pink": "#c2378a",
    "violet": "#7b50d6",
    "cyan": "#0b8fad",
    "red": "#cf3b38",
    "olive": "#6b7f12",
}  # of the classes, by turns


@dataclass
class Pictures:
    """The first held-out images: row -> pictures, in the order of the images. The first seed's and head's stay."""

    classes: list[str]
    rows: dict[str, dict[int, Tensor]] = field(default_factory=dict)

    def add_class_map(self, number: int, label: str, scene: Scene, found: Tensor) -> None:
        """`found`: the class of each pixel, (H, W)."""
        if number < SHOWN:
            truth = scene.class_map
            assert truth is not None
            self._add(number, "truth", lambda: coloured(scene, truth))
            self._add(number, label, lambda: coloured(scene, found))

    def add_instances(self, number: int, label: str, scene: Scene, found: dict[str, Tensor]) -> None:
        """`found`: "boxes", "labels", "scores" and "masks" in the image's own size."""
        if number < SHOWN:
            truth = scene.instances
            assert truth is not None
            judged, sure = ~truth.crowd, found["scores"] >= SURE
            self._add(
                number,
                "truth",
                lambda: boxed(scene, truth.boxes[judged], truth.labels[judged], truth.masks[judged]),
            )
            self._add(number, label, lambda: boxed(scene, *(found[k][sure] for k in ("boxes", "labels", "masks"))))

    def write(self, path: Path) -> None:
        """Writes rows of pictures, where anything has been drawn."""
        if self.rows:
            rows = {
                textwrap.fill(label, LABEL): torch.stack([of[n] for n in sorted(of)]) for label, of in self.rows.items()
            }
            names = zip(self.classes, COLOURS, strict=False)
            key = ", ".join(f"{colour}: {name}" for name, colour in names)
            write_rows(rows, key if len(self.classes) <= len(COLOURS) else "colours: classes, by turns", path)

    def _add(self, number: int, label: str, draw: Callable[[], Tensor]) -> None:
        row = self.rows.setdefault(label, {})
        if number not in row:
            row[number] = squared(draw())


def coloured(scene: Scene, classes: Tensor) -> Tensor:
    """The image under its classes' colours, ignored pixels as they are: uint8 (3, H, W)."""
    known = [c for c in classes.unique().tolist() if c != IGNORED]
    masks = torch.stack([classes == c for c in known]) if known else torch.zeros(0, *classes.shape, dtype=torch.bool)
    return draw_segmentation_masks(pil_to_tensor(scene.image), masks, OPACITY, [colour_of(c) for c in known])


def boxed(scene: Scene, boxes: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
    """The image with masks, the first on top, and boxes in their classes' colours: uint8 (3, H, W)."""
    image = pil_to_tensor(scene.image)
    if not len(boxes):
        return image
    colours = [colour_of(c) for c in labels.tolist()]
    owner = torch.zeros(masks.shape[1:], dtype=torch.int64)  # of each pixel: the first mask's number, from 1; 0: none
    for number in range(len(masks), 0, -1):
        owner[masks[number - 1]] = number
    apart = owner == torch.arange(1, len(masks) + 1)[:, None, None]  # or they would darken where they overlap
    return draw_bounding_boxes(draw_segmentation_masks(image, apart, OPACITY, colours), boxes, colors=colours)


def colour_of(label: int) -> Any:
    return list(COLOURS.values())[label % len(COLOURS)]


def squared(image: Tensor) -> Tensor:
    """A picture within a square of `SIDE` pixels, centred on white: float32 (3, SIDE, SIDE) in [0, 1]."""
    height, width = image.shape[-2:]
    factor = SIDE / max(height, width)
    size = max(1, round(height * factor)), max(1, round(width * factor))
    small = torch.nn.functional.interpolate(image[None].float() / 255, size, mode="bilinear", antialias=True)[0]
    paper = torch.ones(3, SIDE, SIDE)
    top, left = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
    paper[:, top : top + size[0], left : left + size[1]] = small
    return paper
