"""Measures one row of an evaluation, batch by batch."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from recon.evaluation.rows import Distribution
from recon.evaluation.suite import MetricSuite
from recon.evaluation.summary import Measured
from recon.metrics import METRICS, Pair, Undefined
from recon.metrics.base import grey_patches
from recon.metrics.distribution import SlicedWasserstein, paired_kid
from recon.metrics.recovery import RECOVERY, band_moments, distance_to_visible, summary
from recon.metrics.spectrum import SMALLEST_PATCH, band_power, dct2
from recon.metrics.uncertainty import moments, per_image_scores

FURTHEST = 4  # patches to the nearest visible one; those further away are counted there


class Evaluator:
    """Measures one row, batch by batch.

    Per-image numbers stay on the device until `compute`, so that a batch does not wait for them.

    Args:
        colour: (3,), the dataset's mean.
    """

    def __init__(self, suite: MetricSuite, patch_size: int, colour: Tensor):
        self.suite, self.colour = suite, colour
        self.reasons = dict(suite.missing)
        self.texture = SlicedWasserstein(patch_size) if patch_size >= SMALLEST_PATCH else None
        if self.texture is None:
            names = ("sliced_wasserstein", *(metric.name for metric in RECOVERY))
            self.reasons |= dict.fromkeys(names, f"patches below {SMALLEST_PATCH} pixels")
        self.batches: dict[str, list[Tensor]] = defaultdict(list)
        self.luma: Tensor | None = None
        self.blend: Tensor | None = None

    def update(self, pair: Pair, image: Tensor, of: Distribution | None = None, pictured: Sequence[int] = ()) -> None:
        """Takes in a batch.

        Args:
            image: (B, 3, H, W), the prediction as it is, also where the truth was visible.
            of: the distribution whose draws are scored; None: the one answer is scored.
            pictured: positions of the images whose predictions are kept as pictures.
        """
        batch: dict[str, Tensor] = {"pictures": as_bytes(image[list(pictured)])}
        for name, metric in self.suite.metrics.items():
            try:
                batch[name] = metric(pair).double()
            except Undefined as reason:
                self.reasons[name] = str(reason)
        if self.suite.features is not None:
            batch["features"] = self.suite.features(pair.image)
        if self.texture is not None:
            self.texture.update(pair)
            batch["moments"] = moments_by_distance(pair, self.colour)
            batch["power"] = band_power(pair.grey_patches, pair.mask).double()
        draws = pair.image[None] if of is None else of.samples(pair.truth, pair.mask)
        batch |= per_image_scores(draws, pair.truth, pair.mask)
        if of is None:
            del batch["ranks"]
        else:
            if (bits := of.bits_per_dim(pair.truth, pair.mask)) is not None:
                batch["bits_per_dim"] = bits.double()
            batch["draws"] = as_bytes(draws[:, list(pictured)].movedim(0, 1))
            mean = of.rendered("mean")(pair.truth, pair.mask).clamp(0, 1)
            self.blend = _sum(self.blend, luma_moments(pair, mean, draws[0]))
        self.luma = _sum(self.luma, luma_moments(pair, pair.image))
        for name, values in batch.items():
            self.batches[name].append(values)

    def compute(self, true_features: Tensor | None = None) -> Measured:
        """The numbers of all images, in the order of the batches. A metric that one batch has no value for has none.

        Args:
            true_features: (n, D), of the truth, for KID.
        """
        joined = {name: torch.cat(parts) for name, parts in self.batches.items() if name not in self.reasons}
        features = joined.pop("features", None)
        if features is not None:
            try:
                joined["kid"] = paired_kid(features, true_features)
            except Undefined as reason:
                self.reasons["kid"] = str(reason)
        if self.texture is not None:
            joined["sliced_wasserstein"] = self.texture.per_image()
        blend = None if self.blend is None else self.blend.cpu()
        return Measured({name: values.cpu() for name, values in joined.items()}, self.reasons, self.luma.cpu(), blend)


class RatioEvaluator:
    """Measures one row under masks of another ratio: masked PSNR in dB, retention and coherence over all images."""

    def __init__(self, colour: Tensor):
        self.colour = colour
        self.psnr: list[Tensor] = []
        self.moments: list[Tensor] = []  # none where patches are too small for bands

    def update(self, pair: Pair) -> None:
        self.psnr.append(METRICS["masked_psnr"](pair))
        if pair.patch_size >= SMALLEST_PATCH:
            self.moments.append(band_moments(pair.patches, pair.true_patches, pair.mask, self.colour))

    def compute(self) -> dict[str, float]:
        psnr = torch.cat(self.psnr)
        found = {"psnr": psnr[psnr.isfinite()].mean().item()}
        if self.moments:
            moments = torch.cat(self.moments)
            sums = summary(moments[moments.flatten(1).isfinite().all(1)].sum(0))
            found |= {name: sums[name].item() for name in ("retention", "coherence")}
        return found


def as_bytes(images: Tensor) -> Tensor:
    """[0, 1] to uint8."""
    return (images.nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)


def _sum(total: Tensor | None, more: Tensor) -> Tensor:
    return more if total is None else total + more


def luma_moments(pair: Pair, *images: Tensor) -> Tensor:
    """Summed second moments of 1, of images (B, 3, H, W) and of the truth: their hidden patches' luminance, if finite.

    D = p² DCT coefficients of each, or the 64 of lowest frequency of larger patches: (1 + kD, 1 + kD) float64.
    """
    side = min(8, pair.patch_size)
    each = [grey_patches(image, pair.patch_size) for image in images] + [pair.true_grey_patches]
    found = [dct2(patches[pair.mask].double())[:, :side, :side].flatten(1) for patches in each]
    vectors = torch.cat(found, dim=1)
    return moments(vectors[vectors.isfinite().all(1)])


def moments_by_distance(pair: Pair, colour: Tensor) -> Tensor:
    """`band_moments` of the hidden patches at each distance from the nearest visible one: (B, FURTHEST, bands, 4)."""
    distance = distance_to_visible(pair.mask, pair.grid).clamp(max=FURTHEST)
    at = one_hot(distance, FURTHEST + 1).mT[:, 1:]  # (B, FURTHEST, N); visible patches are at none
    return band_moments(pair.patches, pair.true_patches, at, colour)
