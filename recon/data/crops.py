"""How an image is cut and resized."""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomCrop, RandomResizedCrop
from torchvision.transforms import functional as F

from losses.errors import InvalidSetting
from recon.data.source import Uncut

SCALE = (0.2, 1.0)  # of the image's area, as MAE pretrains
RATIO = (3 / 4, 4 / 3)
COVERED = 0.875  # of the shorter side, by the evaluation crop


@dataclass(frozen=True)
class Cut:
    """A training crop's place in its image, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.left, self.top, self.left + self.width, self.top + self.height


def training_crop(image: Uncut, size: tuple[int, int], native: bool = False) -> Tensor:
    """A random crop, resized and mirrored half of the time, drawn from torch's default CPU generator.

    Args:
        image: RGB.
        size: (H, W).
        native: cut the crop at the image's own scale, without resizing.

    Returns:
        uint8 (3, H, W).

    Raises:
        InvalidSetting: a native image is smaller than the crop.
    """
    cut = drawn_cut(image, size, native)
    part = image.crop(cut.box)
    if not native:
        part = F.resize(part, list(size), InterpolationMode.BICUBIC)  # PIL's resize is antialiased
    return F.pil_to_tensor(F.hflip(part) if cut.mirrored else part)


def drawn_cut(image: Uncut, size: tuple[int, int], native: bool = False) -> Cut:
    """Where `training_crop` cuts; reads no pixel."""
    shape = torch.empty((3, image.height, image.width), device="meta")  # all that torchvision wants to know
    if native:
        fits(image, size)
        place = RandomCrop.get_params(shape, size)
    else:
        place = RandomResizedCrop.get_params(shape, SCALE, RATIO)
    return Cut(*place, mirrored=bool(torch.rand(()) < 0.5))


def evaluation_crop(image: Image.Image, size: tuple[int, int], native: bool = False) -> Tensor:
    """The central crop, 87.5% of the image along the side that limits it.

    Args:
        image: RGB.
        size: (H, W).
        native: cut the central H x W pixels, without resizing.

    Returns:
        uint8 (3, H, W).

    Raises:
        InvalidSetting: a native image is smaller than the crop.
    """
    if native:
        fits(image, size)
        return F.pil_to_tensor(F.center_crop(image, list(size)))
    # the smallest image of the same shape that covers this box
    height, width = (int(side / COVERED) for side in size)
    if image.width * height <= image.height * width:
        height = image.height * width // image.width
    else:
        width = image.width * height // image.height
    image = F.resize(image, [height, width], InterpolationMode.BICUBIC)
    return F.pil_to_tensor(F.center_crop(image, list(size)))


def fits(image: Uncut, size: tuple[int, int]) -> None:
    height, width = size
    if height > image.height or width > image.width:
        limit = f"[{image.height},{image.width}]"
        raise InvalidSetting(
            f"data.image_size=[{height},{width}]: this dataset's images are never resized; choose at most {limit}"
        )
