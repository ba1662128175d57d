"""What all metrics share: an image pair, the description of a metric, and evaluation in chunks that fit the memory."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from math import isqrt
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from losses.reconstruction import expand_to_pixels, patchify

LUMA = (0.2125, 0.7154, 0.0721)  # scikit-image's rgb2gray; the sharpness metrics are checked against scikit-image
CACHE_VALUES = 3 * 4 * 64 * 64  # numbers per chunk on a CPU: the chunk and its intermediate results stay in the cache
BATCH_VALUES = 2**28  # for functions that a CPU computes faster, up to twice, on the whole batch
DEVICE_BYTES = 512  # of GPU memory per number in a chunk: VGG19's first layers need about 350

Direction = Literal["higher", "lower", "truth"]
F = TypeVar("F", bound=Callable[..., Tensor])
K = TypeVar("K", "Pair", "Images")
T = TypeVar("T")


class Images:
    """Images of one patch size and what metrics derive from them, each computed on first use and kept.

    Args:
        pixels: (B, 3, H, W) in [0, 1], float32 or wider.
    """

    def __init__(self, pixels: Tensor, patch_size: int):
        self.pixels, self.patch_size = pixels, patch_size
        self.kept: dict[Any, Any] = {}  # of functions that are declared by `kept`, and of networks

    @cached_property
    def patches(self) -> Tensor:
        """(B, N, 3, p, p)."""
        return colour_patches(self.pixels, self.patch_size)

    @cached_property
    def grey_patches(self) -> Tensor:
        """Luminance, (B, N, p, p)."""
        return grey_patches(self.pixels, self.patch_size)


class Pair:
    """A reconstruction and its truth; metrics count hidden patches only.

    What is derived from them is computed on first use, kept, and shared by all metrics. All is float32 or wider.

    Args:
        image: (B, 3, H, W), clamped to [0, 1]; its visible patches are replaced by the truth's.
        truth: (B, 3, H, W) in [0, 1]; or `Images`, whose derived tensors several pairs share.
        mask: (B, N) bool, True where a patch was hidden; patches row by row.
    """

    def __init__(self, image: Tensor, truth: Tensor | Images, mask: Tensor):
        if isinstance(truth, Tensor):
            patch_size = isqrt(truth.shape[2] * truth.shape[3] // mask.shape[1])
            truth = Images(truth.to(torch.promote_types(truth.dtype, torch.float32)), patch_size)
        self.true, self.truth, self.mask = truth, truth.pixels, mask
        self.patch_size = truth.patch_size
        self.grid = (self.truth.shape[2] // self.patch_size, self.truth.shape[3] // self.patch_size)
        self.kept: dict[Any, Any] = {}
        if image is self.truth:
            self.predicted = self.true
        else:
            image = torch.where(self.hidden, image.to(self.truth.dtype).clamp(0, 1), self.truth)
            self.predicted = Images(image, self.patch_size)
        self.image = self.predicted.pixels

    @cached_property
    def hidden(self) -> Tensor:
        """(B, 1, H, W) bool, True on hidden pixels."""
        return expand_to_pixels(self.mask, self.grid, self.patch_size)

    @property
    def patches(self) -> Tensor:
        """The reconstruction's patches, (B, N, 3, p, p); `true_patches` are the truth's."""
        return self.predicted.patches

    @property
    def true_patches(self) -> Tensor:
        return self.true.patches

    @property
    def grey_patches(self) -> Tensor:
        """Luminance of the reconstruction's patches, (B, N, p, p); `true_grey_patches` are the truth's."""
        return self.predicted.grey_patches

    @property
    def true_grey_patches(self) -> Tensor:
        return self.true.grey_patches


def kept(function: Callable[[K], T]) -> Callable[[K], T]:
    """Decorates a function of a `Pair` or of `Images`: it is computed once for each, and its result kept with it."""

    @wraps(function)
    def once(of: K) -> T:
        if function not in of.kept:
            of.kept[function] = function(of)
        return of.kept[function]

    return once


def colour_patches(images: Tensor, patch_size: int) -> Tensor:
    """(B, 3, H, W) -> (B, N, 3, p, p)."""
    patches = patchify(images, patch_size)
    return patches.unflatten(-1, (patch_size, patch_size, 3)).movedim(-1, 2)


def grey_patches(images: Tensor, patch_size: int) -> Tensor:
    """Luminance of each patch, (B, 3, H, W) -> (B, N, p, p)."""
    return patchify(grey(images)[:, None], patch_size).unflatten(-1, (patch_size, patch_size))


def grey(images: Tensor) -> Tensor:
    """Luminance with the weights of scikit-image's `rgb2gray`: (..., 3, H, W) -> (..., H, W).

    `kornia.color.rgb_to_grayscale` gives the same with these weights, in 1.5 times the time on a CPU (`python -m
    experiments.benchmarks.libraries`); a GPU waits for the weights, and importing kornia takes a second.
    """
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
        better: "higher", "lower", or "truth": best where it equals the same number on the truth.
        reference: paper and the implementation it agrees with.
        paired: whether it compares with the truth. One that does not is shown beside the truth's own number.
        low, high: its range.
        title: its heading in tables, where that is not the name.
    """

    name: str
    description: str
    unit: str
    better: Direction
    reference: str
    paired: bool = True
    low: float = 0
    high: float = math.inf
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Metric(MetricInfo):
    """A metric with one value per image; call it with a `Pair`.

    Args:
        function: (B,) float32 or wider from a `Pair`; NaN where one image has no value; raises `Undefined` where
            none can have one.
    """

    function: Callable[[Pair], Tensor]

    def __call__(self, pair: Pair) -> Tensor:
        return self.function(pair)


