"""Whether reconstructions, taken as a set, look like the truth taken as a set."""

import math

import torch
from torch import Tensor

from recon.metrics.base import MetricInfo, Pair, Undefined, chunk_length
from recon.metrics.spectrum import ROUNDING, bands, coefficients

BLOCK = 2**19  # numbers of a kernel, or of sorted projections, in a chunk on a CPU: they stay in its cache
PATCHES = 16  # hidden patches kept of one image


def kid(features: Tensor, others: Tensor) -> tuple[float, float]:
    """Kernel Inception distance and its standard error, of two independent sets: features (n, d), (m, d).

    The unbiased MMD² of Bińkowski et al. 2018 (arXiv 1801.01401, section 4) with the kernel (x·y / d + 1)³, over all
    samples at once; equals torchmetrics' with one subset of everything. It may fall below 0. The standard error is
    the two-sample jackknife's; where the sets have one and the same distribution it is too large, by up to sqrt(2).

    Truth and reconstructions of the same images are not independent: this estimate is then too low, by 2/n of what an
    image resembles its own truth more than another's, and its error is another. For those take `paired_kid`.
    """
    a, b = features.double(), others.double()
    within_a, within_b = (_kernel_sums(x, x)[0] - _own_kernel(x, x) for x in (a, b))
    across_a, across_b = _kernel_sums(a, b)
    aa, bb, ab = within_a.sum(), within_b.sum(), across_a.sum()

    def estimate(aa: Tensor, n: int, bb: Tensor, m: int, ab: Tensor) -> Tensor:
        return aa / (n * (n - 1)) + bb / (m * (m - 1)) - 2 * ab / (n * m)

    n, m = _enough(a), _enough(b)
    without_a = estimate(aa - 2 * within_a, n - 1, bb, m, ab - across_a)
    without_b = estimate(aa, n, bb - 2 * within_b, m - 1, ab - across_b)
    variance = sum((len(x) - 1) * x.var(correction=0).item() for x in (without_a, without_b))
    return estimate(aa, n, bb, m, ab).item(), math.sqrt(variance)


def paired_kid(features: Tensor, true_features: Tensor) -> Tensor:
    """What each image adds to the kernel Inception distance to its own truth: features (n, d), (n, d) -> (n,).

    The mean is the unbiased estimate without the terms of an image with its own truth (the U-statistic of Gretton et
    al. 2012, lemma 6, with the kernel of `kid`): unbiased though the sets are paired, and exactly 0 for the truth.
    The values are jackknife pseudo-values: their standard deviation / sqrt(n) is the standard error of the mean, they
    may be averaged, resampled and subtracted between runs as any metric's values. A single one says nothing.
    NaN for an image whose features are not finite; it does not change the others.
    """
    finite = (features.isfinite() & true_features.isfinite()).all(1)
    x, y = features[finite].double(), true_features[finite].double()
    n = _enough(x)
    sums = _kernel_sums(x, x)[0] + _kernel_sums(y, y)[0] - _kernel_sums(x, y)[0] - _kernel_sums(y, x)[0]
    sums -= _own_kernel(x, x) + _own_kernel(y, y) - 2 * _own_kernel(x, y)
    values = torch.full((len(features),), torch.nan, dtype=torch.float64, device=features.device)
    values[finite] = 2 * sums / (n - 2) - sums.sum() / ((n - 1) * (n - 2))
    return values


