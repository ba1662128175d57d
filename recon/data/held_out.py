"""The fixed images and masks that every run is evaluated on, and images in random order."""

from collections.abc import Callable, Iterator
from itertools import islice

import torch
from PIL import Image
from torch import Tensor

from losses import InvalidSetting
from recon.config import seed_of
from recon.data.crops import evaluation_crop
from recon.data.source import Source, StreamedSource, UnreadableImage


def held_out_images(
    source: Source | StreamedSource,
    image_size: tuple[int, int],
    count: int,
    seed: int,
    masking: Callable[[torch.Generator], Tensor],
) -> tuple[Tensor, Tensor, list[str]]:
    """Images spread evenly over the source, or the first ones of a stream; those that cannot be read are skipped.

    An image's noise depends on `seed` and its name alone.

    Args:
        image_size: (H, W).
        count: how many; fewer come back where the source has fewer.
        masking: draws one image's noise (N,) from the generator.

    Returns:
        images: float32 (count, 3, H, W) in [0, 1].
        noise: (count, N).
        names: the images' names.

    Raises:
        InvalidSetting: none of the images can be read, or they are smaller than `image_size` and never resized.
    """
    images, noise, names = zip(*held_out_batches(source, image_size, count, seed, masking, count), strict=True)
    return torch.cat(images), torch.cat(noise), [name for batch in names for name in batch]


def held_out_batches(
    source: Source | StreamedSource,
    image_size: tuple[int, int],
    count: int,
    seed: int,
    masking: Callable[[torch.Generator], Tensor],
    batch: int,
) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
    """The same as `held_out_images`, in batches, so that any number of images fits into memory."""
    readable = islice(readable_images(source, count), count)
    samples = ((evaluation_crop(image, image_size, source.native), name) for image, name in readable)
    found = False
    while some := list(islice(samples, batch)):
        found = True
        images, names = zip(*some, strict=True)
        noise = [noise_of(name, seed, masking) for name in names]
        yield torch.stack(images).float() / 255, torch.stack(noise), list(names)
    if not found:
        raise InvalidSetting("none of the held-out images can be read")


def noise_of(name: str, seed: int, masking: Callable[[torch.Generator], Tensor]) -> Tensor:
    """The noise (N,) of the image of this name."""
    return masking(torch.Generator().manual_seed(seed_of(seed, name)))


def readable_images(source: Source | StreamedSource, count: int) -> Iterator[tuple[Image.Image, str]]:
    """Images and their names: `count` that are spread evenly over the source, then the others."""
    if isinstance(source, StreamedSource):
        for position, (image, _) in enumerate(source):
            yield image, f"{source.name}/{position}"
        return
    spread = [i * len(source) // count for i in range(count)]
    for index in dict.fromkeys([*spread, *range(len(source))]):
        try:
            yield source.read(index)[0], source.name_of(index)
        except UnreadableImage:
            continue


def in_random_order(source: Source | StreamedSource, seed: int) -> Iterator[Image.Image]:
    """All images that can be read, shuffled; those of a stream in its own order."""
    if isinstance(source, StreamedSource):
        yield from (image for image, _ in source)
        return
    for index in torch.randperm(len(source), generator=torch.Generator().manual_seed(seed)).tolist():
        try:
            yield source.read(index)[0]
        except UnreadableImage:
            continue
