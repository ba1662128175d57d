"""One row's numbers, gathered batch by batch; only a few hundred numbers of each image are kept."""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from recon.evaluation.instruments import Instruments
from recon.metrics import METRICS, Pair, Undefined
from recon.metrics.distribution import SlicedWasserstein, paired_kid
from recon.metrics.recovery import RECOVERY, band_moments, distance_to_visible, summary
from recon.metrics.spectrum import SMALLEST_PATCH, band_power

FURTHEST = 4  # patches to the nearest visible one; those further away are counted there


@dataclass
class Measured:
    """One row's numbers; tensors are float64 on the CPU, images along the first dimension.

    values: metric -> (n,), NaN where an image has no value; of a distribution metric what each image adds to it.
    reasons: metric -> why it has none at all.
    moments: (n, distances, bands, 4), of the hidden patches at distance 1, 2, ... from the nearest visible one.
    power: (n, bands), mean power of hidden patches. Both are None where patches are too small for bands.
    pictures: (pictures, 3, H, W) uint8, the prediction as it is, also where the truth was visible.
    exact_retention: (bands,), what theory expects of a bound.
    """

    values: dict[str, Tensor]
    reasons: dict[str, str]
    moments: Tensor | None
    power: Tensor | None
    pictures: Tensor
    exact_retention: Tensor | None = None


class Gathering:
    """Takes in one row's pairs, batch by batch."""

    def __init__(self, instruments: Instruments, patch_size: int):
        self.instruments = instruments
        self.values: dict[str, list[Tensor]] = defaultdict(list)
        self.reasons = dict(instruments.missing)
        self.features: list[tuple[Tensor, Tensor]] = []
        self.moments: list[Tensor] = []
        self.power: list[Tensor] = []
        self.pictures: list[Tensor] = []
        self.texture = SlicedWasserstein(patch_size) if patch_size >= SMALLEST_PATCH else None
        if self.texture is None:
            names = ("sliced_wasserstein", *(metric.name for metric in RECOVERY))
            self.reasons |= dict.fromkeys(names, f"patches below {SMALLEST_PATCH} pixels")

    def add(self, pair: Pair, true_features: Tensor | None, looked_at: Tensor) -> None:
        """One batch.

        Args:
            true_features: (B, D), those of the truth, the same for every row.
            looked_at: (few, 3, H, W), the predictions to be kept as pictures.
        """
        self.pictures.append((looked_at.nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8).cpu())
        for name, metric in self.instruments.metrics.items():
            try:
                self.values[name].append(metric(pair).double().cpu())
            except Undefined as reason:
                self.reasons[name] = str(reason)
        if true_features is not None:
            self.features.append((self.instruments.features(pair.image).cpu(), true_features))
        if self.texture is not None:
            self.texture.update(pair)
            self.moments.append(moments_by_distance(pair, self.instruments.colour).cpu())
            self.power.append(band_power(pair.grey_patches, pair.mask).double().cpu())

    def result(self) -> Measured:
        values = {name: torch.cat(parts) for name, parts in self.values.items() if name not in self.reasons}
        if self.features:
            try:
                values["kid"] = paired_kid(*(torch.cat(parts) for parts in zip(*self.features, strict=True)))
            except Undefined as reason:
                self.reasons["kid"] = str(reason)
        if self.texture is not None:
            values["sliced_wasserstein"] = self.texture.per_image().cpu()
        moments, power = (torch.cat(parts) if parts else None for parts in (self.moments, self.power))
        return Measured(values, self.reasons, moments, power, torch.cat(self.pictures))


def moments_by_distance(pair: Pair, colour: Tensor) -> Tensor:
    """`band_moments` of the hidden patches at each distance from the nearest visible one: (B, FURTHEST, bands, 4)."""
    distance = distance_to_visible(pair.mask, pair.grid).clamp(max=FURTHEST)
    at = one_hot(distance, FURTHEST + 1).mT[:, 1:]  # (B, FURTHEST, N); visible patches are at none
    return band_moments(pair.patches, pair.true_patches, at, colour)


class RatioPoint:
    """One row at one mask ratio: masked PSNR in dB, retention and coherence."""

    def __init__(self, colour: Tensor):
        self.colour = colour
        self.psnr: list[Tensor] = []
        self.moments: list[Tensor] = []

    def add(self, pair: Pair) -> None:
        self.psnr.append(METRICS["masked_psnr"](pair).cpu())
        if pair.patch_size >= SMALLEST_PATCH:
            moments = band_moments(pair.patches, pair.true_patches, pair.mask, self.colour).cpu()
            self.moments.append(moments[moments.flatten(1).isfinite().all(1)])

    def result(self) -> dict[str, float]:
        psnr = torch.cat(self.psnr)
        found = {"psnr": psnr[psnr.isfinite()].mean().item()}
        if self.moments:
            sums = summary(torch.cat(self.moments).sum(0))
            found |= {name: sums[name].item() for name in ("retention", "coherence")}
        return found
