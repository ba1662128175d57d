"""How the energy of hidden patches is spread over spatial frequencies: rings of their 2-D DCT.

Everything is computed in float64, on a GPU too. float32 products there may be TF32, which keeps 3 digits, while the
highest bands hold a millionth of the energy. It costs little: 64 images of 224 pixels in patches of 16 take 0.2 GFLOP,
a few thousandths of VGG19's share of the same evaluation.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from recon.metrics.base import Images, Pair, Undefined, kept, map_in_chunks, pair_metric

SMALLEST_PATCH = 4  # fewer pixels make fewer than three bands beside the mean
QUANTISATION = 1 / (12 * 255**2)  # power that rounding to 8 bits puts into every coefficient
ROUNDING = 1e-10  # power below that is rounding of float32 pixels and counts as none


def dct2(patches: Tensor) -> Tensor:
    """Orthonormal 2-D DCT-II, `scipy.fft.dctn(norm="ortho")` over the last two dimensions: (..., p, p) -> (..., p, p).

    Coefficient (u, v) is a cosine of u / 2p cycles per pixel down and v / 2p across; the sum of squares is kept.
    """
    basis = _dct_basis(patches.shape[-1], patches.dtype, patches.device)
    return ((patches @ basis).mT @ basis).mT


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # others may use it in training
def _dct_basis(p: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(pixel, coefficient), orthonormal."""
    order = torch.arange(p, dtype=torch.float64)
    basis = torch.cos(math.pi / p * torch.outer(order + 0.5, order)) * math.sqrt(2 / p)
    basis[:, 0] /= math.sqrt(2)
    return basis.to(device, dtype)


@kept
def coefficients(images: Images) -> Tensor:
    """`dct2` of the colours of images' patches: (B, N, 3, p, p) float64."""
    return dct2(images.patches.double())


@kept
def grey_coefficients(images: Images) -> Tensor:
    """`dct2` of the luminance of images' patches: (B, N, p, p) float64."""
    return dct2(images.grey_patches.double())


def bands(p: int) -> Tensor:
    """Band of each DCT coefficient, (p, p) long: the ring round(sqrt(u² + v²)), at most p - 1.

    Band 0 is the patch's mean alone. The last band also holds the corner beyond, up to sqrt(2) times its frequency.
    """
    return _radius(p).round().long().clamp(max=p - 1)


def band_frequency(p: int) -> Tensor:
    """Radial frequency of each band, r / 2p, in cycles per pixel (Nyquist is 1/2): (bands,)."""
    return torch.arange(p, dtype=torch.float64) / (2 * p)


