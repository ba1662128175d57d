"""How wide the edges inside hidden patches are, and how high the steps between patches.

An edge is a pixel where Sobel's derivative along the row is a local maximum of its magnitude in the row and above twice
its root mean square over the image's hidden patches (MATLAB's default, and so that of the authors' programs). Its
gradient points within 22.5 degrees of the row, so that a slanting edge does not count as a wide one. A rise of less
than one 8-bit level over Sobel's two pixels is rounding, not an edge.

An edge's width is the distance in pixels between the local extrema of luminance that enclose it in its row: Marziliano
et al. 2002. At least one pixel on each side belongs to it, as in the authors' program: a step from one pixel to the
next is 2 wide. The search ends at the patch's border, as it ends at the border of an image. Such a width, p - 1 at
most, is a lower bound; leaving those edges out would leave out the widest and make blur look sharp. So compare patches
of one size only.
"""

import math
from math import isqrt

import torch
from torch import Tensor

from recon.metrics.base import BATCH_VALUES, Metric, Undefined, grey, patch_metric
from recon.metrics.sharpness import hidden_mean, require, sobel

FLAT_STEP = 0.1 / 255  # a tenth of an 8-bit level: a mean step below that is flat
LEAST_SLOPE = 1 / 510  # per pixel: one 8-bit level in two pixels
LEAST_RISE = 1e-6  # below any luminance step of 8-bit colours, above the rounding of float32
MAX_SLANT = math.tan(math.pi / 8)


def seam_ratio(image: Tensor, mask: Tensor) -> Tensor:
    """Mean luminance step across borders between two hidden patches over the mean step inside hidden patches.

    A step is the absolute difference of neighbouring pixels; rows and columns count together. Photographs give 1 on
    average, blurred ones too. JPEG has a grid of 8 pixels: where it lies on the patches' grid the truth gives more
    (Imagenette 1.19, and 1.00 when shifted by a pixel).

    Borders with a visible patch do not count: the texture of the visible side alone would make a step, and blur would
    pass for a seam (a Gaussian of 2 pixels in hidden patches only: 2.0 in place of 1.0). So a shift of all hidden
    patches together is not seen.

    Steps inside count as `FLAT_STEP` at least, so that flat patches have a ratio: a mosaic's is some hundreds, 2550 at
    most. NaN where the steps across are below `FLAT_STEP` too, and where no two hidden patches touch.

    Args:
        image: (B, 3, H, W) in [0, 1].
        mask: (B, N) bool, True where a patch is hidden; N at least 2.

    Returns:
        (B,)
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


def edge_width(patches: Tensor, hidden: Tensor) -> Tensor:
    """Mean width of the vertical edges, in pixels: Marziliano et al. 2002.

    Luminance patches (B, N, h, w) in [0, 1] of at least 8 pixels, hidden (B, N) bool -> (B,), NaN for an image without
    an edge in its hidden patches.
    """
    image, _, width = vertical_edges(patches, hidden)
    return _mean_per_image(width, image, patches)


def cpbd(patches: Tensor, hidden: Tensor) -> Tensor:
    """Cumulative probability of blur detection, 0 blurred .. 1 sharp: Narvekar and Karam 2011, equations 2 to 5.

    The blur of an edge of width w is seen with probability 1 - exp(-(w / w_JNB)^3.6), w_JNB the just noticeable width:
    5 pixels where the block's contrast is up to 50 8-bit levels, 3 above. CPBD is the share of edges whose
    probability is at most that of a just noticeable blur, 1 - 1/e = 63%. That is w <= w_JNB, whatever the exponent.

    The blocks are the hidden patches (64 pixels in the paper), and those with an edge count (in the paper: those with
    Canny edges on 0.2% of their pixels, less than one in a patch of 16). Arguments and NaN as of `edge_width`.
    """
    image, patch, width = vertical_edges(patches, hidden)
    contrast = 255 * (patches.amax((2, 3)) - patches.amin((2, 3)))[image, patch]
    just_noticeable = torch.where(contrast < 50.5, 5, 3)
    return _mean_per_image(width <= just_noticeable, image, patches)


def vertical_edges(patches: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All edges of all hidden patches: the image, the patch and the width of each, (E,) integers."""
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


SEAMS = [
    Metric(
        name="seam_ratio",
        description="Luminance step across borders between hidden patches over the step inside them: "
        "above 1 the grid shows.",
        unit="ratio",
        high=1 / FLAT_STEP,
        better="truth",
        reference="this project; 1 on photographs on average",
        paired=False,
        function=lambda pair: seam_ratio(pair.image, pair.mask),
    ),
]
EDGES = [
    patch_metric(
        edge_width,
        values=BATCH_VALUES,
        description="Mean width of the vertical edges inside hidden patches; those that leave a patch count up to its "
        "border.",
        unit="pixels",
        low=2,
        reference="Marziliano et al. 2002",
    ),
    patch_metric(
        cpbd,
        values=BATCH_VALUES,
        description="Share of the edges inside hidden patches whose blur is not noticeable: 1 sharp, 0 blurred.",
        unit="share",
        high=1,
        reference="Narvekar and Karam 2011, with patches for its blocks of 64 pixels",
    ),
]
