"""Where hidden patches keep their energy: the 2-D DCT of patches, in rings of equal spatial frequency.

Everything is computed in float64, on which no device's setting for fast multiplication has a hold.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from recon.metrics.base import Metric, Undefined

SMALLEST_PATCH = 4  # fewer pixels make fewer than three bands beside the mean
QUANTISATION = 1 / (12 * 255**2)  # power that rounding to 8 bits puts into every coefficient
ROUNDING = 1e-10  # power that float32 pixels cannot be trusted to resolve; what is less counts as none


def dct2(patches: Tensor) -> Tensor:
    """Orthonormal 2-D DCT-II, `scipy.fft.dctn(norm="ortho")` over the last two dimensions: (..., p, p) -> (..., p, p).

    Coefficient (u, v) is a cosine of u / 2p cycles per pixel down and v / 2p across; the sum of squares is kept.
    """
    p = patches.shape[-1]
    order = torch.arange(p, dtype=torch.float64, device=patches.device)
    basis = torch.cos(math.pi / p * torch.outer(order + 0.5, order)) * math.sqrt(2 / p)  # (pixel, coefficient)
    basis[:, 0] /= math.sqrt(2)
    basis = basis.to(patches.dtype)
    return ((patches @ basis).mT @ basis).mT


def bands(p: int) -> Tensor:
    """Band of each DCT coefficient, (p, p) long: ring round(sqrt(u² + v²)), at most p - 1.

    Band 0 is the patch's mean alone. The last band also holds the corner beyond, up to sqrt(2) times its frequency.
    """
    return _radius(p).round().long().clamp(max=p - 1)


def band_frequency(p: int) -> Tensor:
    """Radial frequency of each band, r / 2p, in cycles per pixel (Nyquist is 1/2): (bands,)."""
    return torch.arange(p, dtype=torch.float64) / (2 * p)


def band_sums(per_coefficient: Tensor) -> Tensor:
    """Sums over the coefficients of each band: (..., p, p) -> (..., bands)."""
    p = per_coefficient.shape[-1]
    member = one_hot(bands(p).flatten(), p).to(per_coefficient)  # (p*p, bands)
    return per_coefficient.flatten(-2) @ member


def band_power(patches: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared DCT coefficient per band, over hidden patches: (B, N, p, p), (B, N) bool -> (B, bands).

    The radial power spectrum at `band_frequency(p)`; band 0 is not centred.
    """
    return _band_means(_power(patches, hidden))


def high_frequency_share(patches: Tensor, hidden: Tensor) -> Tensor:
    """Share of the hidden patches' AC energy above half of Nyquist, 1/4 cycle per pixel in any direction.

    Grey patches (B, N, p, p) in [0, 1], hidden (B, N) bool -> (B,) in [0, 1]; 0 for flat patches, whose AC power is
    less than rounding to 8 bits makes. Noise raises it as detail does. The DCT continues a patch by its mirror image,
    so seams between patches do not count; a gradient across a patch leaves a weak tail of its own.
    """
    power = _power(patches, hidden)
    p = power.shape[-1]
    fine = (_radius(p) > p / 2).to(power)
    share = (power * fine).sum((1, 2)) / _ac(power)
    return torch.where(_flat(power), 0, share)


def spectral_slope(patches: Tensor, hidden: Tensor) -> Tensor:
    """Least-squares slope of log power over log frequency, across the AC bands of hidden patches.

    Grey patches (B, N, p, p) in [0, 1], hidden (B, N) bool -> (B,): 0 for white noise, -2 to -3 for photographs
    (Field 1987), lower for blur, down to about -6, the tail of a gradient across a patch. A band stands at the mean
    log frequency of its coefficients. So few pixels see a power law as somewhat flatter: 1/f² as -1.6 in patches of 4
    pixels and -1.8 in patches of 16. NaN for flat patches, as in `high_frequency_share`.
    """
    power = _power(patches, hidden)
    p = power.shape[-1]
    place = _band_means(_radius(p).clamp(min=1).log())[1:].to(power.device)
    place = place - place.mean()
    level = (_band_means(power)[:, 1:] + ROUNDING).log()
    return torch.where(_flat(power), torch.nan, level @ place / place.square().sum())


def log_spectral_distance(patches: Tensor, true_patches: Tensor, hidden: Tensor) -> Tensor:
    """Root mean square over AC bands of the log ratio of prediction's to truth's power, in dB.

    Grey patches (B, N, p, p) in [0, 1], hidden (B, N) bool -> (B,) from 0. Compares mean power per band over the
    hidden patches, not coefficients: texture of the right strength in the wrong place costs nothing. The power of
    8-bit rounding is added to both, so that flat patches stay finite.
    """
    predicted, true = (_band_means(_power(x, hidden))[:, 1:] + QUANTISATION for x in (patches, true_patches))
    return (10 * (predicted / true).log10()).square().mean(1).sqrt()


def _radius(p: int) -> Tensor:
    if p < SMALLEST_PATCH:
        raise Undefined(f"patches below {SMALLEST_PATCH} pixels")
    order = torch.arange(p, dtype=torch.float64)
    return (order[:, None].square() + order.square()).sqrt()


def _power(patches: Tensor, hidden: Tensor) -> Tensor:
    """Mean square of every coefficient over hidden patches, (B, p, p) float64; NaN where nothing is hidden."""
    weight = hidden.double()
    total = torch.einsum("bnuv,bn->buv", dct2(patches.double()).square(), weight)
    return total / weight.sum(1)[:, None, None]


def _band_means(per_coefficient: Tensor) -> Tensor:
    """(..., p, p) -> (..., bands)."""
    return band_sums(per_coefficient) / band_sums(torch.ones_like(per_coefficient))


def _ac(power: Tensor) -> Tensor:
    """Power of all coefficients but the mean: (B, p, p) -> (B,)."""
    return power.flatten(1)[:, 1:].sum(1)


def _flat(power: Tensor) -> Tensor:
    """(B,) bool: less AC power than rounding to 8 bits makes."""
    return _ac(power) < QUANTISATION * (power.shape[-1] ** 2 - 1)


SPECTRUM = [
    Metric(
        name="high_frequency_share",
        description="Share of the energy of hidden patches, their means apart, above half of the highest frequency "
        "(1/4 cycle per pixel); noise raises it as detail does.",
        unit="share",
        low=0,
        high=1,
        better="truth",
        reference="energy of the orthonormal 2-D DCT of scipy.fft.dctn",
        paired=False,
        function=lambda pair: high_frequency_share(pair.grey_patches, pair.mask),
    ),
    Metric(
        name="spectral_slope",
        description="Slope of log power over log frequency inside hidden patches: 0 for white noise, -2 to -3 for "
        "photographs, lower for blur.",
        unit="log power / log frequency",
        low=-math.inf,
        high=math.inf,
        better="truth",
        reference="Field 1987; power of the orthonormal 2-D DCT of scipy.fft.dctn",
        paired=False,
        function=lambda pair: spectral_slope(pair.grey_patches, pair.mask),
    ),
    Metric(
        name="log_spectral_distance",
        description="How far the power spectrum of hidden patches is from the truth's, root mean square over "
        "frequency bands; blind to where the texture lies.",
        unit="dB",
        low=0,
        high=math.inf,
        better="lower",
        reference="Gray and Markel 1976, on bands of the 2-D DCT",
        paired=True,
        function=lambda pair: log_spectral_distance(pair.grey_patches, pair.true_grey_patches, pair.mask),
    ),
]