def band_sums(per_coefficient: Tensor) -> Tensor:
    """Sums over the coefficients of each band: (..., p, p) -> (..., bands)."""
    member = _band_membership(per_coefficient.shape[-1], per_coefficient.dtype, per_coefficient.device)
    return per_coefficient.flatten(-2) @ member


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _band_membership(p: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(p*p, bands), 1 where a coefficient lies in a band."""
    return one_hot(bands(p).flatten(), p).to(device, dtype)


def band_power(patches: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared DCT coefficient per band, over hidden patches: (B, N, p, p), (B, N) bool -> (B, bands).

    The radial power spectrum at `band_frequency(p)`; band 0 is not centred.
    """
    return band_means(map_in_chunks(_power, patches, hidden))


def high_frequency_share(patches: Tensor, hidden: Tensor) -> Tensor:
    """Share of the energy of hidden patches, without their means, above half of the highest frequency (1/4 cycle per
    pixel); noise raises it as detail does.

    Grey patches (B, N, p, p) in [0, 1], hidden (B, N) bool -> (B,); 0 for flat patches, whose AC power is less than
    rounding to 8 bits makes. The DCT mirrors a patch at its border, so seams between patches do not count; a gradient
    across a patch has a weak tail of high frequencies.
    """
    return _fine_share(_power(patches, hidden))


def _fine_share(power: Tensor) -> Tensor:
    fine = (_radius(power.shape[-1]) > power.shape[-1] / 2).to(power)
    return torch.where(_flat(power), 0, (power * fine).sum((1, 2)) / _ac(power))


def spectral_slope(patches: Tensor, hidden: Tensor) -> Tensor:
    """Slope of log power over log frequency inside hidden patches: 0 for white noise, -2 to -3 for photographs, lower
    for blur.

    The least-squares slope across the AC bands; a band's frequency is the mean log frequency of its coefficients. Blur
    reaches about -6, the tail of a gradient across a patch. Small patches make a power law look flatter: 1/f² gives
    -1.6 in patches of 4 pixels and -1.8 in patches of 16. NaN for flat patches, as in `high_frequency_share`.
    """
    return _slope(_power(patches, hidden))


def _slope(power: Tensor) -> Tensor:
    place = band_means(_radius(power.shape[-1]).clamp(min=1).log())[1:].to(power.device)
    place = place - place.mean()
    level = (band_means(power)[:, 1:] + ROUNDING).log()
    return torch.where(_flat(power), torch.nan, level @ place / place.square().sum())


def log_spectral_distance(patches: Tensor, true_patches: Tensor, hidden: Tensor) -> Tensor:
    """How far the power spectrum of hidden patches is from the truth's, root mean square over frequency bands;
    independent of where the texture lies.

    Of the log ratio of mean power per AC band, in dB: grey patches (B, N, p, p) twice, hidden (B, N) bool -> (B,). The
    power of 8-bit rounding is added to both, so that flat patches stay finite.
    """
    return _distance(_power(patches, hidden), _power(true_patches, hidden))


def _distance(power: Tensor, true_power: Tensor) -> Tensor:
    predicted, true = (band_means(x)[:, 1:] + QUANTISATION for x in (power, true_power))
    return (10 * (predicted / true).log10()).square().mean(1).sqrt()


@kept
def power(pair: Pair) -> tuple[Tensor, Tensor]:
    """Mean square of every luminance coefficient over hidden patches, of reconstruction and truth: (B, p, p)."""
    predicted, true = (grey_coefficients(images) for images in (pair.predicted, pair.true))
    return _hidden_mean_square(predicted, pair.mask), _hidden_mean_square(true, pair.mask)


pair_metric(
    lambda pair: _fine_share(power(pair)[0]),
    high_frequency_share,
    unit="share",
    high=1,
    better="truth",
    paired=False,
    reference="energy of the orthonormal 2-D DCT of scipy.fft.dctn",
)
pair_metric(
    lambda pair: _slope(power(pair)[0]),
    spectral_slope,
    unit="log power / log frequency",
    low=-math.inf,
    better="truth",
    paired=False,
    reference="Field 1987; power of the orthonormal 2-D DCT of scipy.fft.dctn",
)
pair_metric(
    lambda pair: _distance(*power(pair)),
    log_spectral_distance,
    unit="dB",
    better="lower",
    reference="Gray and Markel 1976, on bands of the 2-D DCT",
)


def _radius(p: int) -> Tensor:
    if p < SMALLEST_PATCH:
        raise Undefined(f"patches below {SMALLEST_PATCH} pixels")
    order = torch.arange(p, dtype=torch.float64)
    return (order[:, None].square() + order.square()).sqrt()


def _power(patches: Tensor, hidden: Tensor) -> Tensor:
    """As `power`, of grey patches (B, N, p, p)."""
    return _hidden_mean_square(dct2(patches.double()), hidden)


def _hidden_mean_square(coefficients: Tensor, hidden: Tensor) -> Tensor:
    """(B, N, p, p) -> (B, p, p) float64; NaN where nothing is hidden."""
    weight = hidden.double()[:, None]
    total = weight @ coefficients.square().flatten(2)
    return (total / weight.sum(2, keepdim=True)).view(-1, *coefficients.shape[2:])


def band_means(per_coefficient: Tensor) -> Tensor:
    """(..., p, p) -> (..., bands)."""
    return band_sums(per_coefficient) / band_sums(torch.ones_like(per_coefficient))


def _ac(power: Tensor) -> Tensor:
    """Power of all coefficients but the mean: (B, p, p) -> (B,)."""
    return power.flatten(1)[:, 1:].sum(1)


def _flat(power: Tensor) -> Tensor:
    """(B,) bool: less AC power than rounding to 8 bits makes."""
    return _ac(power) < QUANTISATION * (power.shape[-1] ** 2 - 1)
