"""How sharp the hidden patches are, each patch looked at alone, and how high the steps between patches.

Seams between patches look like detail. So every filter here but `seam_ratio`'s is applied inside one patch, without
padding, and no value sees a patch's border. Means are over all valid filter responses in the hidden patches of an
image; every patch has equally many, so an image of one patch gives the textbook's number of the whole image without its
rim. All but `seam_ratio` take luminance patches (B, N, h, w) in [0, 1] and hidden (B, N) bool and return (B,), NaN
where nothing is hidden. They grow with noise as with detail: compare them with the truth's.

The filters are sums of slices and not kornia's. `kornia.filters.spatial_gradient` and `filter2d` give the same values
off the rim (the tests compare them), but on one CPU thread, 32 images of 224 pixels in patches of 16, Sobel takes 69 ms
in place of 3.5, the Laplacian 52 in place of 2.3, and a box blur of 11 pixels alone 187 (`python -m
experiments.benchmarks.libraries`).
`kornia.filters.laplacian` has eight neighbours where the cited Laplacian has four.
"""

import math
from math import isqrt

import torch
from torch import Tensor

from recon.metrics.base import BATCH_VALUES, MetricInfo, Undefined, grey, pair_metric, patch_metric

FLAT_STEP = 0.1 / 255  # a tenth of an 8-bit level: a mean step below that is flat
LEAST_SLOPE = 1 / 510  # of an edge, per pixel: one 8-bit level in Sobel's two pixels; less is rounding
LEAST_RISE = 1e-6  # below any luminance step of 8-bit colours, above the rounding of float32
MAX_SLANT = math.tan(math.pi / 8)


@patch_metric(
    unit="luminance²", high=16, reference="Pech-Pacheco et al. 2000; equals scipy.ndimage.laplace off the rim"
)
def variance_of_laplacian(patches: Tensor, hidden: Tensor) -> Tensor:
    """Variance of the Laplacian inside hidden patches: finest detail, and noise.

    The 4-neighbour Laplacian, and its variance about the mean of the whole image, not of each patch.
    """
    require(patches, 3)
    centre = patches[..., 1:-1, 1:-1]
    rows = patches[..., :-2, 1:-1] + patches[..., 2:, 1:-1]
    response = (rows + patches[..., 1:-1, :-2] + patches[..., 1:-1, 2:]).sub_(centre, alpha=4)
    mean = hidden_mean(response, hidden)
    return hidden_mean(response.sub_(mean[:, None, None, None]).square_(), hidden)


