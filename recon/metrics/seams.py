"""How visible the borders of the hidden patches are."""

from math import isqrt

import torch
from torch import Tensor

from recon.metrics.pair import grey
from recon.metrics.passport import Metric, Undefined

LEAST = 0.1 / 255  # a tenth of an 8-bit level: less than that is flat


def seam_ratio(image: Tensor, mask: Tensor) -> Tensor:
    """Mean luminance step across borders between two hidden patches over the mean step inside hidden patches.

    Steps are absolute differences of neighbouring pixels, in rows and columns together. Photographs give 1 in the
    mean, and so do blurred ones: only a step that the patches themselves do not have counts. JPEG has a grid of its
    own: where its 8 pixels lie on the patches' the truth gives more (Imagenette's 1.19, shifted by a pixel 1.00).

    A border with a visible patch does not count. The texture of the visible side alone would make a step there, and
    blur pass for a seam (a Gaussian of 2 pixels in hidden patches only: 2.0 in place of 1.0). So a shift that all
    hidden patches share goes unseen.

    Steps inside count as a tenth of an 8-bit level at least, so that flat patches have a ratio: a mosaic's is some
    hundreds, 2550 at most. NaN where the steps across are below that too (neither seam nor detail), and where no two
    hidden patches touch.

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
    flat = (border < LEAST) & (inside < LEAST)
    return torch.where(flat, torch.nan, border / inside.clamp(min=LEAST))


def _mean_step(across: Tensor, counted_across: Tensor, down: Tensor, counted_down: Tensor) -> Tensor:
    """Mean of the counted places of both directions, (B, rows, columns) each -> (B,)."""
    total = torch.where(counted_across, across, 0).sum((1, 2)) + torch.where(counted_down, down, 0).sum((1, 2))
    return total / (counted_across.sum((1, 2)) + counted_down.sum((1, 2)))


SEAMS = [
    Metric(
        name="seam_ratio",
        what="Luminance step across borders between hidden patches over the step inside them: above 1 the grid shows.",
        unit="ratio",
        low=0,
        high=1 / LEAST,
        better="truth",
        reference="this project; 1 on photographs in the mean",
        paired=False,
        function=lambda pair: seam_ratio(pair.image, pair.mask),
    ),
]
