"""Distance to the truth over hidden pixels: squared and absolute error, PSNR, and structural similarity."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from recon.metrics.base import Pair, Undefined, image_metric, kept, map_in_chunks, pair_metric

# The most that PSNR gives an image in a table, in dB: the noise of rounding to 8 bits. An exact one would be infinite.
MAX_PSNR = 10 * math.log10(12 * 255**2)
SIGMA, RADIUS = 1.5, 5
WINDOW = 2 * RADIUS + 1
C1, C2 = 0.01**2, 0.03**2
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
BLOCK = 16  # rows of one product with the window's matrix: the fastest on a CPU at 224 pixels


def area_mean(values: Tensor, hidden: Tensor) -> Tensor:
    """Each image's mean over channels and hidden positions; NaN where nothing is hidden.

    Values (B, C, H, W); hidden (B, 1, H, W), bool or the share that is hidden -> (B,).
    """
    weight = hidden.to(values.dtype)
    return (values * weight).sum((1, 2, 3)) / (values.shape[1] * weight.sum((1, 2, 3)))


@image_metric(
    unit="squared, of pixels in [0, 1]",
    high=1,
    better="lower",
    reference="skimage.metrics.mean_squared_error, of the hidden pixels",
)
def masked_mse(image: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error over hidden pixels and channels; its best prediction is the conditional mean.

    The image is clamped to [0, 1]. Images (B, 3, H, W) in [0, 1], hidden (B, 1, H, W) bool -> (B,).
    """
    return map_in_chunks(lambda x, y, w: area_mean((x.clamp(0, 1) - y).square(), w), image, truth, hidden)


