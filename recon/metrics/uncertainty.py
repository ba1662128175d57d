"""How good a predicted distribution is, and where its answers lie on the perception-distortion plane.

Draws are judged by proper scores, which no distribution makes lower on average than the truth's own, and by the rank of
the truth among them: where draws and truth have one distribution, all ranks are equally frequent.

All is computed in float64, on a GPU too: the fair scores and the covariances are small differences of large sums.
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import combinations
from math import isqrt

import torch
from torch import Tensor
from torch.linalg import matrix_norm, vector_norm

from recon.metrics.base import MetricInfo, colour_patches, map_in_chunks
from recon.metrics.spectrum import dct2


def crps(draws: Tensor, truth: Tensor) -> Tensor:
    """Continuous ranked probability score: draws (S, ...), truth (...) -> (...) float64, from 0, in their unit.

    Mean |x - y| less half of the mean |x - x'| over pairs of different draws (Gneiting & Raftery 2007): the fair
    estimator (Ferro 2014), whose expectation does not depend on S. Of one draw, the absolute error.
    """
    return _fair(draws.double(), truth.double(), Tensor.abs)


def energy_score(draws: Tensor, truth: Tensor) -> Tensor:
    """The fair `crps` of vectors: draws (S, ..., P), truth (..., P) -> (...) float64, from 0, in their unit.

    |x| is the Euclidean norm over sqrt(P) (Gneiting & Raftery 2007, section 4.3). Of one draw, the
    root-mean-square error.
    """
    scale = math.sqrt(truth.shape[-1])
    return _fair(draws.double(), truth.double(), lambda x: vector_norm(x, dim=-1) / scale)


def _fair(draws: Tensor, truth: Tensor, norm: Callable[[Tensor], Tensor]) -> Tensor:
    # Pair by pair is several times faster than sorting up to 16 draws and more, and holds one pair in memory.
    s = len(draws)
    score = reduce(torch.add, (norm(x - truth) for x in draws)) / s
    for x, other in combinations(draws, 2):
        score -= norm(x - other) / (s * (s - 1))
    return score


def rank_counts(draws: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """How many of each image's true values have 0 .. S draws below them: the rank histogram (Hamill 2001).

    A value that equals some of its draws counts in equal parts for every rank between them. Flat where truth and draws
    have one distribution; higher at both ends where the draws differ too little. Additive over patches and images.

    Args:
        draws: (S, M, V), of the M patches that count, image by image.
        truth: (M, V).
        weight: (B, N) bool: the M patches that count.

    Returns:
        (B, S+1) float64; NaN for an image that has NaN in a patch that counts.
    """
    s, b = len(draws), len(weight)
    below, equal = (torch.zeros(truth.shape, dtype=torch.long, device=truth.device) for _ in range(2))
    undefined = truth.isnan()
    for x in draws:
        below += x < truth
        equal += x == truth
        undefined |= x.isnan()
    image = torch.arange(b, device=truth.device)[:, None].expand_as(weight)[weight]  # (M,)
    place = (image[:, None] * (s + 1) + below) * (s + 1) + equal
    count = torch.bincount(place.flatten(), minlength=b * (s + 1) ** 2).view(b, s + 1, s + 1).double()
    rank = torch.arange(s + 1, device=truth.device)
    first, ties = rank[:, None, None], rank[:, None]
    share = ((first <= rank) & (rank <= first + ties)) / (ties + 1.0).double()  # (below, equal, rank)
    counts = torch.einsum("bij,ijr->br", count, share)
    counts[image[undefined.any(1)]] = torch.nan
    return counts


def coverage(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Share of truths between the k-th lowest and the k-th highest draw, k = 1 .. S//2, from `rank_counts` (..., S+1).

    Expected of calibrated draws, (S + 1 - 2k) / (S + 1), as (S//2,) float64, the widest interval first, and found, as
    (..., S//2); found is NaN without counts.
    """
    s = counts.shape[-1] - 1
    k = torch.arange(1, s // 2 + 1, dtype=torch.float64, device=counts.device)
    within = [counts[..., i : s + 1 - i].sum(-1) for i in range(1, s // 2 + 1)]
    found = torch.stack(within, -1) if within else counts[..., :0]
    return (s + 1 - 2 * k) / (s + 1), found / counts.sum(-1, keepdim=True)


def expected_calibration_error(counts: Tensor) -> Tensor:
    """Mean |expected - found| of the central intervals of `coverage`: `rank_counts` (..., S+1) -> (...), in [0, 1].

    Kuleshov et al. 2018 (arXiv 1807.00263, section 3.5), with absolute differences. 0 where truth and draws have one
    distribution; intervals that are too narrow and too wide both raise it. NaN of one draw, which has no interval.
    """
    expected, found = coverage(counts)
    return (expected - found).abs().mean(-1)


def per_image_scores(draws: Tensor, truth: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Scores of the draws of each image's hidden patches.

    Args:
        draws: (S, B, 3, H, W) in [0, 1].
        truth: (B, 3, H, W) in [0, 1].
        mask: (B, N) bool, True where a patch was hidden.

    Returns:
        crps: (B,) float64, mean over hidden patches and their orthonormal DCT coefficients; unit intensity.
        energy_score: (B,) float64, mean over hidden patches of that of their 3*p*p intensities.
        ranks: (B, S+1) float64, `rank_counts` of all DCT coefficients of the hidden patches.
        Scores are NaN where nothing is hidden or a prediction is NaN, ranks in the second case alone.
    """
    p = isqrt(truth[0, 0].numel() // mask.shape[1])

    def of_chunk(draws: Tensor, truth: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.stack([colour_patches(images, p)[mask] for images in draws.unbind(1)]).double()  # (S, M, 3, p, p)
        y = colour_patches(truth, p)[mask].double()

        def mean(scores: Tensor) -> Tensor:  # of each image's patches: (M,) -> (B,)
            return torch.zeros_like(mask, dtype=scores.dtype).masked_scatter(mask, scores).sum(1) / mask.sum(1)

        c, true = dct2(x).flatten(2), dct2(y).flatten(1)
        # A flat patch's coefficients are 0 but for the rounding of sums, which six decimals leave out.
        ranks = rank_counts(c.round(decimals=6), true.round(decimals=6), mask)
        return mean(crps(c, true).mean(1)), mean(energy_score(x.flatten(2), y.flatten(1))), ranks

    scores = map_in_chunks(of_chunk, draws.movedim(1, 0), truth, mask)
    return dict(zip(("crps", "energy_score", "ranks"), scores, strict=True))


def moments(vectors: Tensor) -> Tensor:
    """Σ [1, x] [1, x]ᵀ of vectors (n, D) -> (1+D, 1+D) float64. Additive over sets of vectors."""
    x = torch.cat([torch.ones_like(vectors[:, :1]), vectors], dim=1).double()
    return x.T @ x


def mean_and_covariance(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Those of the vectors whose `moments` (1+D, 1+D) were summed: (D,), and (D, D) by division by n."""
    mean = moments[0, 1:] / moments[0, 0]
    return mean, moments[1:, 1:] / moments[0, 0] - torch.outer(mean, mean)


def gaussian_distance(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """Squared 2-Wasserstein distance between Gaussians, |m - m'|² + tr(C + C' - 2 (C½ C' C½)½), from 0.

    Dowson & Landau 1982. No two distributions with these means and covariances are nearer (Gelbrich 1990).
    Means (D,), covariances (D, D). NaN where one is not finite.
    """
    trace = covariance.trace() + other_covariance.trace()
    if not math.isfinite(trace + mean.sum() + other_mean.sum()):
        return math.nan
    # The trace of the root is the nuclear norm of C½ C'½, which spares a root of rounding errors.
    common = matrix_norm(_root(covariance) @ _root(other_covariance), "nuc")
    return ((mean - other_mean).square().sum() + trace - 2 * common).clamp(min=0).item()


def _root(covariance: Tensor) -> Tensor:
    """The symmetric root; eigenvalues that rounding made negative count as 0."""
    variances, axes = torch.linalg.eigh(covariance)
    return axes * variances.clamp(min=0).sqrt() @ axes.T


def plane(moments: Tensor, size: int) -> tuple[float, float]:
    """Distortion and perception: mean squared error and 2-Wasserstein distance of fitted Gaussians, per value.

    From summed moments (1+2*size, 1+2*size) of [1, x, y], the reconstruction's and the truth's vectors:
    E|x - y|² / size, and sqrt(`gaussian_distance` / size), which is at most the root of the first.
    """
    second = moments.diagonal()[1:].sum() - 2 * moments[1 : 1 + size, 1 + size :].trace()
    mean, covariance = mean_and_covariance(moments)
    x, y = slice(0, size), slice(size, None)
    distance = gaussian_distance(mean[x], covariance[x, x], mean[y], covariance[y, y])
    return (second / moments[0, 0] / size).item(), math.sqrt(distance / size)


def blend(moments: Tensor, size: int, alphas: Sequence[float]) -> tuple[list[float], list[float]]:
    """The `plane` of m + α (s - m) for each α: its mean squared errors and its distances.

    From summed moments (1+3*size, 1+3*size) of [1, m, s, y]: mean, draw and truth.
    """

    def blended(rows: Tensor, alpha: float) -> Tensor:
        one, m, s, y = rows.split([1, size, size, size])
        return torch.cat([one, m.lerp(s, alpha), y])

    points = [plane(blended(blended(moments, alpha).T, alpha), size) for alpha in alphas]
    return [mse for mse, _ in points], [w2 for _, w2 in points]


def frontier(mse: float, w2: float, points: int = 33) -> tuple[list[float], list[float]]:
    """The perception-distortion bound through the conditional mean at (mse D*, distance G*), as `plane` has them.

    D(P) = D* + (G* - P)², at `points` distances P from G* to 0 (Freirich, Michaeli & Meir 2021, arXiv 2107.02555).
    It bounds all distributions, as G is a metric and at most the root-mean-square distance: with x* = E(y | visible),
    an answer x from the visible pixels has E|x - y|² = D* + E|x - x*|², and E|x - x*|² >= G(x, x*)² >= (G* - P)².
    Gaussians reach it. A model's mean is an estimate of x*: a better model may lie below.

    Returns:
        Mean squared errors, from D* to D* + G*², and distances, from G* to 0.
    """
    distances = [w2 * (1 - i / (points - 1)) for i in range(points)]
    return [mse + (w2 - p) ** 2 for p in distances], distances


UNCERTAINTY = [
    MetricInfo(
        "crps",
        "Continuous ranked probability score of the draws, over the DCT coefficients of hidden patches; of one answer: "
        "the mean absolute error.",
        "of pixels in [0, 1]",
        "lower",
        "Gneiting and Raftery 2007; the fair estimator, Ferro 2014, equals scoringrules.crps_ensemble",
        high=1,
    ),
    MetricInfo(
        "energy_score",
        "Energy score of the draws, over hidden patches as wholes; of one answer: the root-mean-square distance.",
        "of pixels in [0, 1]",
        "lower",
        "Gneiting and Raftery 2007; the fair estimator equals scoringrules.es_ensemble, over sqrt(values)",
        high=1,
    ),
    MetricInfo(
        "bits_per_dim",
        "Negative log2-likelihood of hidden pixels, per value, under the predicted density times 1/255, the width of a "
        "level of 8-bit pixels; of a density, without dequantisation, and so no bound on the bits of pixels.",
        "bits",
        "lower",
        "Theis et al. 2016 (arXiv 1511.01844), of a density",
        low=-math.inf,
    ),
    MetricInfo(
        "expected_calibration_error",
        "Mean difference between the share of true values that central intervals of the draws hold and the share that "
        "they should, over DCT coefficients of hidden patches; 0 for a perfect sampler.",
        "share",
        "lower",
        "Kuleshov et al. 2018 (arXiv 1807.00263), with absolute differences; the curve `coverage`",
        high=1,
    ),
    MetricInfo(
        "luma_w2",
        "2-Wasserstein distance between Gaussians fitted to the luminance of hidden patches and to that of their "
        "truth, per pixel; of patches above 8 pixels their 64 lowest frequencies, the others left out.",
        "of pixels in [0, 1]",
        "lower",
        "Gelbrich 1990; Dowson and Landau 1982",
        high=1,
    ),
]
