"""Images of a dataset, shrunk chunk by chunk in several processes, in their order."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from losses import InvalidSetting
from recon.data.batches import leave_signals_to_the_parent, raising
from recon.data.source import Source, UnreadableImage

CHUNK = 64  # images: 6 MB at 160 pixels


@dataclass(frozen=True)
class Chunk:
    """Some images in their order, ready to be written."""

    split: str
    images: list[tuple[str, int, int, int, int]]  # name, label, height, width, CRC-32
    unreadable: list[str]  # a line for each image that is left out
    pixels: Tensor | None = None  # uint8 (bytes,), one image after the other

    @property
    def size(self) -> int:
        """Bytes of its pixels."""
        return sum(height * width * 3 for _, _, height, width, _ in self.images)


def shrunk_chunks(sources: dict[str, Source], size: int, workers: int, start: int) -> Iterator[Chunk]:
    """The chunks of all sources in their order, from the chunk of number `start`."""
    every = ((split, first) for split, source in sources.items() for first in range(0, len(source), CHUNK))
    loader = DataLoader(
        Shrinking(sources, size),
        batch_size=None,  # the dataset's items are whole chunks
        sampler=islice(every, start, None),
        num_workers=workers,
        worker_init_fn=leave_signals_to_the_parent,
    )
    return raising(iter(loader))


class Shrinking(Dataset):
    """Reads and resizes a chunk, told by its split and its first image; hands a user's error over."""

    def __init__(self, sources: dict[str, Source], size: int) -> None:
        self.sources = sources
        self.size = size

    def __getitem__(self, which: tuple[str, int]) -> Chunk | InvalidSetting:
        split, first = which
        source = self.sources[split]
        images, unreadable, pixels = [], [], []
        for i in range(first, min(first + CHUNK, len(source))):
            try:
                image, label = source.read(i)
            except UnreadableImage as error:
                unreadable.append(str(error))
                continue
            except InvalidSetting as error:
                return error
            image = image if source.native else shrunk(image, self.size)
            pixels.append(image.tobytes())
            images.append((source.name_of(i), label, image.height, image.width, zlib.crc32(pixels[-1])))
        # Shared memory: bytes would fill the pipe of a worker whose parent is killed, and it would never end.
        whole = torch.from_numpy(np.frombuffer(bytearray(b"".join(pixels)), np.uint8))
        return Chunk(split, images, unreadable, whole)


def shrunk(image: Image.Image, size: int) -> Image.Image:
    """Resized to a shorter side of `size` pixels as torchvision does, antialiased; never enlarged."""
    return F.resize(image, size, InterpolationMode.BICUBIC) if min(image.size) > size else image
