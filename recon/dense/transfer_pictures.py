"""Pictures of a transfer: held-out images with what each encoder's heads found in them, kept beside the results."""

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, resize
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from losses import InvalidSetting, tensor_files
from recon.data.source import one_line
from recon.dense.scenes import IGNORED, Scene
from recon.dense.transfer_results import TransferRecord, file_of, tie
from recon.report.pictures import png, write_rows
from recon.run_folder import write_bytes

SHOWN = 8  # held-out images
SIDE = 256  # pixels of a picture's longer side, at most
OPACITY = 0.55
LABEL = 22  # characters of a line of a row's label
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
IMAGE, TRUTH = "image", "truth"  # rows


def row_of(encoder: str, head: str, variant: str) -> str:
    """The row of what an encoder's head found: "run/linear/frozen, 3 epochs"."""
    return "/".join(filter(None, (encoder, head, variant)))


@dataclass
class Pictures:
    """The first held-out images, what is in them and what was found: row -> uint8 (h, w, 3) of each image in turn.

    Rows are `IMAGE`, `TRUTH` and those of `row_of`. What was drawn first stays: it is of one seed.
    """

    rows: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add_class_map(self, number: int, row: str, scene: Scene, found: Tensor) -> None:
        """`found`: the class of each pixel, (H, W)."""
        if self._lacks(number, row):
            assert scene.class_map is not None
            self._add(number, row, scene, coloured(scene, scene.class_map), coloured(scene, found))

    def add_instances(self, number: int, row: str, scene: Scene, found: dict[str, Tensor]) -> None:
        """`found`: "boxes", "labels", "scores" and "masks" in the image's own size.

        As many are drawn as there are objects, the most confident ones: after a short training no score is high.
        """
        if self._lacks(number, row):
            truth = scene.instances
            assert truth is not None
            judged = ~truth.crowd
            best = found["scores"].argsort(descending=True)[: judged.sum()]
            true = boxed(scene, truth.boxes[judged], truth.labels[judged], truth.masks[judged])
            self._add(number, row, scene, true, boxed(scene, *(found[k][best] for k in ("boxes", "labels", "masks"))))

    def _lacks(self, number: int, row: str) -> bool:
        return number < SHOWN and number == len(self.rows.get(row, []))

    def _add(self, number: int, row: str, scene: Scene, truth: Tensor, found: Tensor) -> None:
        for name, picture in ((IMAGE, pil_to_tensor(scene.image)), (TRUTH, truth), (row, found)):
            if self._lacks(number, name):
                self.rows.setdefault(name, []).append(shrunk(picture).permute(1, 2, 0).numpy())


def write(folder: Path, record: TransferRecord, pictures: Pictures) -> None:
    """Writes the pictures as PNG, in a file of tensors, into a run's folder."""
    tensors = {
        f"{row}/{number:02}": torch.frombuffer(bytearray(png(picture)), dtype=torch.uint8)
        for row, shown in pictures.rows.items()
        for number, picture in enumerate(shown)
    }
    write_bytes(_file(folder, record), tensor_files.to_bytes(tensors, tie(record)))


def read(folder: Path, record: TransferRecord) -> Pictures:
    """The pictures in a run's folder of the record's encoder and scenes; empty where there are none.

    Raises:
        InvalidSetting: the file has changed since it was written.
    """
    path = _file(folder, record)
    if not path.is_file():
        return Pictures()
    try:
        stored = tensor_files.from_bytes(path.read_bytes())
        if stored.metadata != tie(record):
            return Pictures()
        rows: dict[str, list[np.ndarray]] = {}
        for name, content in sorted(stored.content.items()):
            picture = np.asarray(Image.open(io.BytesIO(content.numpy().tobytes())))
            rows.setdefault(name.rpartition("/")[0], []).append(picture)
        return Pictures(rows)
    except (OSError, ValueError, SafetensorError) as error:
        remedy = "remove it: the scores stay, and recon.transfer with again=true draws anew"
        raise InvalidSetting(f"{path} cannot be read ({one_line(error)}); {remedy}") from error


def _file(folder: Path, record: TransferRecord) -> Path:
    return file_of(folder, record.task, "pictures.safetensors")


def stacked(rows: Sequence[list[np.ndarray]]) -> list[np.ndarray]:
    """The pictures of each row as (n, S, S, 3) uint8, centred on white; S is the longest side of them all."""
    side = max(max(picture.shape[:2]) for shown in rows for picture in shown)
    return [np.stack([_centred(picture, side) for picture in shown]) for shown in rows]


def _centred(picture: np.ndarray, side: int) -> np.ndarray:
    height, width = picture.shape[:2]
    top, left = (side - height) // 2, (side - width) // 2
    around = ((top, side - height - top), (left, side - width - left), (0, 0))
    return np.pad(picture, around, constant_values=255)


def write_overview(path: Path, record: TransferRecord, pictures: Pictures) -> None:
    """Writes all pictures as one, rows labelled, where anything has been drawn."""
    labels = {IMAGE: IMAGE, TRUTH: TRUTH}
    for head, variant in record.ways():
        for key, encoder in record.encoders.items():
            labels[row_of(key, head, variant)] = ", ".join(filter(None, (encoder.label, head, variant)))
    drawn = {label: pictures.rows[row] for row, label in labels.items() if row in pictures.rows}
    if not drawn:
        return
    rows = {}
    for label, images in zip(drawn, stacked(list(drawn.values())), strict=True):
        shown = torch.from_numpy(images).movedim(-1, 1) / 255
        times = max(1, SIDE // shown.shape[-1])
        rows[textwrap.fill(label, LABEL)] = shown.repeat_interleave(times, 2).repeat_interleave(times, 3)
    write_rows(rows, key_of(record.data.classes), path)


def key_of(classes: Sequence[str]) -> str:
    """What the colours stand for, in words."""
    if len(classes) > len(COLOURS):
        return f"{len(COLOURS)} colours, which the classes take by turns"
    return ", ".join(f"{colour}: {name}" for name, colour in zip(classes, COLOURS, strict=False))


def coloured(scene: Scene, classes: Tensor) -> Tensor:
    """The image in grey under its classes' colours, of which ignored pixels have none: uint8 (3, H, W)."""
    known = [c for c in classes.unique().tolist() if c != IGNORED]
    masks = torch.stack([classes == c for c in known]) if known else torch.zeros(0, *classes.shape, dtype=torch.bool)
    grey = pil_to_tensor(scene.image.convert("L").convert("RGB"))  # or its colours would mix with those of the classes
    return draw_segmentation_masks(grey, masks, OPACITY, [colour_of(c) for c in known])


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
    image = draw_segmentation_masks(image, apart, OPACITY, colours)
    return draw_bounding_boxes(image, boxes, colors=colours, width=math.ceil(max(owner.shape) / SIDE))  # one, shrunk


def colour_of(label: int) -> Any:
    return list(COLOURS.values())[label % len(COLOURS)]


def shrunk(picture: Tensor) -> Tensor:
    """A picture, uint8 (3, h, w), of at most `SIDE` pixels; a smaller one as it is."""
    height, width = picture.shape[-2:]
    longer = max(height, width)
    if longer <= SIDE:
        return picture
    return resize(picture, [max(1, round(size * SIDE / longer)) for size in (height, width)], antialias=True)