@image_metric(
    unit="of pixels in [0, 1]",
    high=1,
    better="lower",
    reference="sklearn.metrics.mean_absolute_error, of the hidden pixels",
)
def masked_l1(image: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
    """Mean absolute error over hidden pixels and channels; its best prediction is the conditional median."""
    return map_in_chunks(lambda x, y, w: area_mean((x.clamp(0, 1) - y).abs(), w), image, truth, hidden)


@image_metric(
    unit="dB",
    high=MAX_PSNR,
    better="higher",
    reference="skimage.metrics.peak_signal_noise_ratio, of the hidden pixels",
)
def masked_psnr(image: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
    """Peak signal-to-noise ratio over hidden pixels, image by image; at most 58.9 dB, the rounding to 8 bits."""
    return (-10 * masked_mse(image, truth, hidden).log10()).clamp(max=MAX_PSNR)


def mean_of_visible(truth: Tensor, hidden: Tensor) -> Tensor:
    """Each image's hidden pixels filled with the mean colour of its visible ones: (B, 3, H, W)."""
    visible = (~hidden).to(truth.dtype)
    colour = (truth * visible).sum((2, 3), keepdim=True) / visible.sum((2, 3), keepdim=True)
    return torch.where(hidden, colour, truth)


def ssim_map(image: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity around every pixel, mean over channels: (B, 3, H, W) in [0, 1] twice -> (B, H, W).

    Wang et al. 2004: Gaussian window (sigma 1.5, 11 taps), population covariance, images mirrored at their border with
    the outermost pixel repeated. Equals the full map of scikit-image's `structural_similarity` with these settings.

    Raises:
        Undefined: an image is smaller than the window.
    """
    return similarity(image, truth).mean(1).to(image.dtype)


def ssim(image: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
    """Structural similarity in Gaussian windows (sigma 1.5) around hidden pixels, mean over channels.

    `ssim_map` averaged over hidden pixels. The windows of hidden pixels reach up to 5 pixels into visible ones.
    """
    return _terms(image, truth, hidden, 1)[0].to(image.dtype)


def ms_ssim(image: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
    """Structural similarity over hidden area on as many of five scales, each half the one before, as hold a window of
    11 pixels: 5 from 176 pixels on, 4 from 88, 3 from 44, 2 from 22.

    Wang, Simoncelli & Bovik 2003: the contrast-structure term of every scale and the luminance term of the coarsest,
    each averaged over channels and hidden area, a negative average taken as 0, then multiplied with the published
    exponents. A scale is the one before averaged over 2x2 pixels, and so is the hidden area: a coarse position counts
    by the share of it that was hidden.

    Where `scales_for` has fewer than five scales, the exponents of those are scaled to the sum of all five (1.0001, as
    published). So values of images of different sizes do not compare.

    With five scales and everything hidden it differs from torchmetrics at the border alone: torchmetrics leaves 5
    pixels out of each contrast term and does not repeat the outermost pixel when it mirrors.

    Raises:
        Undefined: not even the finest scale fits.
    """
    return _product(_terms(image, truth, hidden, max(1, scales_for(*image.shape[2:])))[1]).to(image.dtype)


@kept
def structure(pair: Pair) -> tuple[Tensor, Tensor]:
    """`ssim` and `ms_ssim` of a pair, (B,) each, in 0.6 of the time: SSIM's map is that of the finest scale."""
    scales = max(1, scales_for(*pair.image.shape[2:]))
    similarities, terms = _terms(pair.image, pair.truth, pair.hidden, scales)
    return similarities.to(pair.image.dtype), _product(terms).to(pair.image.dtype)


pair_metric(
    lambda pair: structure(pair)[0],
    ssim,
    unit="1 for the truth",
    low=-1,
    high=1,
    better="higher",
    reference="Wang et al. 2004; the map of skimage.metrics.structural_similarity (gaussian_weights=True, sigma=1.5, "
    "use_sample_covariance=False)",
)
pair_metric(
    lambda pair: structure(pair)[1],
    ms_ssim,
    unit="1 for the truth",
    high=1,
    better="higher",
    reference="Wang, Simoncelli & Bovik 2003; torchmetrics' multiscale_structural_similarity_index_measure but for "
    "the image's border",
)


def scales_for(height: int, width: int) -> int:
    """How many of the five scales of `ms_ssim` hold a whole window: 5 from 176 pixels on, 3 at 64, 0 below 11."""
    return sum(min(height, width) >> scale >= WINDOW for scale in range(len(SCALE_WEIGHTS)))


def similarity(image: Tensor, truth: Tensor, luminance: bool = True) -> Tensor:
    """SSIM, or its contrast-structure term alone, of every channel by itself: (B, C, H, W) twice -> the same, float64.

    `kornia.metrics.ssim` gives the same map of images that are mirrored by hand beforehand (its own border differs by
    up to 0.13), in 8 times the time on one CPU thread (`python -m experiments.benchmarks.libraries`).
    """
    contrast, lightness = _contrast_and_luminance(image, truth)
    return contrast.mul_(lightness) if luminance else contrast


@torch.no_grad()
def _contrast_and_luminance(image: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The two terms of SSIM, of every channel by itself: (B, C, H, W) twice -> twice the same, float64.

    In float64 on every device: variances are small differences of large means, and float32 leaves errors of 3e-4 in
    flat bright areas. Both denominators are the numerator and the difference to the truth, x² + y² = 2xy + (x - y)²:
    half the passes over memory, and exactly 1 where image and truth are the same.
    """
    if min(image.shape[2:]) < WINDOW:
        raise Undefined(f"images below {WINDOW} pixels")
    maps, spare = torch.empty((2, 4, *image.shape), dtype=torch.float64, device=image.device)
    x, apart, product, square = maps
    x.copy_(image)
    torch.sub(x, truth, out=apart)
    torch.mul(x, truth, out=product)
    torch.mul(apart, apart, out=square)
    _blur(maps, spare)  # now means
    luminance, below = spare[:2]
    torch.sub(x, apart, out=luminance).mul_(x)
    product.sub_(luminance).add_(C2 / 2)  # covariance + C2 / 2
    square.addcmul_(apart, apart, value=-1)  # variance of the difference
    contrast = product.div_(torch.add(product, square, alpha=0.5, out=square))
    luminance.add_(C1 / 2)
    torch.addcmul(luminance, apart, apart, value=0.5, out=below)
    return contrast, luminance.div_(below)


def _terms(image: Tensor, truth: Tensor, hidden: Tensor, scales: int) -> tuple[Tensor, Tensor]:
    """SSIM (B,) and the factors of `ms_ssim` (B, scales), averaged over channels, float64."""
    # Every channel as an image of its own, small enough for a CPU's cache: (B*C, 1, H, W).
    planes = [x.expand_as(image).flatten(0, 1)[:, None] for x in (image, truth, hidden)]
    found = [map_in_chunks(_averages, *planes)]
    for _ in range(1, scales):
        planes = map_in_chunks(lambda *each: tuple(halved(x.to(image.dtype)) for x in each), *planes)
        found.append(map_in_chunks(_averages, *planes))
    contrast, both = torch.stack(found).view(scales, len(image), -1, 2).mean(2).unbind(-1)
    return both[0], torch.cat([contrast[:-1], both[-1:]]).T


def _averages(x: Tensor, y: Tensor, share: Tensor) -> Tensor:
    """The contrast term of planes (B, 1, H, W), and SSIM, over the hidden share of each pixel: (B, 2)."""
    contrast, luminance = _contrast_and_luminance(x, y)
    share = share.to(contrast.dtype)
    return torch.stack([area_mean(contrast, share), area_mean(luminance.mul_(contrast), share)], 1)


def _product(terms: Tensor) -> Tensor:
    """`ms_ssim` (B,) from its factors (B, scales)."""
    exponents = terms.new_tensor(SCALE_WEIGHTS[: terms.shape[1]])
    exponents *= sum(SCALE_WEIGHTS) / exponents.sum()
    return terms.clamp(min=0).pow(exponents).prod(1)


def halved(x: Tensor) -> Tensor:
    """Means over 2x2 pixels; `avg_pool2d`, several times as fast on a CPU."""
    height, width = (side // 2 * 2 for side in x.shape[-2:])
    rows = x[..., 0:height:2, :] + x[..., 1:height:2, :]
    return (rows[..., 0:width:2] + rows[..., 1:width:2]).div_(4)


def _blur(maps: Tensor, spare: Tensor) -> None:
    """Replaces maps (..., H, W) by their Gaussian window means; `spare` is overwritten.

    Products with blocks of a banded matrix, in float64 as fast on a CPU as the 11 taps one by one. Each pass writes its
    result transposed: rows times a narrow matrix would take BLAS 1.7 times as long.
    """
    height, width = maps.shape[-2:]
    planes, across = maps.view(-1, height, width), spare.view(-1, width, height)
    for lines, out in ((planes, across), (across, planes)):
        for weights, source, target in _bands(lines.shape[2], BLOCK, maps.device):
            torch.bmm(weights.expand(len(lines), -1, -1), lines[:, :, source].mT, out=out[:, target])


@lru_cache(maxsize=32)
def _bands(size: int, block: int, device: torch.device) -> list[tuple[Tensor, slice, slice]]:
    """The window along one axis as blocks of a banded matrix: weights (outputs, inputs), inputs, outputs."""
    offsets = torch.arange(-RADIUS, RADIUS + 1)
    taps = torch.exp(-0.5 * (offsets.double() / SIGMA) ** 2)
    position = torch.arange(size)[:, None]
    source = position + offsets
    source = torch.where(source < 0, -1 - source, torch.where(source < size, source, 2 * size - 1 - source))
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix.scatter_add_(1, source, (taps / taps.sum()).expand(size, -1))
    found = []
    for first in range(0, size, block):
        target = slice(first, min(size, first + block))
        source = slice(max(0, first - RADIUS), min(size, first + block + RADIUS))
        found.append((matrix[target, source].to(device).contiguous(), source, target))
    return found
