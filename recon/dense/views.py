"""What the models of a transfer see: random views to train on, held-out images whole."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2
from torchvision.transforms.functional import pil_to_tensor

from recon.config import seed_of
from recon.data.batches import load_batches, permutation
from recon.dense.scenes import IGNORED, Scene, SceneSource
from recon.probing.labelled import ImageBatches, seeded

# Of one image: {"boxes": (n, 4), "labels": (n,), "masks": (n, S, S)}; or the class map (S, S) int64.
Target = Any


@dataclass(frozen=True)
class View:
    """How a training view is drawn: by large-scale jitter (Ghiasi et al. 2021, arXiv 2012.07177), half are mirrored.

    Args:
        size: S, side of the view in pixels.
        scale: the image is enlarged to fit the view times a number drawn evenly from this range, then cropped, and
            filled with its mean colour where it is smaller.
        instances: whether the target is the scene's instances, of those that are judged what is within the view; or
            its class map.
        colour: strength of a change of brightness, contrast and saturation.
    """

    size: int
    scale: tuple[float, float]
    instances: bool
    colour: float = 0.0

    def __call__(self, scene: Scene) -> tuple[Tensor, Target]:
        """float32 (3, S, S) in [0, 1] and its target. Draws from the generators of `seeded`."""
        image, instances = tv_tensors.Image(pil_to_tensor(scene.image)), scene.instances
        if self.instances:
            assert instances is not None
            known, beyond = instances.masks[~instances.crowd].to(torch.uint8), 0
        else:
            known, beyond = scene.class_map, IGNORED
        filled: Any = {tv_tensors.Image: [int(mean) for mean in image.float().mean((1, 2))], tv_tensors.Mask: beyond}
        transform = v2.Compose(
            [
                v2.ScaleJitter((self.size, self.size), self.scale, antialias=True),
                v2.RandomCrop(self.size, pad_if_needed=True, fill=filled),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(self.colour, self.colour, self.colour),
            ]
        )
        image, known = (x.as_subclass(Tensor) for x in transform(image, tv_tensors.Mask(known)))
        image = image.float() / 255
        if instances is None or not self.instances:
            return image, known.long()
        seen = known.flatten(1).any(1).bool()
        return image, {
            "boxes": boxes_of(known[seen]),
            "labels": instances.labels[~instances.crowd][seen],
            "masks": known[seen],
        }


def boxes_of(masks: Tensor) -> Tensor:
    """Tight boxes (n, 4) float32 of masks (n, H, W) that each have a pixel: left, top, right, bottom, the last two
    exclusive."""
    if not len(masks):
        return torch.zeros(0, 4)
    return masks_to_boxes(masks) + torch.tensor([0.0, 0.0, 1.0, 1.0])


@dataclass
class Views(ImageBatches):
    """Training views (B, 3, S, S) with their targets; view k depends on (seed, k, the scenes) alone."""

    source: SceneSource
    view: View
    seed: int

    def load(self, batch: int, steps: range, rank: int, count: int, workers: int) -> Generator[Any]:
        """The batches of `steps` of rank `rank` of `count`, each with `batch` views.

        Raises InvalidSetting, from the iterator, when an image cannot be read.
        """
        own = [(step * count + rank) * batch for step in steps]
        return load_batches(self, [range(first, first + batch) for first in own], workers)

    def batch(self, numbers: range) -> tuple[Tensor, list[Target]]:
        images, targets = zip(*map(self.one, numbers), strict=True)
        return torch.stack(images), list(targets)

    def one(self, k: int) -> tuple[Tensor, Target]:
        count = len(self.source)
        scene = self.source.read(int(permutation(count, self.seed, k // count)[k % count]))
        with seeded(seed_of(self.seed, "view", k)):
            return self.view(scene)


@dataclass
class HeldOut(ImageBatches):
    """Held-out scenes, one at a time, each with its image as the model sees it: (1, 3, h, w) in [0, 1].

    Args:
        shorter: the shorter side in pixels that images are resized to; longer: where the longer side would exceed this,
            the image is resized to it instead.
    """

    source: SceneSource
    shorter: int
    longer: int

    def load(self, workers: int) -> Generator[tuple[Tensor, Scene]]:
        return load_batches(self, [range(i, i + 1) for i in range(len(self.source))], workers)

    def batch(self, numbers: range) -> tuple[Tensor, Scene]:
        scene = self.source.read(numbers[0])
        return seen(scene.image, self.shorter, self.longer)[None], scene


def seen(image: Image.Image, shorter: int, longer: int) -> Tensor:
    """An image in the size that a model sees: float32 (3, h, w) in [0, 1], antialiased bicubic."""
    factor = min(shorter / min(image.size), longer / max(image.size))
    width, height = (max(1, round(side * factor)) for side in image.size)
    size = width, height
    return pil_to_tensor(image.resize(size, Image.Resampling.BICUBIC) if size != image.size else image).float() / 255
