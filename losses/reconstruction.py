"""One prediction beside the truth, in every view that a loss, a metric or a figure reads; and what patches are."""

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from losses.heads import PixelHead

# Per-channel statistics of ImageNet's pixels in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) -> (B, N, p*p*C): patches row by row; within a patch rows, columns, then channels.

    H and W are multiples of `patch_size`.
    """
    b, c, h, w = images.shape
    p = patch_size
    x = images.reshape(b, c, h // p, p, w // p, p)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // p) * (w // p), p * p * c)


def unpatchify(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, N, p*p*3) -> (B, 3, H, W), the inverse of `patchify`; `grid` is (H / p, W / p)."""
    b, _, values = patches.shape
    rows, columns = grid
    p = round((values // 3) ** 0.5)
    x = patches.reshape(b, rows, columns, p, p, 3)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(b, 3, rows * p, columns * p)


def expand_to_pixels(per_patch: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Gives every pixel its patch's value: (B, N) -> (B, 1, H, W)."""
    b, (rows, columns), p = per_patch.shape[0], grid, patch_size
    patches = per_patch.reshape(b, rows, 1, columns, 1).expand(-1, -1, p, -1, p)
    return patches.reshape(b, 1, rows * p, columns * p)


class Reconstruction:
    """What a masked autoencoder predicted, beside the truth.

    Views are computed on demand and kept. Patches are in the official order (see `patchify`).

    Args:
        prediction: (B, N, W), the decoder's output; W is `head.width(P)` with P = p*p*3 values per patch. Or (B, n, W),
            of the patches `indices` alone.
        image: (B, 3, H, W) in [0, 1], the truth.
        mask: (B, N) bool, True where a patch was hidden.
        head: how the prediction becomes pixels.
        mean, std: per channel; pixel terms work on pixels standardised by them, as the MAE paper's code does.
        over: "hidden" or "all": the patches that terms compare.
        shift: two numbers in [0, 1) that place every critic's grid against the grid of patches; by default drawn once
            from torch's CPU generator.
        sampling: three numbers in [0, 1) for critics that read a part: which images, and the row and column of the
            window in them; by default derived from `shift`, and statistically independent of it.
        indices: (B, n), the hidden patches that were predicted, if not all N were. All (B, N, ...) views of patches
            are then (B, n, ...); a composite shows the truth where nothing was predicted.

    Raises:
        ValueError: all patches are to be compared, and only some were predicted.
    """

    corrupted: Tensor | None = None  # (B, 3, H, W), what the model saw, where that was not the visible patches

    def __init__(
        self,
        prediction: Tensor,
        image: Tensor,
        mask: Tensor,
        head: PixelHead | None = None,
        mean: Sequence[float] | Tensor = IMAGENET_MEAN,
        std: Sequence[float] | Tensor = IMAGENET_STD,
        over: str = "hidden",
        shift: tuple[float, float] | None = None,
        sampling: tuple[float, float, float] | None = None,
        indices: Tensor | None = None,
    ):
        if indices is not None and over != "hidden":
            raise ValueError(f"over={over!r}, but only hidden patches were predicted")
        self.prediction, self.image, self.mask = prediction, image, mask
        self.head = head or PixelHead()
        self.mean, self.std, self.over, self.indices = mean, std, over, indices
        self.patch_size = math.isqrt(image.shape[2] * image.shape[3] // mask.shape[1])
        self.grid = (image.shape[2] // self.patch_size, image.shape[3] // self.patch_size)
        self.values = 3 * self.patch_size**2
        if shift is not None:
            self.shift = shift
        if sampling is not None:
            self.sampling = sampling

    def at(self, prediction: Tensor, over: str) -> "Reconstruction":
        """The same truth, mask and random numbers with another prediction, compared over "hidden" or "all" patches."""
        same = {"shift": self.shift, "sampling": self.sampling, "indices": self.indices}
        other = Reconstruction(prediction, self.image, self.mask, self.head, self.mean, self.std, over, **same)
        other.true_pixels = self.true_pixels
        return other

    @cached_property
    def shift(self) -> tuple[float, float]:
        u = torch.rand(2)
        return float(u[0]), float(u[1])

    @cached_property
    def sampling(self) -> tuple[float, float, float]:
        # Derived from the shift, so that torch's generator advances equally whether or not a critic reads a part.
        seed = sum(int(u * 2**24) << 24 * i for i, u in enumerate(self.shift))
        return tuple(torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist())

    # Patches, (B, N, P)

    @cached_property
    def true_pixels(self) -> Tensor:
        """The truth, standardised."""
        return self.patches_of(self.standardised_image)

    def patches_of(self, image: Tensor) -> Tensor:
        """Patches of an image (B, 3, H, W), at those places that were predicted."""
        return self.of_predicted(patchify(image, self.patch_size))

    def of_predicted(self, per_patch: Tensor) -> Tensor:
        """Of something about every patch, (B, N, D), what is about those that were predicted."""
        return per_patch if self.indices is None else per_patch.gather(1, _expanded(self.indices, per_patch))

    @cached_property
    def pixels(self) -> Tensor:
        """The prediction, standardised, rendered without the truth's help."""
        return self.head.pixels_of(self)

    @cached_property
    def oracle_pixels(self) -> Tensor:
        """The prediction, standardised; rendered with the true patch statistics if the head needs any."""
        return self.head.oracle_pixels(self.prediction, self.true_pixels)

    @cached_property
    def patches(self) -> Tensor:
        """The prediction in the model's own space, which a normalised head normalises per patch."""
        return self.head.patches(self.prediction, self.values)

    @cached_property
    def target(self) -> Tensor:
        """The truth in the model's own space."""
        return self.head.target(self.true_pixels)

    # Images, (B, 3, H, W) in [0, 1]; predictions may overshoot

    @cached_property
    def standardised_image(self) -> Tensor:
        """The truth, standardised."""
        return self._standardised(self.image)

    @cached_property
    def predicted_image(self) -> Tensor:
        """The prediction at all patches, visible ones too; the data's mean colour where there is no prediction."""
        return self._whole_image(self.pixels)

    @cached_property
    def composite(self) -> Tensor:
        """Truth where visible, prediction where hidden; the gradient reaches hidden patches alone."""
        return torch.where(self._replaced, self.predicted_image, self.image)

    @cached_property
    def oracle_composite(self) -> Tensor:
        """The composite of the oracle rendering, which sees the truth: label it `oracle`."""
        return torch.where(self._replaced, self._whole_image(self.oracle_pixels), self.image)

    @cached_property
    def hidden_pixels(self) -> Tensor:
        """(B, 1, H, W) bool, True where hidden."""
        return expand_to_pixels(self.mask, self.grid, self.patch_size)

    @cached_property
    def judged_image(self) -> Tensor:
        """The image that terms read: the composite, or the whole prediction if all patches are compared."""
        return self.composite if self.over == "hidden" else self.predicted_image

    def shifted(self, image: Tensor, stride: int) -> Tensor:
        """Crops (B, C, H, W) so that a critic's grid of `stride` pixels starts at this reconstruction's shift.

        Removes `stride - 1` rows and columns (at most a patch less one): no patch is lost, the size always the same.
        """
        cut = min(stride, self.patch_size) - 1
        top, left = (int(u * (cut + 1)) for u in self.shift)
        return image[:, :, top : image.shape[2] - cut + top, left : image.shape[3] - cut + left]

    # Means

    @cached_property
    def judged(self) -> Tensor:
        """(B, N) float: 1 for patches that are compared, else 0."""
        if self.indices is not None:
            return torch.ones_like(self.indices, dtype=self.true_pixels.dtype)
        return (self.mask if self.over == "hidden" else torch.ones_like(self.mask)).to(self.true_pixels.dtype)

    def judged_mean(self, values: Tensor) -> Tensor:
        """Mean of (B, N, ...) over each patch's values, then over the compared patches: a scalar."""
        return (values.flatten(2).mean(-1) * self.judged).sum() / self.judged.sum()

    @cached_property
    def head_loss(self) -> Tensor | None:
        """What the head itself must learn beside the objective (see `PixelHead.own_errors`): a scalar, or None."""
        errors = self.head.own_errors(self.prediction, self.true_pixels)
        return None if errors is None else self.judged_mean(errors)

    # Scales

    def as_image(self, pixels: Tensor) -> Tensor:
        """Standardised patches (B, N, P) -> image (B, 3, H, W) in [0, 1], not clamped."""
        mean, std = self._statistics(pixels)
        return unpatchify(pixels, self.grid) * std + mean

    def _whole_image(self, pixels: Tensor) -> Tensor:
        """As `as_image`, with zeros for patches that were not predicted."""
        if self.indices is not None:
            whole = pixels.new_zeros(*self.mask.shape, self.values)
            pixels = whole.scatter(1, _expanded(self.indices, pixels), pixels)
        return self.as_image(pixels)

    @cached_property
    def _replaced(self) -> Tensor:
        """(B, 1, H, W) bool, True where the composite has the prediction."""
        if self.indices is None:
            return self.hidden_pixels
        predicted = torch.zeros_like(self.mask).scatter(1, self.indices, True)
        return expand_to_pixels(predicted, self.grid, self.patch_size)

    def _standardised(self, image: Tensor) -> Tensor:
        mean, std = self._statistics(image)
        return (image - mean) / std

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in (self.mean, self.std))
        return mean.view(3, 1, 1), std.view(3, 1, 1)


def _expanded(indices: Tensor, patches: Tensor) -> Tensor:
    """(B, n) as an index into the second dimension of (B, N, P), for `gather` and `scatter`."""
    return indices.unsqueeze(-1).expand(-1, -1, patches.shape[-1])
