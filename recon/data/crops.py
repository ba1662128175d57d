"""Training and evaluation crops, made by the loader or, under `data.augment=device`, on the device that trains.

For the device the loader only copies the crops' pixels. The device resizes and mirrors the whole batch with PIL's own
filter (antialiased bicubic, columns first, then rows, rounded to 8 bits after each) as two products with a matrix per
sample. The filter's weights are rounded to multiples of 2^-15, so that every sum is exact in float32 and a sample does
not depend on its batch. It differs from `training_crop` by one grey level, rarely two, in less than 2% of the values.

kornia 0.9 has no such resize: `crop_and_resize` and `warp_affine` alias; `crop_by_indices(antialias=True)` resizes one
sample after the other, 75% of the values differ from PIL's, by up to 52 grey levels, and it takes twice the time
(`python -m experiments.benchmarks.libraries`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import ColorJitter, RandomCrop, RandomResizedCrop
from torchvision.transforms.functional import pil_to_tensor

from losses import InvalidSetting
from recon.config import CROP_SCALE
from recon.data.source import Croppable

RATIO = [3 / 4, 4 / 3]
COVERED = 0.875  # of the shorter side, by the evaluation crop
LONG, LONG_PIXELS = 4, 16  # beyond these the ends of a long image are cut off before it is resized

# 8 bits of a pixel and 15 of a filter's weight, with their sum, are what float32 holds exactly.
UNIT = 2**15
LEVELS = 255


def training_crop(
    image: Croppable,
    size: tuple[int, int],
    native: bool = False,
    scale: Sequence[float] = CROP_SCALE,
    colour_jitter: float = 0.0,
) -> Tensor:
    """A random crop of an RGB image, mirrored half of the time: uint8 (3, H, W), size (H, W).

    Drawn from torch's default CPU generator; resized, unless the image is native. `scale`: its smallest and largest
    share of the image's area. `colour_jitter`: as of `random_crop`.

    Raises:
        InvalidSetting: a native image is smaller than the crop.
    """
    part, mirrored = random_crop(image, size, native, scale, colour_jitter)
    if not native:
        part = part.resize((size[1], size[0]), Image.Resampling.BICUBIC)  # antialiased
    return pil_to_tensor(part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else part)


def random_crop(
    image: Croppable,
    size: tuple[int, int],
    native: bool = False,
    scale: Sequence[float] = CROP_SCALE,
    colour_jitter: float = 0.0,
) -> tuple[Image.Image, bool]:
    """What `training_crop` resizes, and whether it mirrors it.

    `colour_jitter`: brightness, contrast and saturation change by up to this share, the hue by a quarter of it of the
    colour circle, in random order (torchvision's ColorJitter). With 0 nothing is drawn for it.
    """
    shape = torch.empty((3, image.height, image.width), device="meta")  # all that torchvision wants to know
    if native:
        check_size(image, size)
        top, left, height, width = RandomCrop.get_params(shape, size)
    else:
        top, left, height, width = RandomResizedCrop.get_params(shape, list(scale), RATIO)
    mirrored = bool(torch.rand(()) < 0.5)
    part = image.crop((left, top, left + width, top + height))
    if colour_jitter:
        part = ColorJitter(colour_jitter, colour_jitter, colour_jitter, colour_jitter / 4)(part)
    return part, mirrored


def evaluation_crop(image: Image.Image, size: tuple[int, int], native: bool = False) -> Tensor:
    """The central crop of an RGB image, 87.5% of it along the side that limits it: uint8 (3, H, W), size (H, W).

    A native image is not resized: its central H x W pixels are taken.

    Raises:
        InvalidSetting: a native image is smaller than the crop.
    """
    if native:
        check_size(image, size)
    else:
        # the smallest image of the same shape that covers this box
        height, width = (int(side / COVERED) for side in size)
        image = without_ends(image, height / width)
        if image.width * height <= image.height * width:
            height = image.height * width // image.width
        else:
            width = image.width * height // image.height
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (round((have - want) / 2) for have, want in zip(image.size, size[::-1], strict=True))
    return pil_to_tensor(image.crop((left, top, left + size[1], top + size[0])))


def without_ends(image: Image.Image, shape: float) -> Image.Image:
    """The middle of an image, `LONG` times as long as what a crop of `shape` (H / W) sees; shorter images as they are.

    Enlarged with its ends, an image of 1 x 4000 pixels would have a million rows.
    """
    visible = image.height / shape, image.width * shape  # columns, rows
    kept = [min(side, max(LONG_PIXELS, int(LONG * seen))) for side, seen in zip(image.size, visible, strict=True)]
    left, top = ((side - keep) // 2 for side, keep in zip(image.size, kept, strict=True))
    return image.crop((left, top, image.width - left, image.height - top)) if left or top else image


def check_size(image: Croppable | Image.Image, size: tuple[int, int]) -> None:
    """Raises InvalidSetting where an image that is never resized is smaller than `size` (H, W)."""
    height, width = size
    if height > image.height or width > image.width:
        limit = f"[{image.height},{image.width}]"
        raise InvalidSetting(
            f"data.image_size=[{height},{width}]: this dataset's images are never resized; choose at most {limit}"
        )


@dataclass
class CropBatch:
    """A batch of crops that the device resizes and mirrors."""

    pixels: Tensor  # uint8 (B, h, w, 3), each crop in the upper left corner, zeros beyond it
    sides: Tensor  # int64 (B, 2), height and width of each crop
    mirrored: Tensor  # bool (B,)
    size: tuple[int, int]  # H, W of the images

    @classmethod
    def of(cls, crops: Sequence[tuple[Image.Image, bool]], size: tuple[int, int]) -> Self:
        """Copies the pixels of each `random_crop`."""
        sides = torch.tensor([(part.height, part.width) for part, _ in crops])
        pixels = np.zeros((len(crops), *sides.amax(0).tolist(), 3), np.uint8)
        for copy, (part, _) in zip(pixels, crops, strict=True):
            copy[: part.height, : part.width] = np.asarray(part)
        return cls(torch.from_numpy(pixels), sides, torch.tensor([mirrored for _, mirrored in crops]), size)

    def pin_memory(self) -> "CropBatch":
        return CropBatch(self.pixels.pin_memory(), self.sides.pin_memory(), self.mirrored.pin_memory(), self.size)

    def resized(self, device: torch.device) -> Tensor:
        """The images on `device`: float32 (B, 3, H, W), whole numbers from 0 to 255."""
        pixels, sides, mirrored = (x.to(device, non_blocking=True) for x in (self.pixels, self.sides, self.mirrored))
        pixels = pixels.permute(0, 3, 1, 2).float()  # (B, 3, h, w)
        height, width = self.size
        rows = filter_weights(sides[:, 0], pixels.shape[2], height)
        columns = filter_weights(sides[:, 1], pixels.shape[3], width)
        columns = torch.where(mirrored[:, None, None], columns.flip(1), columns)
        with full_precision():
            pixels = (pixels.flatten(1, 2) @ columns.mT).unflatten(1, (3, -1))  # (B, 3, h, W)
            pixels = rows[:, None] @ pixels.round().clamp(0, LEVELS)  # (B, 3, H, W)
        return pixels.round().clamp(0, LEVELS)


def filter_weights(inputs: Tensor, taps: int, outputs: int) -> Tensor:
    """The weight of each input pixel in each output pixel along one side, for sides of `inputs` (B,) pixels.

    Returns:
        (B, outputs, taps) float32, multiples of 1 / UNIT; those of one output sum to 1, those beyond the side are 0.
    """
    inputs = inputs[:, None, None]
    scale = inputs.float() / outputs
    tap = torch.arange(taps, device=inputs.device)
    centre = (torch.arange(outputs, device=inputs.device)[:, None] + 0.5) * scale  # (B, outputs, 1)
    raw = cubic((tap + 0.5 - centre) / scale.clamp(min=1))
    raw = torch.where(tap < inputs, rounded_to_unit(raw), 0)
    exact = rounded_to_unit(raw / raw.sum(-1, keepdim=True))
    rest = 1 - exact.sum(-1, keepdim=True)
    return exact + torch.where(tap == centre.long(), rest, 0)


def cubic(x: Tensor) -> Tensor:
    """PIL's bicubic filter: Keys 1981 with a = -0.5."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


def rounded_to_unit(x: Tensor) -> Tensor:
    return (x * UNIT).round() / UNIT


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 products without TF32, whatever the run has chosen."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
