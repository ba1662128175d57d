"""How much of a hidden patch's texture is recovered, missing, or invented, in each frequency band: the exact test.

For c a DCT coefficient of a hidden patch and ĉ the prediction's: energy retention ρ = E ĉ² / E c², coherence
γ² = (E c ĉ)² / (E c² E ĉ²), error e = E(c - ĉ)² / E c². The prediction of least squared error, E(c | visible), is
orthogonal to its own error, hence ρ = 1 - e = γ² in every band: the missing energy is exactly the uncertainty.
Energy without coherence, ρ(1 - γ²), is invented.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from recon.metrics.base import Direction, MetricInfo, Pair, Undefined, map_in_chunks
from recon.metrics.spectrum import ROUNDING, SMALLEST_PATCH, band_sums, coefficients, dct2


def band_moments(patches: Tensor, true_patches: Tensor, weight: Tensor, mean: Tensor) -> Tensor:
    """Per image and band of DCT coefficients: their count, Σ c², Σ ĉ² and Σ c ĉ. -> (B, [sets,] bands, 4) float64

    Sums over images, or over sets of patches, are those of the union; coefficients of all three channels are pooled.

    Args:
        patches, true_patches: (B, N, 3, p, p) in [0, 1].
        weight: (B, N) bool or float: the patches that count; or (B, sets, N), such as the hidden ones at each distance.
        mean: (3,), the constant colour that is subtracted from both. It changes band 0 alone; the others need no
            centring.
    """
    found = map_in_chunks(
        lambda x, y, weight: _moments(dct2(x.double()), dct2(y.double()), weight, mean),
        *(patches, true_patches, weight if weight.ndim == 3 else weight[:, None]),
    )
    return found if weight.ndim == 3 else found[:, 0]


def pair_moments(pair: Pair, weight: Tensor, mean: Tensor) -> Tensor:
    """`band_moments` of a pair, for weights (B, sets, N), by coefficients that are computed once for all metrics."""
    both = coefficients(pair.predicted), coefficients(pair.true)
    return map_in_chunks(lambda x, y, weight: _moments(x, y, weight, mean), *both, weight)


def _moments(predicted: Tensor, true: Tensor, weight: Tensor, mean: Tensor) -> Tensor:
    """From coefficients (B, N, 3, p, p) float64, and weights (B, sets, N)."""
    p = true.shape[-1]
    shift = torch.zeros(3, p, p, dtype=torch.float64)
    shift[:, 0, 0] = mean * p  # the coefficients of a constant colour
    x, y = ((c - shift.to(c.device)).flatten(3).flatten(1, 2) for c in (predicted, true))
    weight = weight.double().repeat_interleave(3, dim=2)  # (B, sets, N*3); the coefficients are (B, N*3, p*p)
    products = y.square(), x.square(), y * x
    count = weight.sum(2)[..., None, None].expand(-1, -1, p, p)
    return torch.stack([band_sums(z) for z in (count, *((weight @ z).unflatten(2, (p, p)) for z in products))], -1)


@dataclass(frozen=True)
class Recovery:
    """Ratios of summed `band_moments` (..., bands, 4); every property is (..., bands).

    Where the truth has no energy all are NaN. Where the prediction has none, retention and coherence are 0.
    Sum only finite moments: a prediction with NaN makes its own image's moments NaN, and every sum with them.
    """

    moments: Tensor

    @cached_property
    def retention(self) -> Tensor:
        """ρ: predicted over true energy, from 0; 1 for the truth."""
        return self._predicted / self._true

    @cached_property
    def gain(self) -> Tensor:
        """Σ c ĉ / Σ c²: the modulation transfer function of texture; blur lowers it, noise does not change it."""
        return torch.where(self._predicted == 0, 0, self.moments[..., 3]) / self._true

    @cached_property
    def coherence(self) -> Tensor:
        """γ²: squared correlation with the truth, pooled over the band, in [0, 1]."""
        return torch.where(self.retention == 0, 0, self.gain.square() / self.retention).clamp(max=1)

    @property
    def error(self) -> Tensor:
        """e: squared error over true energy, from 0; 1 for no prediction at all."""
        return 1 - 2 * self.gain + self.retention

    @property
    def missing(self) -> Tensor:
        """1 - ρ where ρ < 1, else 0: true energy that the prediction lacks, in [0, 1]."""
        return (1 - self.retention).clamp(min=0)

    @property
    def invented(self) -> Tensor:
        """ρ(1 - γ²): predicted energy that is not correlated with the truth, from 0."""
        return self.retention * (1 - self.coherence)

    @property
    def coherent_retention(self) -> Tensor:
        """ργ², the square of the gain: predicted energy that goes with the truth, from 0. Noise does not raise it."""
        return self.retention * self.coherence

    @property
    def calibration_gap(self) -> Tensor:
        """|ρ - (1 - e)| = 2|ρ - gain|, from 0: 0 for the prediction of least squared error, at any uncertainty.

        Both more blur and more sharpness than the uncertainty explains raise it: a draw of a likely completion has
        ρ = 1 and a gap of 2(1 - γ). But predicting nothing has no gap either: compare it with `missing`.
        """
        return 2 * (self.retention - self.gain).abs()

    @cached_property
    def _true(self) -> Tensor:
        count, energy = self.moments[..., 0], self.moments[..., 1]
        return torch.where(energy > ROUNDING * count, energy, torch.nan)

    @cached_property
    def _predicted(self) -> Tensor:
        count, energy = self.moments[..., 0], self.moments[..., 2]
        return torch.where(energy <= ROUNDING * count, 0, energy)  # NaN stays NaN


def summary(moments: Tensor) -> dict[str, Tensor]:
    """Summed moments (..., bands, 4) to one number (...) for each name of `RECOVERY`.

    Unweighted means over all bands but the patch's mean: weighted by energy, only the lowest band would count.
    `invented_share` is the ratio of two of them. NaN where the truth has no energy in a band.
    """
    recovery = Recovery(moments)
    found = {name: getattr(recovery, name)[..., 1:].mean(-1) for name in AVERAGED}
    retention = torch.where(found["retention"] == 0, torch.nan, found["retention"])
    return found | {"invented_share": found["invented"] / retention}


def added_texture(pair: Pair) -> Tensor:
    """The share of texture in each patch that the truth does not support: (B, N) in [0, 1].

    In each frequency band but the patch's mean, with the energies P = Σ ĉ² and E = Σ c² and the product G = Σ c ĉ:
    the energy beyond the product, P - max(G, 0), over E plus one grey level squared per coefficient, within [0, 1];
    then the mean over bands. The best prediction under squared error has E P = E G, hence "supports": what it has of
    the truth's energy, the truth confirms. 0 for the truth and wherever a prediction is the truth made weaker; about
    1 - ρ for a draw of the likely completions, where ρ is the retention of the best prediction; 1 for noise of the
    truth's strength. Texture below one grey level does not count.

    Raises:
        Undefined: patches below 4 pixels.
    """
    p = pair.patch_size
    if p < SMALLEST_PATCH:
        raise Undefined(f"patches below {SMALLEST_PATCH} pixels")
    level = 3 * band_sums(torch.full((p, p), 1 / 255**2, dtype=torch.float64, device=pair.mask.device))

    def of_chunk(predicted: Tensor, true: Tensor) -> Tensor:
        energy, true_energy, product = (
            band_sums(x.sum(2)) for x in (predicted.square(), true.square(), predicted * true)
        )
        beyond = (energy - product.clamp(min=0)).clamp(min=0) / (true_energy + level)
        return beyond[..., 1:].clamp(max=1).mean(-1)

    return map_in_chunks(of_chunk, coefficients(pair.predicted), coefficients(pair.true))


def distance_to_visible(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Chebyshev distance in patches to the nearest visible patch: mask (B, N) bool, True = hidden -> (B, N) long.

    0 for visible patches, 1 for those that touch one, corners too. With nothing visible all are max(grid), which no
    other patch can reach.
    """
    far = mask.reshape(len(mask), 1, *grid).float()  # 1 where not yet reached
    distance = torch.zeros_like(far)
    for _ in range(max(grid)):
        distance += far
        far = -max_pool2d(-far, kernel_size=3, stride=1, padding=1)
    return distance.long().flatten(1)


