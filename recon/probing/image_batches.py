"""Batches of labelled images: central crops to extract features from and to test on, augmented views to train on."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import Mixup
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, ToTensor

from losses import InvalidSetting
from recon.config import seed_of
from recon.data import Source, evaluation_crop
from recon.data.batches import load_batches, permutation
from recon.probing.labelled import LabelledImages, every_image_readable

# At timm's limit of 10 its posterising keeps 0 bits of each pixel: a black image, or with Pillow 13 an error.
MAX_MAGNITUDE = 9.999


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the generators of Python, numpy and torch's CPU inside the block, and restores their states after it."""
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would seed the accelerators too
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


@dataclass(frozen=True)
class Augmentation:
    """timm's training augmentation: a random crop of 8% to 100% of the area, resized (bicubic), flipped half the time.

    Args:
        rand_augment: timm's name of a RandAugment policy (Cubuk et al. 2019, arXiv 1909.13719), or None.
        erasing: probability that a rectangle is replaced by N(0, 1) noise in standardised pixels (Zhong et al. 2017,
            arXiv 1708.04896).
    """

    rand_augment: str | None = None
    erasing: float = 0.0

    def transform(
        self, image_size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
    ) -> Callable[[Image.Image], Tensor]:
        """RGB image -> float32 (3, H, W), in [0, 1] except for erased pixels; draws from the generators of `seeded`.

        Args:
            image_size: (H, W).
            mean, std: per channel, that the model standardises by.
        """
        steps = [RandomResizedCropAndInterpolation(image_size, interpolation="bicubic"), RandomHorizontalFlip()]
        if self.rand_augment:
            settings = {
                "img_mean": tuple(round(255 * value) for value in mean),
                "translate_const": int(0.45 * min(image_size)),
                "interpolation": Image.Resampling.BICUBIC,
                "magnitude_max": MAX_MAGNITUDE,
            }
            steps.append(rand_augment_transform(self.rand_augment, settings))
        steps.append(ToTensor())
        if self.erasing:
            unnormalise = Normalize([-m / s for m, s in zip(mean, std, strict=True)], [1 / s for s in std])
            steps += [Normalize(mean, std), RandomErasing(self.erasing, mode="pixel", device="cpu"), unnormalise]
        return Compose(steps)


@dataclass(frozen=True)
class Mixing:
    """timm's Mixup: each batch is mixed with itself in reverse order, by mixup or CutMix, each half of the time.

    `mixup` (Zhang et al. 2017, arXiv 1710.09412), `cutmix` (Yun et al. 2019, arXiv 1905.04899): alpha of the Beta
    distribution of the mixing ratio. One of them 0: always the other; both 0: batches are not mixed.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(self, images: Tensor, labels: Tensor, classes: int, seed: int) -> tuple[Tensor, Tensor]:
        """Mixes images (B, 3, H, W), B even, in place.

        Returns:
            The images, and targets (B, C) whose rows sum to one, or the labels (B,) where batches are not mixed.
        """
        if not self.mixup and not self.cutmix:
            return images, labels
        mix = Mixup(mixup_alpha=self.mixup, cutmix_alpha=self.cutmix, label_smoothing=0.0, num_classes=classes)
        with seeded(seed):
            return mix(images, labels)


class ImageBatches(Dataset):
    """Item `numbers`, a range, is the batch of these samples. Returns a user's error, which a worker would bury."""

    def batch(self, numbers: range) -> Any:
        raise NotImplementedError

    def __getitem__(self, numbers: range) -> Any:
        try:
            with every_image_readable():
                return self.batch(numbers)
        except InvalidSetting as error:
            return error

    def load(self, ranges: list[range], workers: int) -> Iterator[Any]:
        """Loads one batch per range with so many worker processes; 0 reads in this one."""
        return load_batches(self, ranges, workers)


@dataclass
class CentralCrops(ImageBatches):
    source: Source
    indices: Sequence[int]
    image_size: tuple[int, int]

    def batch(self, numbers: range) -> Tensor:
        images = (self.source.read(self.indices[k])[0] for k in numbers)
        return torch.stack([evaluation_crop(image, self.image_size, native=self.source.native) for image in images])


@dataclass
class AugmentedViews(ImageBatches):
    """Sample k depends on (seed, k, the images) alone."""

    train: LabelledImages
    transform: Callable[[Image.Image], Tensor]
    seed: int

    def batch(self, numbers: range) -> tuple[Tensor, Tensor]:
        count = len(self.train)
        positions = [int(permutation(count, self.seed, k // count)[k % count]) for k in numbers]
        views = [self.view(position, k) for position, k in zip(positions, numbers, strict=True)]
        return torch.stack(views), self.train.labels[positions]

    def view(self, position: int, k: int) -> Tensor:
        image, _ = self.train.source.read(self.train.indices[position])
        with seeded(seed_of(self.seed, "view", k)):
            return self.transform(image)


def central_crops(
    source: Source, indices: Sequence[int], image_size: tuple[int, int], batch: int, workers: int
) -> Iterator[Tensor]:
    """Yields central crops in the order of `indices`: uint8 (B, 3, H, W), `batch` at a time.

    Raises:
        InvalidSetting: from the iterator, when an image cannot be read.
    """
    count = len(indices)
    ranges = [range(start, min(start + batch, count)) for start in range(0, count, batch)]
    return CentralCrops(source, indices, image_size).load(ranges, workers)


def augmented_views(
    train: LabelledImages,
    transform: Callable[[Image.Image], Tensor],
    *,
    batch: int,
    steps: int,
    seed: int,
    workers: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields `steps` batches of views, float32 (B, 3, H, W), with their labels, int64 (B,).

    The images are shuffled in each epoch, and a batch may reach into the next epoch. The same seed gives the same
    views, whatever `batch` and `workers` are.

    Raises:
        InvalidSetting: from the iterator, when an image cannot be read.
    """
    ranges = [range(step * batch, (step + 1) * batch) for step in range(steps)]
    return AugmentedViews(train, transform, seed).load(ranges, workers)
