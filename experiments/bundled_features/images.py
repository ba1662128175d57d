"""An image folder held in memory, and random crops of it."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as F


def load(folder: Path, size: int) -> tuple[Tensor, Tensor]:
    """All images of a folder of classes, shorter side `size`, centre-cropped: (n, 3, size, size) uint8, labels (n,)."""
    found = ImageFolder(folder)
    images = torch.empty(len(found), 3, size, size, dtype=torch.uint8)
    for i, (path, _) in enumerate(found.samples):
        image = Image.open(path).convert("RGB")
        image = F.resize(image, [size], interpolation=F.InterpolationMode.BICUBIC)
        images[i] = F.pil_to_tensor(F.center_crop(image, [size, size]))
    return images, torch.tensor(found.targets)


def random_crops(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """One random square crop per image, flipped half the time, resized to `size`: float (B, 3, size, size) in [0, 1].

    The side is log-uniform between `size` and the whole image, so that the network meets the scales that
    random resized crops of photographs have in pretraining.
    """
    batch, _, height, _ = images.shape
    u = torch.rand(batch, 4, generator=generator)
    out = torch.empty(batch, 3, size, size)
    for i, image in enumerate(images):
        side = round(size * (height / size) ** float(u[i, 0]))
        top = int(u[i, 1] * (height - side + 1))
        left = int(u[i, 2] * (height - side + 1))
        crop = F.resize(image[:, top : top + side, left : left + side], [size, size], antialias=True)
        out[i] = (crop.flip(-1) if u[i, 3] < 0.5 else crop) / 255
    return out
