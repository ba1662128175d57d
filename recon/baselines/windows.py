"""Two models of windows without a network, the classical autoencoders: principal components and k-means.

A window is a patch with a margin around it: its eight neighbours, or the part of them that is near. Both models are
fitted on windows at random places of training images, and complete a hidden patch from what is visible of the window
around it and from nothing else. What lies beyond the image counts as hidden.

As functions they are what `recon.baselines.classical` describes. A hidden patch that sees nothing in its window
gets the middle of the mean window.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn.functional import pad

from losses import InvalidSetting
from losses.reconstruction import patchify, unpatchify
from recon.metrics.base import Pair

MARGIN = 8  # pixels at most: of a neighbour of 16 pixels the near half, so that a window has 3072 values, not 6912
PER_IMAGE = 8  # windows taken of a training image
SAMPLED_VALUES = 2**25  # of all windows together at most, 128 MiB: 19,418 windows of 24 x 24 pixels
COMPONENTS = 256  # on Imagenette (24 x 24 pixels) 512 gain 0.09 dB, in four times the time
WINDOWS_PER_COMPONENT = 8  # with 512 windows more than 64 components lose
LEAST_NOISE = 1e-9  # so that images without variance can be solved for; rounding to 8 bits has 1e-6
ENTRIES = 512  # of the codebook


class WindowSample:
    """Windows at random places of training images, (n, D) float32; see `Window` for the order of the D values.

    Places do not depend on the grid of patches. The first images give them, until there are `SAMPLED_VALUES` values.

    Args:
        seed: of the places.
    """

    def __init__(self, patch_size: int, seed: int = 0):
        self.patch_size, self.window = patch_size, None
        self._generator = torch.Generator().manual_seed(seed)
        self._taken: list[Tensor] = []

    def drawn_from(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Passes batches (B, 3, H, W) in [0, 1] on, one by one, and takes windows of them."""
        for batch in batches:
            self.take(batch)
            yield batch

    def take(self, batch: Tensor) -> None:
        """Takes `PER_IMAGE` windows of each image (B, 3, H, W)."""
        self.window = self.window or Window.within(batch.shape[-2:], self.patch_size)
        side = self.window.side
        missing = SAMPLED_VALUES // (3 * side**2) - PER_IMAGE * len(self._taken)
        for image in batch[: max(0, missing) // PER_IMAGE].float().cpu():
            corners = [torch.randint(n - side + 1, (PER_IMAGE,), generator=self._generator) for n in image.shape[1:]]
            cut = [image[:, y : y + side, x : x + side] for y, x in zip(*(c.tolist() for c in corners), strict=True)]
            self._taken.append(torch.stack(cut).permute(0, 2, 3, 1).flatten(1))

    def centred(self) -> tuple["Window", Tensor, Tensor]:
        """The window's shape, the mean window (D,) float64, and the windows less it (n, D) float32.

        Raises InvalidSetting where there were no images.
        """
        if self.window is None:
            raise InvalidSetting("models of windows need training images, and there are none")
        windows = torch.cat(self._taken)
        mean = windows.mean(0, dtype=torch.float64)
        return self.window, mean, windows.sub_(mean.float())


@dataclass(frozen=True)
class Window:
    """A patch with `margin` pixels on each side; its values are pixels row by row, channels last, as of a patch."""

    patch_size: int
    margin: int

    @classmethod
    def within(cls, image_size: tuple[int, ...], patch_size: int) -> "Window":
        """The largest one, but for `MARGIN`, that reaches no further than the neighbours and fits into the image."""
        return cls(patch_size, min(patch_size, MARGIN, (min(image_size) - patch_size) // 2))

    @property
    def side(self) -> int:
        return self.patch_size + 2 * self.margin

    def cells(self) -> Tensor:
        """Which of 3 x 3 patches, counted row by row, each value lies in: (D,) long; 4 is the patch itself."""
        edges = torch.tensor([self.margin, self.margin + self.patch_size])
        third = torch.bucketize(torch.arange(self.side), edges, right=True)
        return (3 * third[:, None] + third).flatten().repeat_interleave(3)

    def around_hidden(self, images: Tensor, mask: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The windows around all hidden patches of images (B, 3, H, W) under masks (B, N).

        Returns:
            windows: (n, D), zero beyond the image, hidden pixels as they are.
            seen: (n, 9) bool, which cells are visible.
        """
        beyond = pad(images, (self.margin,) * 4)
        cut = beyond.unfold(2, self.side, self.patch_size).unfold(3, self.side, self.patch_size)
        windows = cut.permute(0, 2, 3, 4, 5, 1).flatten(1, 2)[mask].flatten(1)
        near = pad((~mask).unflatten(1, grid), (1,) * 4).unfold(1, 3, 1).unfold(2, 3, 1)
        return windows, near.flatten(1, 2)[mask].flatten(1)


@dataclass(frozen=True)
class WindowModel(ABC):
    """What both models have in common.

    Args:
        mean: (D,) float64, the mean window.
    """

    window: Window
    mean: Tensor

    def __call__(self, truth: Tensor, mask: Tensor) -> Tensor:
        """Completes images of at least the window's size, on the CPU, in float64."""
        pair = Pair(truth, truth, mask)
        hidden, middle = mask.cpu(), self.window.cells() == 4
        windows, seen = self.window.around_hidden(pair.truth.cpu(), hidden, pair.grid)
        visible = torch.where(seen[:, self.window.cells()], windows.double() - self.mean, 0)
        patches = patchify(pair.truth.cpu(), pair.patch_size).double()
        patches[hidden] = self.mean[middle] + self.complete(visible, seen)
        image = unpatchify(patches, pair.grid).to(pair.truth)
        return Pair(image.masked_fill(mask.all(1)[:, None, None, None], torch.nan), truth, mask).image

    @abstractmethod
    def complete(self, visible: Tensor, seen: Tensor) -> Tensor:
        """The patches in the middle of windows, all centred on the mean window.

        Args:
            visible: (n, D) float64, zero where hidden. seen: (n, 9) bool, which cells are visible.

        Returns:
            (n, P) float64.
        """


@dataclass(frozen=True)
class WindowPCA(WindowModel):
    """Probabilistic principal component analysis of windows (Tipping and Bishop 1999).

    A window is m + W z + noise with K standard normal components z and noise of variance s². The middle is completed
    by its conditional mean m_h + W_h (W_v' W_v + s² I)^-1 W_v' (x_v - m_v) given the visible values v.

    Args:
        loadings: W, (D, K) float64. noise: s².
    """

    loadings: Tensor
    noise: float

    @classmethod
    def fit(cls, sample: WindowSample, components: int | None = None) -> "WindowPCA":
        """The most likely W and s²: s² is the mean of the variances along all directions that W leaves out.

        Fewer than `COMPONENTS` where there are few windows. Raises InvalidSetting where there are none.
        """
        window, mean, centred = sample.centred()
        n, values = centred.shape
        k = components or min(COMPONENTS, values // 2, n // WINDOWS_PER_COMPONENT)
        total = sum(float(part.double().square().sum()) for part in centred.split(1024)) / (n - 1)
        found = PCA(k, copy=False, random_state=0).fit(centred.numpy())
        variances = torch.from_numpy(found.explained_variance_).double()
        noise = max((total - float(variances.sum())) / (values - k), LEAST_NOISE)
        scale = (variances - noise).clamp(min=0).sqrt()
        return cls(window, mean, torch.from_numpy(found.components_).double().T * scale, noise)

    def complete(self, visible: Tensor, seen: Tensor) -> Tensor:
        """One Cholesky factor (K, K) for each pattern of visible cells, of which there are 2^8."""
        cells = self.window.cells()
        projected = visible @ self.loadings  # (n, K)
        products = torch.stack([self.loadings[cells == i].T @ self.loadings[cells == i] for i in range(9)])
        patterns, pattern = seen.unique(dim=0, return_inverse=True)
        components = torch.empty_like(projected)
        for i, cell in enumerate(patterns):
            precision = products[cell].sum(0)
            precision.diagonal().add_(self.noise)
            these = pattern == i
            components[these] = torch.cholesky_solve(projected[these].T, torch.linalg.cholesky(precision)).T
        return components @ self.loadings[cells == 4].T


@dataclass(frozen=True)
class WindowKMeans(WindowModel):
    """A codebook of windows by k-means; the middle is that of the entry that is nearest on the visible pixels.

    Args:
        entries: (k, D) float64, less the mean window.
    """

    entries: Tensor

    @classmethod
    def fit(cls, sample: WindowSample, entries: int = ENTRIES) -> "WindowKMeans":
        """Mini-batch k-means of scikit-learn (Sculley 2010); where there are no more windows than entries, all of them.

        Raises InvalidSetting where there are none.
        """
        window, mean, centred = sample.centred()
        if len(centred) > entries:  # k-means++ takes 9 of 12 seconds, and its entries are no better
            means = MiniBatchKMeans(entries, init="random", max_iter=10, random_state=0, compute_labels=False)
            centred = torch.from_numpy(means.fit(centred.numpy()).cluster_centers_)
        return cls(window, mean, centred.double())

    def complete(self, visible: Tensor, seen: Tensor) -> Tensor:
        """The first of entries that are equally near; zero, the mean window, where nothing is visible."""
        cells = self.window.cells()
        square = torch.stack([self.entries[:, cells == i].square().sum(1) for i in range(9)])  # (9, k)
        nearest = (seen.double() @ square - 2 * visible @ self.entries.T).argmin(1)
        return torch.where(seen.any(1, keepdim=True), self.entries[nearest][:, cells == 4], 0)
