"""One prediction, in every view a loss, a metric or a figure needs."""

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from losses.heads import PixelHead, patch_statistics
from losses.patches import patchify, spread, unpatchify
from losses.statistics import IMAGENET_MEAN, IMAGENET_STD


class Reconstruction:
    """What a masked autoencoder predicted, beside the truth.

    Args:
        prediction: (B, N, W), the head's output; W = P = p*p*3, plus the head's statistics. Or (B, n, W), of the
            patches `where` alone.
        image: (B, 3, H, W) in [0, 1], the truth.
        mask: (B, N) bool, True where a patch was hidden.
        head: how the prediction becomes pixels.
        mean, std: per channel; pixel terms work on pixels standardised by them, as the MAE paper's code does.
        over: "hidden" or "all": the patches that are judged.
        shift: two numbers in [0, 1) that place every critic's grid against the grid of patches; drawn from
            torch's CPU generator where not given, and one and the same for all terms.
        chance: three more such numbers, for critics that look at a part: at which images, and where in them. Where not
            given they follow from the shift, as if drawn independently of it.
        where: (B, n), the hidden patches that were predicted, where not all N were. All (B, N, ...) views of patches
            are then (B, n, ...), theirs alone; a composite shows the truth where nothing was predicted.

    Views are computed on demand and kept. Patches are in the official order (see `patchify`).

    Raises:
        ValueError: all patches are to be judged, and only some were predicted.
    """

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
        chance: tuple[float, float, float] | None = None,
        where: Tensor | None = None,
    ):
        if where is not None and over != "hidden":
            raise ValueError(f"over={over!r}, but only hidden patches were predicted")
        self.prediction, self.image, self.mask = prediction, image, mask
        self.head = head or PixelHead()
        self.mean, self.std, self.over, self.where = mean, std, over, where
        self.patch_size = math.isqrt(image.shape[2] * image.shape[3] // mask.shape[1])
        self.grid = (image.shape[2] // self.patch_size, image.shape[3] // self.patch_size)
        self.values = 3 * self.patch_size**2
        if shift is not None:
            self.shift = shift
        if chance is not None:
            self.chance = chance

    def at(self, prediction: Tensor, over: str) -> "Reconstruction":
        """The same truth, mask and draws under another prediction, judged over `over`."""
        same = {"shift": self.shift, "chance": self.chance, "where": self.where}
        other = Reconstruction(prediction, self.image, self.mask, self.head, self.mean, self.std, over, **same)
        other.true_pixels = self.true_pixels
        if self.head.statistics:
            other.true_statistics = self.true_statistics
        return other

    @cached_property
    def shift(self) -> tuple[float, float]:
        u = torch.rand(2)
        return float(u[0]), float(u[1])

    @cached_property
    def chance(self) -> tuple[float, float, float]:
        # A function of the shift: the generator is at the same place whether or not anybody looks at a part.
        seed = sum(int(u * 2**24) << 24 * i for i, u in enumerate(self.shift))
        return tuple(torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist())

    # Patches, (B, N, P) --------------------------------------------------------------------------------------

    @cached_property
    def true_pixels(self) -> Tensor:
        """The truth, standardised."""
        patches = patchify(self.standardised_image, self.patch_size)
        return patches if self.where is None else patches.gather(1, _at(self.where, patches))

    @cached_property
    def true_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each patch of `true_pixels`, two (B, N, 1)."""
        return patch_statistics(self.true_pixels)

    @cached_property
    def pixels(self) -> Tensor:
        """The prediction, standardised; the head's honest rendering."""
        return self.head.pixels(self)

    @cached_property
    def oracle_pixels(self) -> Tensor:
        """The prediction, standardised; rendered with the true patch statistics where the head needs any."""
        return self.head.oracle_pixels(self)

    @cached_property
    def patches(self) -> Tensor:
        """The prediction in the model's own space: normalised per patch under a normalised head."""
        return self.head.patches(self)

    @cached_property
    def target(self) -> Tensor:
        """The truth in the model's own space."""
        return self.head.target(self)

    # Images, (B, 3, H, W) in [0, 1]; predictions may overshoot -------------------------------------------------

    @cached_property
    def standardised_image(self) -> Tensor:
        """The truth, standardised."""
        return self._standardised(self.image)

    @cached_property
    def predicted_image(self) -> Tensor:
        """The raw prediction, also where the truth was visible; the mean colour where there is no prediction."""
        return self._whole_image(self.pixels)

    @cached_property
    def composite(self) -> Tensor:
        """Truth where visible, prediction where hidden: gradient reaches hidden patches alone."""
        return torch.where(self._replaced, self.predicted_image, self.image)

    @cached_property
    def oracle_composite(self) -> Tensor:
        """The composite of the oracle rendering; label it so."""
        return torch.where(self._replaced, self._whole_image(self.oracle_pixels), self.image)

    @cached_property
    def hidden_pixels(self) -> Tensor:
        """(B, 1, H, W) bool, True where hidden."""
        return spread(self.mask, self.grid, self.patch_size)

    @cached_property
    def judged_image(self) -> Tensor:
        """What image-space terms see: the composite, or the whole prediction where all patches are judged."""
        return self.composite if self.over == "hidden" else self.predicted_image

    def shifted(self, image: Tensor, stride: int) -> Tensor:
        """The window of (B, C, H, W) that puts a critic's grid of `stride` pixels at this reconstruction's shift.

        Cuts `stride - 1` rows and columns in all, at most a patch less one, so that no patch is lost and the size
        is the same at every shift.
        """
        cut = min(stride, self.patch_size) - 1
        top, left = (int(u * (cut + 1)) for u in self.shift)
        return image[:, :, top : image.shape[2] - cut + top, left : image.shape[3] - cut + left]

    # Means -----------------------------------------------------------------------------------------------------

    @cached_property
    def judged(self) -> Tensor:
        """(B, N) float: 1 where the patch counts."""
        if self.where is not None:
            return torch.ones_like(self.where, dtype=self.true_pixels.dtype)
        return (self.mask if self.over == "hidden" else torch.ones_like(self.mask)).to(self.true_pixels.dtype)

    def judged_mean(self, values: Tensor) -> Tensor:
        """Mean of (B, N, ...) over each judged patch's values, then over the judged patches: a scalar."""
        return (values.flatten(2).mean(-1) * self.judged).sum() / self.judged.sum()

    # Scales ----------------------------------------------------------------------------------------------------

    def as_image(self, pixels: Tensor) -> Tensor:
        """Standardised patches (B, N, P) -> image (B, 3, H, W) in [0, 1], not clamped."""
        mean, std = self._statistics(pixels)
        return unpatchify(pixels, self.grid) * std + mean

    def _whole_image(self, pixels: Tensor) -> Tensor:
        """As `as_image`, of the patches that were predicted."""
        if self.where is not None:
            whole = pixels.new_zeros(*self.mask.shape, self.values)
            pixels = whole.scatter(1, _at(self.where, pixels), pixels)
        return self.as_image(pixels)

    @cached_property
    def _replaced(self) -> Tensor:
        """(B, 1, H, W) bool, True where the composite has the prediction."""
        if self.where is None:
            return self.hidden_pixels
        predicted = torch.zeros_like(self.mask).scatter(1, self.where, True)
        return spread(predicted, self.grid, self.patch_size)

    def _standardised(self, image: Tensor) -> Tensor:
        mean, std = self._statistics(image)
        return (image - mean) / std

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in (self.mean, self.std))
        return mean.view(3, 1, 1), std.view(3, 1, 1)


def _at(where: Tensor, patches: Tensor) -> Tensor:
    """(B, n) as an index into the second dimension of (B, N, P)."""
    return where.unsqueeze(-1).expand(-1, -1, patches.shape[-1])