def _info(name: str, what: str, better: Direction, unit: str = "ratio", more: str = "") -> MetricInfo:
    description = f"{what}, in hidden patches, without their means, averaged over frequency bands{more}."
    reference = "orthogonality of the conditional mean; coefficients of scipy.fft.dctn"
    return MetricInfo(name, description, unit, better, reference, high=1 if unit == "share" else math.inf)


RECOVERY = [
    _info("retention", "Energy of the prediction over the truth's", "truth"),
    _info("coherence", "Squared correlation with the truth", "higher", "share"),
    _info(
        "coherent_retention", "Retention times coherence: energy that goes with the truth, over the truth's", "higher"
    ),
    _info("missing", "Energy of the truth that the prediction lacks", "lower", "share"),
    _info(
        "invented",
        "Energy of the prediction that is not correlated with the truth, over the truth's",
        "lower",
        more="; not 0 at best: the best prediction under squared error has retention r and invents r (1 - r)",
    ),
    _info(
        "calibration_gap",
        "How far retention is from one minus the error",
        "lower",
        more=": 0 where only the uncertain is missing, and where nothing is predicted",
    ),
]
AVERAGED = [metric.name for metric in RECOVERY]
RECOVERY.append(
    MetricInfo(
        "invented_share",
        "Share of the energy that the prediction adds to hidden patches, without their means, which is not correlated "
        "with the truth: invented over retention. 0 for the truth; 1 - r for the best prediction under squared error, "
        "of retention r, and 1 - r² for a draw of the likely completions.",
        "share",
        "lower",
        "orthogonality of the conditional mean; coefficients of scipy.fft.dctn",
        high=1,
    )
)