@patch_metric(
    unit="(luminance per pixel)²",
    high=0.5,
    reference="Tenenbaum 1970, Krotkov 1988; equals scipy.ndimage.sobel / 8 off the rim",
)
def tenengrad(patches: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared Sobel gradient inside hidden patches: strong edges above all.

    Without a threshold. The gradient is per pixel, see `sobel`.
    """
    return hidden_mean(sobel(patches).square_(), hidden) + hidden_mean(sobel(patches.mT).square_(), hidden)


DETAIL = MetricInfo(
    "detail",
    "Squared gradient inside hidden patches (tenengrad), over that of the truth, both summed over the images.",
    "of the truth's",
    "truth",
    "tenengrad",
)


@patch_metric(unit="luminance²", high=1, reference="Brenner et al. 1976")
def brenner(patches: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared difference of pixels two apart in a row, inside hidden patches."""
    require(patches, 3)
    return hidden_mean((patches[..., 2:] - patches[..., :-2]).square_(), hidden)


@patch_metric(
    unit="luminance per pixel",
    high=2**0.5,
    reference="isotropic total variation (Rudin et al. 1992) per pixel; equals numpy.diff",
)
def mean_gradient_magnitude(patches: Tensor, hidden: Tensor) -> Tensor:
    """Mean length of the gradient (forward differences) inside hidden patches.

    Forward differences respond to what alternates from pixel to pixel, which central ones and Sobel's miss.
    """
    require(patches, 2)
    across = patches[..., :-1, 1:] - patches[..., :-1, :-1]
    down = patches[..., 1:, :-1] - patches[..., :-1, :-1]
    return hidden_mean(torch.hypot(across, down), hidden)


@patch_metric(
    values=BATCH_VALUES,
    unit="share",
    high=1,
    reference="Crete et al. 2007; equals skimage.measure.blur_effect; box of 11 pixels or what fits in a patch",
)
def blur_effect(patches: Tensor, hidden: Tensor) -> Tensor:
    """Share of gradient inside hidden patches that another blur would leave: 0 sharp, 1 blurred or flat.

    As `skimage.measure.blur_effect`: a box of 11 pixels along each axis, mirrored at the borders (of the patch), and
    the larger share of the two axes. Gradients are summed over an image's hidden patches before their ratio is taken.
    Patches below 11 pixels use the largest odd box that fits: compare patches of one size only.
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


@patch_metric(values=BATCH_VALUES, unit="pixels", low=2, reference="Marziliano et al. 2002")
def edge_width(patches: Tensor, hidden: Tensor) -> Tensor:
    """Mean width of the vertical edges inside hidden patches; those that leave a patch count up to its border.

    Patches of at least 8 pixels. NaN for an image without an edge in its hidden patches.
    """
    image, _, width = vertical_edges(patches, hidden)
    return _mean_per_image(width, image, patches)


@patch_metric(
    values=BATCH_VALUES,
    unit="share",
    high=1,
    reference="Narvekar and Karam 2011, with patches for its blocks of 64 pixels",
)
def cpbd(patches: Tensor, hidden: Tensor) -> Tensor:
    """Share of the edges inside hidden patches whose blur is not noticeable: 1 sharp, 0 blurred.

    Cumulative probability of blur detection, equations 2 to 5: the blur of an edge of width w is seen with probability
    1 - exp(-(w / w_JNB)^3.6), w_JNB the just noticeable width: 5 pixels where the block's contrast is up to 50 8-bit
    levels, 3 above. Edges count whose probability is at most that of a just noticeable blur: w <= w_JNB. The blocks
    are the hidden patches with an edge (in the paper: with Canny edges on 0.2% of their pixels).
    """
    image, patch, width = vertical_edges(patches, hidden)
    contrast = 255 * (patches.amax((2, 3)) - patches.amin((2, 3)))[image, patch]
    return _mean_per_image(width <= torch.where(contrast < 50.5, 5, 3), image, patches)


def vertical_edges(patches: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All edges of all hidden patches: the image, the patch and the width of each, (E,) integers.

    An edge is a pixel where Sobel's derivative along the row is a local maximum of its magnitude in the row and above
    twice its root mean square over the image's hidden patches (MATLAB's default, and so that of the authors' programs).
    Its gradient points within 22.5 degrees of the row, so that a slanting edge does not count as a wide one.

    Its width is the distance in pixels between the local extrema of luminance that enclose it in its row, at least one
    pixel on each side, as in the authors' program: a step from one pixel to the next is 2 wide. The search ends at the
    patch's border. Such a width, p - 1 at most, is a lower bound; leaving those edges out would leave out the widest
    and make blur look sharp. So compare patches of one size only.
    """
    require(patches, 8)
    strength = sobel(patches).square_()
    threshold = (4 * hidden_mean(strength, hidden)).clamp(min=LEAST_SLOPE**2)
    # A maximum needs both neighbours; of two that are equal the right one is the maximum.
    centre = strength[..., 1:-1]
    peak = (centre >= strength[..., :-2]) & (centre > strength[..., 2:]) & (centre > threshold[:, None, None, None])
    image, patch, y, x = (peak & hidden[..., None, None]).nonzero(as_tuple=True)
    y, x = y + 1, x + 2  # in the patch
    across = patches[image, patch, y, x + 1] - patches[image, patch, y, x - 1]
    down = patches[image, patch, y + 1, x] - patches[image, patch, y - 1, x]
    upright = (down.abs() <= MAX_SLANT * across.abs()) & (across != 0)
    image, patch, y, x, across = (values[upright] for values in (image, patch, y, x, across))
    return image, patch, _width(patches[image, patch, y] * across.sign()[:, None], x)


def _width(rows: Tensor, x: Tensor) -> Tensor:
    """From the minimum before pixel x to the maximum after it: rows (E, w) that rise at x (E,) -> (E,)."""
    step = torch.arange(rows.shape[1] - 1, device=rows.device)  # step i leads from pixel i to i + 1
    level, x = rows.diff(dim=1) <= LEAST_RISE, x[:, None]
    minimum = torch.where(level & (step < x - 1), step + 1, 0).amax(1)
    maximum = torch.where(level & (step > x), step, rows.shape[1] - 1).amin(1)
    return maximum - minimum


def _mean_per_image(values: Tensor, image: Tensor, patches: Tensor) -> Tensor:
    """Mean of the edges' values (E,) within each image: (B,), NaN without edges."""
    total = patches.new_zeros(len(patches)).index_add_(0, image, values.to(patches.dtype))
    return total / torch.bincount(image, minlength=len(patches))


def seam_ratio(image: Tensor, mask: Tensor) -> Tensor:
    """Luminance step across borders between hidden patches over the step inside them: above 1 the grid shows.

    Image (B, 3, H, W) in [0, 1], mask (B, N) bool, True where hidden, N at least 2 -> (B,). A step is the absolute
    difference of neighbouring pixels; rows and columns count together. Photographs give 1 on average, blurred ones too.
    JPEG has a grid of 8 pixels: where it lies on the patches' grid the truth gives more (Imagenette 1.19, and 1.00 when
    shifted by a pixel).

    Borders with a visible patch do not count: the texture of the visible side alone would make a step, and blur would
    pass for a seam (a Gaussian of 2 pixels in hidden patches only: 2.0 in place of 1.0). So a shift of all hidden
    patches together is not seen. Steps inside count as `FLAT_STEP` at least, so that flat patches have a ratio: a
    mosaic's is some hundreds, 2550 at most. NaN where the steps across are below `FLAT_STEP` too, and where no two
    hidden patches touch.
    """
    p = isqrt(image.shape[2] * image.shape[3] // mask.shape[1])
    if mask.shape[1] < 2:
        raise Undefined("one patch has no border with another")
    if p < 2:
        raise Undefined("patches below 2 pixels")
    grid = grey(image).unflatten(2, (-1, p)).unflatten(1, (-1, p))  # (B, rows, p, columns, p)
    hidden = mask.unflatten(1, (grid.shape[1], grid.shape[3]))
    inside = _mean_step(
        grid.diff(dim=4).abs().mean((2, 4)), hidden,
        grid.diff(dim=2).abs().mean((2, 4)), hidden,
    )  # fmt: skip
    border = _mean_step(
        (grid[:, :, :, 1:, 0] - grid[:, :, :, :-1, -1]).abs().mean(2), hidden[:, :, 1:] & hidden[:, :, :-1],
        (grid[:, 1:, 0] - grid[:, :-1, -1]).abs().mean(3), hidden[:, 1:] & hidden[:, :-1],
    )  # fmt: skip
    flat = (border < FLAT_STEP) & (inside < FLAT_STEP)
    return torch.where(flat, torch.nan, border / inside.clamp(min=FLAT_STEP))


def _mean_step(across: Tensor, counted_across: Tensor, down: Tensor, counted_down: Tensor) -> Tensor:
    """Mean of the counted steps of both directions, (B, rows, columns) each -> (B,)."""
    total = torch.where(counted_across, across, 0).sum((1, 2)) + torch.where(counted_down, down, 0).sum((1, 2))
    return total / (counted_across.sum((1, 2)) + counted_down.sum((1, 2)))


pair_metric(
    lambda pair: seam_ratio(pair.image, pair.mask),
    seam_ratio,
    unit="ratio",
    high=1 / FLAT_STEP,
    better="truth",
    reference="this project; 1 on photographs on average",
    paired=False,
)
