"""One row's numbers, batch by batch and put together; only a few hundred numbers of each image are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from recon.evaluation.rows import Distribution
from recon.evaluation.suite import Instruments
from recon.metrics import METRICS, Pair, Undefined
from recon.metrics.base import grey_patches
from recon.metrics.distribution import SlicedWasserstein, paired_kid
from recon.metrics.recovery import RECOVERY, band_moments, distance_to_visible, summary
from recon.metrics.spectrum import SMALLEST_PATCH, band_power, dct2
from recon.metrics.uncertainty import moments, per_image_scores

FURTHEST = 4  # patches to the nearest visible one; those further away are counted there


@dataclass
class Measured:
    """One row's numbers; tensors are float64 on the CPU, images along the first dimension.

    values: metric -> (n,), NaN where an image has no value; of a distribution metric what each image adds to it.
    reasons: metric -> why it has none at all.
    moments: (n, distances, bands, 4), of the hidden patches at distance 1, 2, ... from the nearest visible one.
    power: (n, bands), mean power of hidden patches. Both are None where patches are too small for bands.
    pictures: (pictures, 3, H, W) uint8, the prediction as it is, also where the truth was visible.
    luma: (1 + 2D, 1 + 2D), summed second moments of prediction and truth, of the luminance of hidden patches.
    distribution: of the mean of several draws, what else the draws tell.
    exact_retention: (bands,), what theory expects of a bound.
    """

    values: dict[str, Tensor]
    reasons: dict[str, str]
    moments: Tensor | None
    power: Tensor | None
    pictures: Tensor
    luma: Tensor
    distribution: "Drawn | None" = None
    exact_retention: Tensor | None = None


class Drawn(NamedTuple):
    """What several draws tell, on the CPU.

    ranks: (n, S + 1), how often the truth lay above 0, ..., S of the draws. luma: (1 + 3D, 1 + 3D), as `Measured.luma`
    of mean, one draw and truth. pictures: (pictures, S, 3, H, W) uint8.
    """

    ranks: Tensor
    luma: Tensor
    pictures: Tensor


@dataclass(frozen=True)
class Part:
    """One row's numbers of one batch, on the CPU: what `Measured` is made of.

    features: (B, D) of the prediction and of the truth; texture: what `SlicedWasserstein` keeps; None where there is no
    such thing.
    """

    values: dict[str, Tensor]
    reasons: dict[str, str]
    features: tuple[Tensor, Tensor] | None
    texture: tuple[Tensor, ...] | None
    moments: Tensor | None
    power: Tensor | None
    pictures: Tensor
    luma: Tensor
    distribution: Drawn | None


class Gauge:
    """Measures a row's pairs batch by batch."""

    def __init__(self, instruments: Instruments, patch_size: int, device: torch.device):
        self.instruments, self.patch_size, self.device = instruments, patch_size, device
        self.reasons = dict(instruments.missing)
        self.texture = SlicedWasserstein(patch_size) if patch_size >= SMALLEST_PATCH else None
        if self.texture is None:
            names = ("sliced_wasserstein", *(metric.name for metric in RECOVERY))
            self.reasons |= dict.fromkeys(names, f"patches below {SMALLEST_PATCH} pixels")

    def measure(
        self,
        pair: Pair,
        true_features: Tensor | None,
        looked_at: Tensor,
        of: Distribution | None = None,
        which: Sequence[int] = (),
    ) -> Part:
        """One batch.

        Args:
            true_features: (B, D) on the CPU, those of the truth, the same for every row.
            looked_at: (few, 3, H, W), the predictions to be kept as pictures.
            of: the distribution whose draws are scored, and kept of the images `which`; None: one answer is scored.
        """
        values, reasons = {}, dict(self.reasons)
        for name, metric in self.instruments.metrics.items():
            try:
                values[name] = metric(pair).double().cpu()
            except Undefined as reason:
                reasons[name] = str(reason)
        features = texture = moments = power = None
        if true_features is not None:
            features = self.instruments.features(pair.image).cpu(), true_features
        if self.texture is not None:
            texture = tuple(kept.cpu() for kept in self.texture.sample(pair))
            moments = moments_by_distance(pair, self.instruments.colour).cpu()
            power = band_power(pair.grey_patches, pair.mask).double().cpu()
        draws = pair.image[None] if of is None else of.samples(pair.truth, pair.mask)
        scores = per_image_scores(draws, pair.truth, pair.mask)
        ranks = scores.pop("ranks").cpu()
        values |= {name: value.cpu() for name, value in scores.items()}
        drawn = None
        if of is not None:
            if (bits := of.bits_per_dim(pair.truth, pair.mask)) is not None:
                values["bits_per_dim"] = bits.double().cpu()
            mean = of.rendered("mean")(pair.truth, pair.mask).clamp(0, 1)
            shown = draws[:, list(which)].movedim(0, 1)
            drawn = Drawn(ranks, luma_moments(pair, mean, draws[0]).cpu(), as_bytes(shown))
        luma = luma_moments(pair, pair.image).cpu()
        return Part(values, reasons, features, texture, moments, power, as_bytes(looked_at), luma, drawn)

    def result(self, parts: Sequence[Part]) -> Measured:
        """Of all batches, in their order. What one of them has no value for has none."""
        reasons = {name: reason for part in parts for name, reason in part.reasons.items()}
        names = [name for name in parts[0].values if name not in reasons]
        values = {name: torch.cat([part.values[name] for part in parts]) for name in names}
        if "kid" not in reasons:
            try:
                values["kid"] = paired_kid(*map(torch.cat, zip(*(part.features for part in parts), strict=True)))
            except Undefined as reason:
                reasons["kid"] = str(reason)
        moments = power = None
        if self.texture is not None:
            texture = SlicedWasserstein(self.patch_size)
            texture.kept = [tuple(kept.to(self.device) for kept in part.texture) for part in parts]
            values["sliced_wasserstein"] = texture.per_image().cpu()
            moments, power = (torch.cat([getattr(part, name) for part in parts]) for name in ("moments", "power"))
        distribution = None
        if parts[0].distribution is not None:
            ranks, lumas, shown = zip(*(part.distribution for part in parts), strict=True)
            distribution = Drawn(torch.cat(ranks), sum(lumas), torch.cat(shown))
        pictures, luma = torch.cat([part.pictures for part in parts]), sum(part.luma for part in parts)
        return Measured(values, reasons, moments, power, pictures, luma, distribution)


def as_bytes(images: Tensor) -> Tensor:
    """[0, 1] to uint8, on the CPU."""
    return (images.nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8).cpu()


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


class RatioPart(NamedTuple):
    """One row's numbers of one batch at one mask ratio: (B,) in dB; (B, bands, 4), None where patches have no bands."""

    psnr: Tensor
    moments: Tensor | None


def at_ratio(pair: Pair, colour: Tensor) -> RatioPart:
    """Measures a batch under masks of another ratio."""
    moments = None
    if pair.patch_size >= SMALLEST_PATCH:
        moments = band_moments(pair.patches, pair.true_patches, pair.mask, colour).cpu()
    return RatioPart(METRICS["masked_psnr"](pair).cpu(), moments)


def ratio_point(parts: Sequence[RatioPart]) -> dict[str, float]:
    """Masked PSNR in dB, retention and coherence, over all batches."""
    psnr = torch.cat([part.psnr for part in parts])
    found = {"psnr": psnr[psnr.isfinite()].mean().item()}
    if parts[0].moments is not None:
        moments = torch.cat([part.moments for part in parts])
        sums = summary(moments[moments.flatten(1).isfinite().all(1)].sum(0))
        found |= {name: sums[name].item() for name in ("retention", "coherence")}
    return found
