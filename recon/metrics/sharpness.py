"""How sharp the hidden patches are, each patch looked at alone.

Seams between patches look like detail. So every filter here is applied inside one patch, without padding, and no
value ever sees a patch's border. Means are over all valid filter responses in the hidden patches of an image; every
patch has equally many, so an image of one patch gives the textbook's number of the whole image without its rim.

All functions take luminance patches (B, N, h, w) in [0, 1] and hidden (B, N) bool and return (B,), NaN where nothing
is hidden. They grow with noise as with detail: compare them with the truth's.

The filters are sums of slices and not kornia's. `kornia.filters.spatial_gradient` and `filter2d` give the same values
off the rim (the tests compare them), but on one CPU thread, 32 images of 224 pixels in patches of 16, Sobel takes 33 ms
in place of 10, the Laplacian 16 in place of 9, and the box blur and gradient of `blur_effect` 511 in place of 16.
`kornia.filters.laplacian` has eight neighbours where the cited Laplacian has four.
"""

import torch
from torch import Tensor

from recon.metrics.base import BATCH_VALUES, Undefined, patch_metric


def variance_of_laplacian(patches: Tensor, hidden: Tensor) -> Tensor:
    """Variance of the 4-neighbour Laplacian over an image's hidden patches together: Pech-Pacheco et al. 2000.

    The variance is about the mean of the whole image, not of each patch, as in the textbook. In luminance².
    """
    require(patches, 3)
    centre = patches[..., 1:-1, 1:-1]
    rows = patches[..., :-2, 1:-1] + patches[..., 2:, 1:-1]
    response = (rows + patches[..., 1:-1, :-2] + patches[..., 1:-1, 2:]).sub_(centre, alpha=4)
    mean = hidden_mean(response, hidden)
    return hidden_mean(response.sub_(mean[:, None, None, None]).square_(), hidden)


def tenengrad(patches: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared length of the Sobel gradient, without a threshold: Tenenbaum 1970, Krotkov 1988.

    The gradient is per pixel, see `sobel`; the integer kernels of `scipy.ndimage.sobel` give 64 times as much.
    """
    return hidden_mean(sobel(patches).square_(), hidden) + hidden_mean(sobel(patches.mT).square_(), hidden)


def brenner(patches: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared difference of pixels two apart in a row: Brenner et al. 1976. Along rows only, as in the paper."""
    require(patches, 3)
    return hidden_mean((patches[..., 2:] - patches[..., :-2]).square_(), hidden)


def mean_gradient_magnitude(patches: Tensor, hidden: Tensor) -> Tensor:
    """Mean length of the gradient by forward differences, in luminance per pixel: the total variation per pixel.

    Forward differences respond to what alternates from pixel to pixel, which central ones and Sobel's miss.
    """
    require(patches, 2)
    across = patches[..., :-1, 1:] - patches[..., :-1, :-1]
    down = patches[..., 1:, :-1] - patches[..., :-1, :-1]
    return hidden_mean(torch.hypot(across, down), hidden)


def blur_effect(patches: Tensor, hidden: Tensor) -> Tensor:
    """The share of gradient that remains after another blur, 0 sharp .. 1 blurred: Crete et al. 2007.

    As `skimage.measure.blur_effect`: a box of 11 pixels along each axis, mirrored at the borders (of the patch), and
    the larger share of the two axes. Gradients are summed over an image's hidden patches before their ratio is taken.
    Patches below 11 pixels use the largest odd box that fits, see `box_size`: compare patches of one size only. A flat
    patch alone gives 1.
    """
    require(patches, 4)
    size = box_size(patches)
    return torch.maximum(_kept_share(patches, hidden, size), _kept_share(patches.mT, hidden, size))


def box_size(patches: Tensor) -> int:
    """Side of the box that `blur_effect` blurs with: 11 pixels, or the largest odd number that fits into a patch."""
    side = min(patches.shape[-2:])
    return min(11, side - 1 + side % 2)


def _kept_share(patches: Tensor, hidden: Tensor, size: int) -> Tensor:
    """Gradient along rows after a box blur, never counted above the one before it, over the one before: (B,)."""
    half, width = size // 2, patches.shape[-1]
    smooth = (patches[..., 1:-2, :] + patches[..., 3:, :]).add_(patches[..., 2:-1, :], alpha=2).div_(4)
    mirrored = torch.cat([smooth[..., :half].flip(-1), smooth, smooth[..., -half:].flip(-1)], -1)

    def at(shift: int) -> Tensor:  # columns 2 to width - 2, which are those that scikit-image counts
        return mirrored[..., half + 2 + shift : half + width - 1 + shift]

    # Differences that are rounding count as equal before and after; scikit-image's bound, wide enough for luminance.
    rounding = 4 * torch.finfo(patches.dtype).eps
    before = (at(1) - at(-1)).abs_().clamp_(min=rounding)
    # The difference of two box means is that of the pixels at their ends.
    after = (at(half + 1) - at(-half)).add_(at(half)).sub_(at(-half - 1)).abs_().div_(size).clamp_(min=rounding)
    return hidden_mean(torch.minimum(before, after), hidden) / hidden_mean(before, hidden)


def sobel(patches: Tensor) -> Tensor:
    """Sobel's derivative along rows, per pixel (the integer kernel over 8): (..., h, w) -> (..., h - 2, w - 2)."""
    require(patches, 3)
    smooth = (patches[..., :-2, :] + patches[..., 2:, :]).add_(patches[..., 1:-1, :], alpha=2)
    return (smooth[..., 2:] - smooth[..., :-2]).div_(8)


def hidden_mean(values: Tensor, hidden: Tensor) -> Tensor:
    """Mean of (B, N, h, w) over all values of an image's hidden patches: (B,), NaN where nothing is hidden."""
    total = torch.where(hidden, values.sum((2, 3)), 0).sum(1)
    return total / (hidden.sum(1) * values.shape[2] * values.shape[3])


def require(patches: Tensor, side: int) -> None:
    """Raises `Undefined` where patches are smaller than a filter."""
    if min(patches.shape[-2:]) < side:
        raise Undefined(f"patches below {side} pixels")


SHARPNESS = [
    patch_metric(
        variance_of_laplacian,
        description="Variance of the Laplacian inside hidden patches: finest detail, and noise.",
        unit="luminance²",
        high=16,
        reference="Pech-Pacheco et al. 2000; equals scipy.ndimage.laplace off the rim",
    ),
    patch_metric(
        tenengrad,
        description="Mean squared Sobel gradient inside hidden patches: strong edges above all.",
        unit="(luminance per pixel)²",
        high=0.5,
        reference="Tenenbaum 1970, Krotkov 1988; equals scipy.ndimage.sobel / 8 off the rim",
    ),
    patch_metric(
        brenner,
        description="Mean squared difference of pixels two apart in a row, inside hidden patches.",
        unit="luminance²",
        high=1,
        reference="Brenner et al. 1976",
    ),
    patch_metric(
        mean_gradient_magnitude,
        description="Mean length of the gradient (forward differences) inside hidden patches.",
        unit="luminance per pixel",
        high=2**0.5,
        reference="isotropic total variation (Rudin et al. 1992) per pixel; equals numpy.diff",
    ),
    patch_metric(
        blur_effect,
        values=BATCH_VALUES,
        description="Share of gradient inside hidden patches that another blur would leave: "
        "0 sharp, 1 blurred or flat.",
        unit="share",
        high=1,
        reference="Crete et al. 2007; equals skimage.measure.blur_effect; box of 11 pixels or what fits in a patch",
    ),
]