def _kernel_sums(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the kernel (x·y / d + 1)³ over all of y, and over all of x: (n, d), (m, d) -> (n,), (m,).

    In blocks of rows, so that memory is bounded.
    """
    over_y, over_x = [], x.new_zeros(len(y))
    for block in x.split(chunk_length(len(y), x.device, BLOCK)):
        base = torch.addmm(x.new_ones(()), block, y.T, alpha=1 / x.shape[1])
        kernel = base.square().mul_(base)
        over_y.append(kernel.sum(1))
        over_x += kernel.sum(0)
    return torch.cat(over_y), over_x


def _own_kernel(x: Tensor, y: Tensor) -> Tensor:
    """The kernel of each with its own: (n, d), (n, d) -> (n,)."""
    return ((x * y).mean(1) + 1) ** 3


def _enough(features: Tensor) -> int:
    """How many there are; raises `Undefined` below 3."""
    if len(features) < 3:
        raise Undefined("fewer than 3 images")
    return len(features)


class SlicedWasserstein:
    """Sliced Wasserstein distance between the textures of hidden patches and of their truth; needs no network.

    Of each image up to 16 hidden patches, evenly spaced among them, are projected onto fixed random unit vectors of
    DCT coefficients, all three channels together. Each vector lies in one band (the bands in turn, the patch's mean
    left out), so that all frequencies count alike. The distance along a vector is W1, the mean distance between the
    sorted projections of prediction and truth, over the truth's root mean square: "standard deviations of the truth".
    The value is the mean over vectors. Compare Karras et al. 2018 (arXiv 1710.10196, section 5).

    It compares sets: texture in the wrong place costs nothing. 0 for the truth, and on average for a perfect sampler
    of the likely completions: what finite samples are apart is subtracted, see `per_image`.
    Keeps 2 x 16 x `projections` float32 numbers of an image on the CPU; they are computed in float64, as `dct2` is.
    """

    def __init__(self, patch_size: int, projections: int = 64, seed: int = 0, swaps: int = 2):
        self.swaps = swaps
        band = bands(patch_size)
        turn = torch.arange(projections) % (patch_size - 1) + 1
        generator = torch.Generator().manual_seed(seed)
        draw = torch.randn(projections, 3, patch_size, patch_size, dtype=torch.float64, generator=generator)
        draw = (draw * (band == turn.view(-1, 1, 1, 1))).flatten(1)
        self.directions = draw / draw.norm(dim=1, keepdim=True)  # (projections, 3*p*p)
        # Of each batch projections of prediction and truth, (B, 16, projections), and which count, (B, 16).
        self.kept: list[tuple[Tensor, Tensor, Tensor]] = []
        self.device = torch.device("cpu")

    def update(self, pair: Pair) -> None:
        """Adds a batch; its images follow those of the batches before. Waits for the device."""
        chosen, filled = _evenly(pair.mask, min(PATCHES, pair.mask.shape[1]))
        image = torch.arange(len(chosen), device=chosen.device)[:, None]
        directions = self.directions.to(chosen.device)
        predicted, true = (
            (coefficients(images)[image, chosen].flatten(2) @ directions.T).float()
            for images in (pair.predicted, pair.true)
        )
        filled = filled & predicted.isfinite().flatten(1).all(1, keepdim=True)
        self.device = chosen.device
        self.kept.append((predicted.cpu(), true.cpu(), filled.cpu()))

    def compute(self) -> float:
        """The distance over all images; NaN where there is none, or where the truth has no energy along a vector."""
        return self.per_image().nanmean().item()

    def per_image(self) -> Tensor:
        """What each image adds to the distance: (images,), whose mean is `compute()`.

        A distance W is the mean of a potential over the predictions less its mean over the truth (Kantorovich duality);
        an image adds its patches' part, less what its texture adds to the scale. So the values may be averaged,
        resampled and subtracted between runs as any metric's values, for an error to first order. (Measuring
        resampled images again would add distance of its own.) A single value says nothing and may be below 0. NaN for
        images with nothing hidden or with NaN in the prediction; they do not change the others.

        Finite samples of one distribution are apart too: by B, the mean distance after each image has been swapped
        with its truth at random, `swaps` times. Noise adds to a distance in quadrature, so W - B²/W is what remains: 0
        on average for samples of one distribution, and W where it is far above B.
        """
        predicted, true, filled = (torch.cat(parts) for parts in zip(*self.kept, strict=True))
        patches = filled.sum(1).double().to(self.device)
        owner = torch.arange(len(filled))[:, None].expand_as(filled)[filled].to(self.device)  # (M,)
        # As good as random, and the same for every run and order of the images: a digit of what a projection is.
        swapped = ((true[:, 0, : self.swaps] * 1e4).round() % 2 == 1).T.to(self.device)
        total, distance = patches.new_zeros(2, len(patches)), patches.new_zeros(2)  # of W, and of B
        together = chunk_length(4 * len(owner), self.device, BLOCK)
        for kept in zip(*(kept[filled].T.split(together) for kept in (predicted, true)), strict=True):
            x, y = (projections.to(self.device) for projections in kept)  # (k, M)
            square = y.double().square()
            power = square.mean(1, keepdim=True)
            power = torch.where(power > ROUNDING, power, torch.nan)
            to_scale = (square / power - 1) / 2  # what a patch adds to the logarithm of the scale
            pairs = [(torch.where(swap, y, x), torch.where(swap, x, y)) for swap in swapped[:, owner]]
            noise = sum((_potential_difference(*pair) for pair in pairs), torch.zeros_like(square)) / max(1, self.swaps)
            for i, apart in enumerate((_potential_difference(x, y), noise)):
                share = apart / power.sqrt() / len(self.directions)
                mean = share.mean(1, keepdim=True)
                total[i].index_add_(0, owner, (share - mean * to_scale).sum(0))
                distance[i] += mean.sum()
        # Images with fewer patches than others weigh less in the distance, and in its error.
        w, b = (total - patches * distance[:, None]) * (patches > 0).sum() / patches.sum()
        ratio = torch.where(distance[0] == 0, 0, distance[1] / distance[0])
        values = distance[0] - ratio * distance[1] + (1 + ratio.square()) * w - 2 * ratio * b
        return torch.where(patches > 0, values, torch.nan)


def _potential_difference(x: Tensor, y: Tensor) -> Tensor:
    """Kantorovich potential at x less that at y, (k, M) each -> (k, M) float64, whose row means are W1.

    W1 is the mean |sorted x - sorted y|. The potential falls where more of x than of y lies below, and rises where
    less does. Values are sorted in their own precision; the sums of small differences need float64.
    """
    m = x.shape[1]
    values, order = torch.cat([x, y], dim=1).sort(dim=1)
    surplus = torch.where(order < m, 1, -1).cumsum(1)[:, :-1]  # how many more of x than of y lie below each gap
    climb = -surplus.sign() * values.double().diff()
    potential = torch.zeros_like(values, dtype=torch.float64)
    potential.scatter_(1, order[:, 1:], climb.cumsum(1))
    return potential[:, :m] - potential[:, m:]


def _evenly(mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Up to `count` hidden patches of each image, evenly spaced in reading order: (B, N) bool -> two of (B, count).

    Their positions, and whether there is one: with fewer hidden than `count`, all of them and no more.
    """
    hidden_first = (~mask).long().argsort(dim=1, stable=True)
    hidden = mask.sum(1, keepdim=True)
    slot = torch.arange(count, device=mask.device).expand(len(mask), -1)
    place = torch.where(hidden > count, slot * hidden // count, slot)
    return hidden_first.gather(1, place), slot < hidden


DISTRIBUTION = [
    MetricInfo(
        "sliced_wasserstein",
        "Sliced Wasserstein distance between DCT coefficients of hidden patches and those of the truth, as sets; all "
        "frequency bands count alike, and what finite samples of one distribution are apart is subtracted.",
        "standard deviations of the truth",
        "lower",
        "Rabin et al. 2011; Karras et al. 2018",
        low=-math.inf,
    ),
]
