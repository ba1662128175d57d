"""Training views of labelled images, the same bits for the same seed whoever makes them."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from timm.data import Mixup
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, ToTensor

from losses import InvalidSetting
from recon.data import UnreadableImage
from recon.data.batches import leave_signals_to_the_parent, permutation, raising
from recon.probing.labelled import Labelled
from recon.randomness import seed_of

# At timm's limit of 10 its posterising keeps 0 bits of each pixel: a black image, or with Pillow 13 an error.
LARGEST_MAGNITUDE = 9.999

Batch = tuple[Tensor, Tensor]  # images float32 (B, 3, H, W), labels int64 (B,)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's, numpy's and torch's CPU generators begin at `seed` inside, and stand as before afterwards."""
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
class View:
    """A random crop of 8% to 100% of the image's area, resized (bicubic) and mirrored half of the time, and more.

    `rand_augment`: timm's name of a RandAugment policy (Cubuk et al. 2019, arXiv 1909.13719), or None.
    `erasing`: the probability that a rectangle is replaced by noise, N(0, 1) in standardised pixels (Zhong et al. 2017,
    arXiv 1708.04896).
    """

    rand_augment: str | None = None
    erasing: float = 0.0

    def transform(
        self, image_size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
    ) -> Callable[[Image.Image], Tensor]:
        """RGB image -> float32 (3, H, W), in [0, 1] but for erased pixels; draws from all the generators of `seeded`.

        Args:
            image_size: (H, W).
            mean, std: per channel, that the model standardises by.
        """
        steps = [RandomResizedCropAndInterpolation(image_size, interpolation="bicubic"), RandomHorizontalFlip()]
        if self.rand_augment:
            filling = {
                "img_mean": tuple(round(255 * value) for value in mean),
                "translate_const": int(0.45 * min(image_size)),
                "interpolation": Image.Resampling.BICUBIC,
                "magnitude_max": LARGEST_MAGNITUDE,
            }
            steps.append(rand_augment_transform(self.rand_augment, filling))
        steps.append(ToTensor())
        if self.erasing:
            back = Normalize([-m / s for m, s in zip(mean, std, strict=True)], [1 / s for s in std])
            steps += [Normalize(mean, std), RandomErasing(self.erasing, mode="pixel", device="cpu"), back]
        return Compose(steps)


@dataclass(frozen=True)
class Mixing:
    """Every batch is mixed with itself in reverse order, by mixup or CutMix, each half of the time.

    `mixup` (Zhang et al. 2017, arXiv 1710.09412), `cutmix` (Yun et al. 2019, arXiv 1905.04899): alpha of the Beta
    distribution that the shares come from. One of them 0: the other always; both 0: batches stay as they are.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(self, images: Tensor, labels: Tensor, classes: int, seed: int) -> tuple[Tensor, Tensor]:
        """Mixes images (B, 3, H, W), B even, in place.

        Returns:
            The images, and targets: (B, C) whose rows sum to one, or the labels (B,) where nothing is to be mixed.
        """
        if not self.mixup and not self.cutmix:
            return images, labels
        mix = Mixup(mixup_alpha=self.mixup, cutmix_alpha=self.cutmix, label_smoothing=0.0, num_classes=classes)
        with seeded(seed):
            return mix(images, labels)


class Views(Dataset):
    """Batches of views: the item of a range of sample numbers is the batch of these samples.

    Sample k depends on (seed, k, the images) alone. A user's error is handed over, not raised: a worker would bury it.
    """

    def __init__(self, train: Labelled, transform: Callable[[Image.Image], Tensor], seed: int):
        self.train, self.transform, self.seed = train, transform, seed

    def __getitem__(self, ks: range) -> Batch | InvalidSetting:
        images = len(self.train.indices)
        positions = [int(permutation(images, self.seed, k // images)[k % images]) for k in ks]
        try:
            views = [self.view(position, k) for position, k in zip(positions, ks, strict=True)]
        except UnreadableImage as reason:
            return InvalidSetting(f"{reason}; a probe needs every image: mend it or take it out of the data")
        return torch.stack(views), self.train.labels[positions]

    def view(self, position: int, k: int) -> Tensor:
        image, _ = self.train.source.read(self.train.indices[position])
        with seeded(seed_of(self.seed, "view", k)):
            return self.transform(image)


def view_batches(
    train: Labelled,
    transform: Callable[[Image.Image], Tensor],
    *,
    batch: int,
    steps: int,
    seed: int,
    workers: int,
) -> Iterator[Batch]:
    """`steps` batches of views; the images are shuffled anew in each epoch, and a batch may reach into the next.

    Args:
        workers: processes that read ahead; 0 reads here.

    Raises:
        InvalidSetting: from the iterator, when an image cannot be read.
    """
    loader = DataLoader(
        Views(train, transform, seed),
        batch_size=None,  # the dataset's items are whole batches
        sampler=[range(step * batch, (step + 1) * batch) for step in range(steps)],
        num_workers=workers,
        worker_init_fn=leave_signals_to_the_parent,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # otherwise the loader draws from the global one
    )
    return raising(iter(loader))
