"""Structural similarity, on one scale and on several."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from recon.metrics.chunks import a_few_at_a_time
from recon.metrics.fidelity import area_mean
from recon.metrics.passport import Metric, Undefined

SIGMA, RADIUS = 1.5, 5
WINDOW = 2 * RADIUS + 1
C1, C2 = 0.01**2, 0.03**2
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
BLOCK = 56  # rows of one product with the window's matrix: the fastest on a CPU at 224 pixels


def ssim_map(image: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity around every pixel, mean over channels: (B, 3, H, W) in [0, 1] twice -> (B, H, W).

    Wang et al. 2004: Gaussian window (sigma 1.5, 11 taps), population covariance, images mirrored at their border with
    the outermost pixel repeated. Equals the full map of scikit-image's `structural_similarity` with these settings.

    Raises:
        Undefined: an image is smaller than the window.
    """
    luminance, contrast = comparisons(image, truth)
    return (luminance * contrast).mean(1).to(image.dtype)


def ssim(image: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
    """`ssim_map` averaged over hidden pixels; hidden (B, 1, H, W) bool -> (B,), in [-1, 1].

    The windows of hidden pixels reach up to 5 pixels into visible ones.
    """

    def of_a_few(image: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
        return area_mean(ssim_map(image, truth)[:, None], hidden)

    return a_few_at_a_time(of_a_few, image, truth, hidden)


def ms_ssim(image: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
    """Multi-scale structural similarity over hidden area: arguments as of `ssim` -> (B,), in [0, 1].

    Wang, Simoncelli & Bovik 2003: the contrast-structure term of every scale and the luminance term of the coarsest,
    each averaged over channels and hidden area, a negative average taken as 0, then multiplied with the published
    exponents. A scale is the one before averaged over 2x2 pixels, and so is the hidden area: a coarse position counts
    by the share of it that was hidden.

    Where `scales_for` has fewer than five scales, the exponents of those are scaled to the sum of all five (1.0001, as
    published). Values of different image sizes do then not compare.

    With five scales and everything hidden it differs from torchmetrics in the border alone: torchmetrics leaves 5
    pixels out of each contrast term and does not repeat the outermost pixel when it mirrors.

    Raises:
        Undefined: not even the finest scale fits.
    """
    return a_few_at_a_time(_ms_ssim, image, truth, hidden)


def scales_for(height: int, width: int) -> int:
    """How many of the five scales of `ms_ssim` hold a whole window: 5 from 176 pixels on, 3 at 64, 0 below 11."""
    return sum(min(height, width) >> scale >= WINDOW for scale in range(len(SCALE_WEIGHTS)))


def comparisons(image: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The luminance term and the contrast-structure term of SSIM, (B, 3, H, W) float64 each; arguments as `ssim_map`.

    In double precision: variances are small differences of large means, and float32 leaves errors of 3e-4 in flat
    bright areas.
    """
    if min(image.shape[2:]) < WINDOW:
        raise Undefined(f"images below {WINDOW} pixels")
    x, y = image.double(), truth.double()
    blur = _window(*image.shape[2:], image.device)
    x_mean, y_mean = blur(x), blur(y)
    product, squares = x_mean * y_mean, x_mean.square() + y_mean.square()
    covariance, variances = blur(x * y) - product, blur(x * x + y * y) - squares
    return (2 * product + C1) / (squares + C1), (2 * covariance + C2) / (variances + C2)


def _ms_ssim(image: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
    x, y, share = image.double(), truth.double(), hidden.double()
    scales = max(1, scales_for(*image.shape[2:]))
    terms = []
    for scale in range(scales):
        if scale > 0:
            x, y, share = (F.avg_pool2d(z, 2) for z in (x, y, share))
        luminance, contrast = comparisons(x, y)
        terms.append(area_mean(contrast if scale < scales - 1 else luminance * contrast, share))
    exponents = x.new_tensor(SCALE_WEIGHTS[:scales])
    exponents *= sum(SCALE_WEIGHTS) / exponents.sum()
    return torch.stack(terms, 1).clamp(min=0).pow(exponents).prod(1).to(image.dtype)


def _window(height: int, width: int, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Weighted means over the Gaussian window around every pixel: (B, 3, H, W) float64 -> the same."""
    rows, columns = _bands(height, device), _bands(width, device)

    def blur(x: Tensor) -> Tensor:
        x = torch.cat([weights @ x[..., first:last, :] for weights, first, last in rows], -2)
        return torch.cat([x[..., first:last] @ weights.mT for weights, first, last in columns], -1)

    return blur


def _bands(size: int, device: torch.device) -> list[tuple[Tensor, int, int]]:
    """The window along one axis as blocks of a banded matrix: (weights (rows, last - first), first, last) each."""
    offsets = torch.arange(-RADIUS, RADIUS + 1)
    taps = torch.exp(-0.5 * (offsets.double() / SIGMA) ** 2)
    position = torch.arange(size)[:, None]
    source = position + offsets
    source = torch.where(source < 0, -1 - source, torch.where(source < size, source, 2 * size - 1 - source))
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix.scatter_add_(1, source, (taps / taps.sum()).expand(size, -1))
    ends = [(i, max(0, i - RADIUS), min(size, i + BLOCK + RADIUS)) for i in range(0, size, BLOCK)]
    return [(matrix[i : i + BLOCK, first:last].to(device), first, last) for i, first, last in ends]


STRUCTURE = [
    Metric(
        name="ssim",
        what="Structural similarity in Gaussian windows (sigma 1.5) around hidden pixels, mean over channels.",
        unit="1 for the truth",
        low=-1,
        high=1,
        better="higher",
        reference="Wang et al. 2004; the map of skimage.metrics.structural_similarity (gaussian_weights=True, "
        "sigma=1.5, use_sample_covariance=False)",
        paired=True,
        function=lambda pair: ssim(pair.image, pair.truth, pair.hidden),
    ),
    Metric(
        name="ms_ssim",
        what="Structural similarity over hidden area on as many of five scales, each half the one before, as hold a "
        "window of 11 pixels: 5 from 176 pixels on, 4 from 88, 3 from 44, 2 from 22.",
        unit="1 for the truth",
        low=0,
        high=1,
        better="higher",
        reference="Wang, Simoncelli & Bovik 2003; torchmetrics' multiscale_structural_similarity_index_measure but for "
        "the image's border",
        paired=True,
        function=lambda pair: ms_ssim(pair.image, pair.truth, pair.hidden),
    ),
]
