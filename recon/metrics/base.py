"""A reconstruction beside its truth, in the views that metrics share."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from typing import Literal

import torch
from torch import Tensor

from losses.features.distance import CHUNK_PIXELS
from losses.patches import patchify, spread

LUMA = (0.2125, 0.7154, 0.0721)  # of scikit-image's rgb2gray


class Pair:
    """A reconstruction and its truth, of which hidden patches alone count.

    Views are computed on demand, kept, and shared by all metrics; they are float32 or wider.

    Args:
        image: (B, 3, H, W), clamped to [0, 1]; what it holds in visible patches is replaced by the truth.
        truth: (B, 3, H, W) in [0, 1].
        mask: (B, N) bool, True where a patch was hidden; patches row by row.
    """

    def __init__(self, image: Tensor, truth: Tensor, mask: Tensor):
        self.truth = truth.to(torch.promote_types(truth.dtype, torch.float32))
        self.mask = mask
        self.patch_size = isqrt(truth.shape[2] * truth.shape[3] // mask.shape[1])
        self.grid = (truth.shape[2] // self.patch_size, truth.shape[3] // self.patch_size)
        self.image = torch.where(self.hidden, image.to(self.truth.dtype).clamp(0, 1), self.truth)

    @cached_property
    def hidden(self) -> Tensor:
        """(B, 1, H, W) bool, True on hidden pixels."""
        return spread(self.mask, self.grid, self.patch_size)

    @cached_property
    def patches(self) -> Tensor:
        """The reconstruction's patches, (B, N, 3, p, p)."""
        return colour_patches(self.image, self.patch_size)

    @cached_property
    def true_patches(self) -> Tensor:
        """The truth's patches, (B, N, 3, p, p)."""
        return colour_patches(self.truth, self.patch_size)

    @cached_property
    def grey_patches(self) -> Tensor:
        """Luminance of the reconstruction's patches, (B, N, p, p)."""
        return grey_patches(self.image, self.patch_size)

    @cached_property
    def true_grey_patches(self) -> Tensor:
        """Luminance of the truth's patches, (B, N, p, p)."""
        return grey_patches(self.truth, self.patch_size)

    def of_truth(self) -> "Pair":
        """The truth in the reconstruction's place."""
        return Pair(self.truth, self.truth, self.mask)


def colour_patches(images: Tensor, patch_size: int) -> Tensor:
    """(B, 3, H, W) -> (B, N, 3, p, p)."""
    patches = patchify(images, patch_size)
    return patches.unflatten(-1, (patch_size, patch_size, 3)).movedim(-1, 2)


def grey_patches(images: Tensor, patch_size: int) -> Tensor:
    """Luminance, (B, 3, H, W) -> (B, N, p, p)."""
    return patchify(grey(images)[:, None], patch_size).unflatten(-1, (patch_size, patch_size))


def grey(images: Tensor) -> Tensor:
    """Luminance as scikit-image's `rgb2gray`: (..., 3, H, W) -> (..., H, W)."""
    red, green, blue = images.unbind(-3)
    return (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


class Undefined(Exception):
    """A metric has no value here: the message says why, in a few words for a table ("patches below 8 pixels")."""


@dataclass(frozen=True)
class MetricInfo:
    """Describes a metric: everything that a table of results says about its column.

    Args:
        description: one sentence: what it measures, and on which pixels.
        unit: of its values ("dB", "share", ...).
        low, high: its range.
        better: "higher", "lower", or "truth": best where it equals the same number on the truth.
        reference: paper and the implementation it agrees with.
        paired: whether it compares with the truth. One that does not is shown beside the truth's own number.
    """

    name: str
    description: str
    unit: str
    low: float
    high: float
    better: Literal["higher", "lower", "truth"]
    reference: str
    paired: bool


@dataclass(frozen=True)
class Metric(MetricInfo):
    """A metric with one value per image; call it with a `Pair`.

    Args:
        function: (B,) float32 or wider from a `Pair`; NaN where one image has no value; raises `Undefined` where
            none can have one.
    """

    function: Callable[[Pair], Tensor]

    def __call__(self, pair: Pair) -> Tensor:
        return self.function(pair)


VALUES = 3 * CHUNK_PIXELS  # of each tensor together: with what is made of them they stay in a CPU's cache


@torch.no_grad()
def a_few_at_a_time(function: Callable[..., Tensor], *tensors: Tensor, values: int = VALUES) -> Tensor:
    """`function` of batches, its values joined; without a gradient. On a CPU so few images together that they have at
    most `values` numbers in the first tensor."""
    first = tensors[0]
    few = max(1, values // first[0].numel()) if first.device.type == "cpu" else len(first)
    return torch.cat([function(*part) for part in zip(*(x.split(few) for x in tensors), strict=True)])


class Room:
    """Memory that is written to again and again: new pages from the system cost more than to fill them."""

    def __init__(self):
        self.memory = torch.empty(0, dtype=torch.float64)

    def of(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """A float64 tensor of that shape that holds anything, until somebody asks again."""
        count = math.prod(shape)
        if len(self.memory) < count or self.memory.device != device:
            self.memory = torch.empty(count, dtype=torch.float64, device=device)
        return self.memory[:count].view(shape)
