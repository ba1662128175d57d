"""Reconstructions without a network: mean colour, nearest patch, biharmonic inpainting, ridge regression.

Each maps the truth (B, 3, H, W) in [0, 1] and a mask (B, N) bool, True where a patch is hidden, to images
(B, 3, H, W) in [0, 1], float32 or wider. It reads visible pixels alone and returns them unchanged. An image
without visible patches comes back as NaN and does not change the others.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

import torch
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from losses import InvalidSetting
from losses.reconstruction import patchify, unpatchify
from recon.metrics.base import Pair
from recon.metrics.fidelity import mean_of_visible

VALUES = 3072  # regressed per image at most: all those of 32 x 32 pixels
BASIS_IMAGES = 256  # the first images, which give the principal components of a patch
HELD_OUT_EVERY, HELD_OUT_AMONG = 8, 2048  # every eighth of the first 2048 images chooses the shrinkage
TRIALS = 4  # under so many masks, which leave a quarter visible
SHRINKAGES = tuple(10 ** (half / 2) for half in range(-12, 5))


def mean(truth: Tensor, mask: Tensor) -> Tensor:
    """Mean of the visible colours: one colour per image."""
    pair = Pair(truth, truth, mask)
    return mean_of_visible(pair.truth, pair.hidden)


def nearest_visible(truth: Tensor, mask: Tensor) -> Tensor:
    """Copies of the nearest visible patch, by the distance of the centres; the first in row order among equals."""
    pair = Pair(truth, truth, mask)
    patches = patchify(pair.truth, pair.patch_size)
    source = nearest(mask, pair.grid).unsqueeze(-1).expand_as(patches)
    copies = patches.gather(1, source).masked_fill(mask.all(1)[:, None, None], torch.nan)
    return unpatchify(copies, pair.grid)


def nearest(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """The index of the visible patch nearest to each patch: (B, N) bool -> (B, N)."""
    rows, columns = (torch.arange(side, device=mask.device) for side in grid)
    centres = torch.cartesian_prod(rows, columns)
    distance = (centres[:, None] - centres).square().sum(-1)  # (N, N), in patches, squared
    n = mask.shape[1]
    order = distance * n + torch.arange(n, device=mask.device)  # no ties within a row
    return order.masked_fill(mask[:, None, :], torch.iinfo(order.dtype).max).argmin(-1)


def biharmonic(truth: Tensor, mask: Tensor) -> Tensor:
    """Biharmonic inpainting (scikit-image): the smoothest surface through the visible pixels, in float64.

    scikit-image clips each channel to the range of its visible values. Each image is a sparse linear system in its
    hidden pixels, solved directly: by far the slowest baseline, so as many threads as torch may use solve them.
    """
    pair = Pair(truth, truth, mask)
    images, hidden = pair.truth.double().cpu(), pair.hidden.cpu()
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        inpainted = torch.stack(list(threads.map(inpaint, images, hidden)))
    return Pair(inpainted.to(pair.truth), truth, mask).image


def inpaint(image: Tensor, hidden: Tensor) -> Tensor:
    """One image of `biharmonic`: (3, H, W) and (1, H, W) bool, on the CPU -> (3, H, W)."""
    if hidden.all():
        return torch.full_like(image, torch.nan)
    return torch.from_numpy(inpaint_biharmonic(image.numpy(), hidden[0].numpy(), channel_axis=0))


SIMPLE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": mean,
    "nearest": nearest_visible,
    "biharmonic": biharmonic,
}


@dataclass(frozen=True)
class Ridge:
    """Ridge regression of an image's hidden patches on its visible ones, for any mask.

    With mean m and covariance S (divided by n) of the n training images, the hidden values h are predicted from the
    visible ones v as m_h + S_hv (S_vv + λ I)^-1 (x_v - m_v). That is ridge regression (Hoerl and Kennard 1970) with
    an intercept and the penalty n λ; the normal equations of every mask are a part of the one S.

    Up to `VALUES` values per image it is exact in pixels. Beyond, a patch is described by its first k principal
    components, N k <= `VALUES`, the same at all positions, and the regression is between components; the rest of a
    patch is predicted by its mean. With 16-pixel patches at 224 pixels k is 15 of 768, so fine detail cannot be
    predicted there.

    Args:
        mean: (N, P) float64, the mean image's patches.
        components: (P, k) float64, orthonormal columns.
        covariance: (N k, N k) float64, of the components of all patches.
        shrinkage: λ in units of their mean variance.
    """

    mean: Tensor
    components: Tensor
    covariance: Tensor
    shrinkage: float

    @classmethod
    def fit(cls, images: Iterable[Tensor], patch_size: int, shrinkage: float | None = None) -> "Ridge":
        """Fits on batches (B, 3, H, W) in [0, 1], read once, in float64, on their device.

        Their order should be random: the first `BASIS_IMAGES` give the components. Without a shrinkage the one of
        `SHRINKAGES` is taken that has the least squared error on every eighth image, fitted on the others; then all
        are fitted. Raises InvalidSetting where there are fewer than 8 images.
        """
        batches = (patchify(batch.double(), patch_size) for batch in images)
        first = first_batches(batches)
        n, values = first[0].shape[1:]
        components = principal_components(first, min(values, max(1, VALUES // n)))
        total, moments = torch.zeros_like(first[0][0]), Moments(n * components.shape[1], first[0].device)
        held_out, seen = [], 0
        for patches in chain(first, batches):
            total += patches.sum(0)
            codes = (patches @ components).flatten(1)
            position = torch.arange(seen, seen + len(patches), device=patches.device)
            held = (position < HELD_OUT_AMONG) & (position % HELD_OUT_EVERY == HELD_OUT_EVERY - 1)
            held_out.append(codes[held])
            moments.add(codes[~held])
            seen += len(patches)
        if shrinkage is None:
            shrinkage = best_shrinkage(moments, torch.cat(held_out), n)
        moments.add(torch.cat(held_out))
        return cls(total / seen, components, moments.covariance, shrinkage)

    def __call__(self, truth: Tensor, mask: Tensor) -> Tensor:
        """Ridge regression from the visible pixels of images of the size fitted.

        One Cholesky factor of the visible values per image, in float64: float32 rounding exceeds a small λ.
        """
        pair = Pair(truth, truth, mask)
        patches = patchify(pair.truth, pair.patch_size).to(self.mean)
        codes = ((patches - self.mean) @ self.components).flatten(1)
        each = zip(codes.split(1), mask.to(codes.device), strict=True)
        codes = torch.cat([regress(self.covariance, self.shrinkage, code, hidden) for code, hidden in each])
        predicted = self.mean + codes.unflatten(1, (len(self.mean), -1)) @ self.components.T
        image = unpatchify(predicted, pair.grid).to(pair.truth)
        return Pair(image.masked_fill(mask.all(1)[:, None, None, None], torch.nan), truth, mask).image


class Moments:
    """Count, sum and products of rows (n, D), gathered batch by batch."""

    def __init__(self, values: int, device: torch.device):
        self.count = 0
        self.total = torch.zeros(values, dtype=torch.float64, device=device)
        self.products = torch.zeros(values, values, dtype=torch.float64, device=device)

    def add(self, rows: Tensor) -> None:
        self.count += len(rows)
        self.total += rows.sum(0)
        self.products.addmm_(rows.T, rows)

    @property
    def mean(self) -> Tensor:
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """Divided by n."""
        return self.products / self.count - self.mean.outer(self.mean)


def first_batches(batches: Iterator[Tensor]) -> list[Tensor]:
    """The first batches, until they hold `BASIS_IMAGES` images or there are no more."""
    first, images = [], 0
    for batch in batches:
        first.append(batch)
        images += len(batch)
        if images >= BASIS_IMAGES:
            break
    if images < HELD_OUT_EVERY:
        raise InvalidSetting(f"ridge regression needs at least {HELD_OUT_EVERY} training images, not {images}")
    return first


def principal_components(batches: list[Tensor], k: int) -> Tensor:
    """The first k of the patches (B, N, P) of the first `BASIS_IMAGES` images, or all P as they are: (P, k)."""
    values, device = batches[0].shape[2], batches[0].device
    if k == values:
        return torch.eye(values, dtype=torch.float64, device=device)
    moments = Moments(values, device)
    for patches in torch.cat(batches)[:BASIS_IMAGES].split(32):
        moments.add(patches.flatten(0, 1))
    return torch.linalg.eigh(moments.covariance).eigenvectors[:, -k:]


def regress(covariance: Tensor, shrinkage: float, values: Tensor, hidden: Tensor) -> Tensor:
    """Predicts all values from the visible ones: centred (B, D) of images under one mask (N,) -> (B, D)."""
    visible = (~hidden).repeat_interleave(len(covariance) // len(hidden)).nonzero()[:, 0]
    rows = covariance[visible]
    block = rows[:, visible]
    block.diagonal().add_(penalty(covariance, shrinkage))
    weights = torch.cholesky_solve(values[:, visible].T, torch.linalg.cholesky(block))
    return weights.T @ rows


def penalty(covariance: Tensor, shrinkage: float) -> float:
    """λ; never 0, so that images without any variance can be solved for. Others' penalty (alpha) is n times as much."""
    return shrinkage * max(float(covariance.diagonal().mean()), 1e-12)


def best_shrinkage(moments: Moments, held_out: Tensor, n: int) -> float:
    """The one of `SHRINKAGES` that predicts the hidden values of held-out images (B, D) of n patches best."""
    covariance, values = moments.covariance, held_out - moments.mean
    noise = torch.rand(TRIALS, n, generator=torch.Generator().manual_seed(0))
    masks = (noise.argsort(1) >= max(1, n // 4)).to(values.device)

    def error(shrinkage: float) -> float:
        total = 0.0
        for hidden in masks:
            error = regress(covariance, shrinkage, values, hidden) - values
            total += float(error[:, hidden.repeat_interleave(len(covariance) // n)].square().sum())
        return total

    return min(SHRINKAGES, key=error)