METRICS: dict[str, Metric] = {}  # of every function that is declared by one of these decorators


def pair_metric(function: Callable[[Pair], Tensor], of: Callable[..., Tensor], **info: Any) -> None:
    """Declares a metric in `METRICS`; its name is that of `of`, its description the docstring's first paragraph."""
    description = " ".join((of.__doc__ or "").partition("\n\n")[0].split())
    METRICS[of.__name__] = Metric(name=of.__name__, description=description, function=function, **info)


def image_metric(**info: Any) -> Callable[[F], F]:
    """Declares a function of image, truth (B, 3, H, W) and hidden pixels (B, 1, H, W) -> (B,) as a metric."""

    def declare(function: F) -> F:
        pair_metric(lambda pair: function(pair.image, pair.truth, pair.hidden), function, **info)
        return function

    return declare


def patch_metric(*, values: int | None = None, **info: Any) -> Callable[[F], F]:
    """Declares a function of grey patches (B, N, p, p) and hidden (B, N) -> (B,), which does not see the truth.

    `values` as of `map_in_chunks`.
    """

    def declare(function: F) -> F:
        def of_pair(pair: Pair) -> Tensor:
            return map_in_chunks(function, pair.grey_patches, pair.mask, values=values)

        pair_metric(of_pair, function, better="truth", paired=False, **info)
        return function

    return declare


@torch.no_grad()
def map_in_chunks(function: Callable[..., Any], *tensors: Tensor, values: int | None = None) -> Any:
    """Applies `function` to chunks of a batch and concatenates the tensor, or the tuple of tensors, that it returns.

    Without a gradient. Every tensor has the batch first; `chunk_length` of the first one's items is the chunk's size.
    """
    length = chunk_length(tensors[0][0].numel(), tensors[0].device, values)
    results = [function(*chunk) for chunk in zip(*(x.split(length) for x in tensors), strict=True)]
    return torch.cat(results) if isinstance(results[0], Tensor) else tuple(map(torch.cat, zip(*results, strict=True)))


def chunk_length(item_values: int, device: torch.device, values: int | None = None) -> int:
    """How many items of `item_values` numbers are best computed together; at least 1.

    On a CPU as many as have `values` numbers, by default `CACHE_VALUES`; on a GPU as many as half of its free memory
    can hold at `DEVICE_BYTES` per number.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # kept by torch's allocator
        values = (torch.cuda.mem_get_info(device)[0] + unused) // 2 // DEVICE_BYTES
    return max(1, (values or CACHE_VALUES) // max(1, item_values))
