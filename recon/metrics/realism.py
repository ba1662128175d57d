"""Whether reconstructions look like photographs, as sets of features of any `feature_networks.FeatureNetwork`.

Each function takes features (n, D) of reconstructions and of their own truth, image by image, and returns a value for
each image, whose mean is the metric: values may be averaged, resampled and subtracted between runs as any metric's, for
an error to first order (a single one says nothing). NaN for an image whose features are not finite.

Distances of finite samples are too large even where both have one distribution. What they are apart then is measured by
swapping images with their own truth at random, which makes two samples of one distribution that are as alike, image by
image, as the sets are; it is subtracted. So a distance is 0 for the truth, and on average for a perfect sampler.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recon.metrics.base import MetricInfo, chunk_length
from recon.metrics.distribution import BLOCK, paired_kid

FEWEST = 10  # images
SWAPS = 4
PROJECTIONS = 1000
FOLDS = 5
PENALTY = 0.01  # C of the support vector machine

SetMetric = Callable[[Tensor, Tensor], dict[str, Tensor]]


def frechet(features: Tensor, true_features: Tensor) -> Tensor:
    """Fréchet distance of Gaussians fitted to both sets: (n, D) twice -> (n,) float64, whose mean is the distance.

    |m - m'|² + tr(C + C' - 2 (C C')½), Heusel et al. 2017 (arXiv 1706.08500), with covariances by n - 1: equals
    torchmetrics' and scipy's. Its bias at small n is large. The values are its derivatives by the images' weights
    (the infinitesimal jackknife): with the singular value decomposition of X Yᵀ, of centred features, in closed form.
    """
    if torch.equal(features, true_features):
        return torch.zeros_like(features[:, 0], dtype=torch.float64)  # exactly, without rounding
    x, y = features.double(), true_features.double()
    n, difference = len(x), x.mean(0) - y.mean(0)
    x, y = x - x.mean(0), y - y.mean(0)
    along = 2 * (x - y) @ difference
    x, y = (z * math.sqrt(n / (n - 1)) for z in (x, y))
    (qx, rx), (qy, ry) = torch.linalg.qr(x), torch.linalg.qr(y)
    u, s, vh = torch.linalg.svd(rx @ ry.mT / n)
    common = n / 2 * ((qx @ u).square() @ s + (qy @ vh.mT).square() @ s)  # whose mean is tr (C C')½
    return difference.square().sum() + along + x.square().sum(1) + y.square().sum(1) - 2 * common


def mind(features: Tensor, true_features: Tensor, projections: int = PROJECTIONS) -> Tensor:
    """Monge Inception distance: (n, D) twice -> (n,) float64, whose mean is the distance.

    3 D times the mean squared 2-Wasserstein distance along random unit vectors (Berthet et al. 2026, arXiv 2605.06797):
    3 |m - m'|² where the sets differ by a shift. The values are Kantorovich potentials of both images.
    """
    x, y = features.double(), true_features.double()
    n, dimension = x.shape
    direction = torch.randn(projections, dimension, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    direction = (direction / direction.norm(dim=1, keepdim=True)).to(x.device)
    values = torch.zeros_like(x[:, 0])
    for some in direction.split(chunk_length(4 * n, x.device, BLOCK)):
        (a, of_a), (b, of_b) = ((some @ z.T).sort(dim=1) for z in (x, y))
        apart = a - b
        potential = torch.zeros_like(a)
        potential[:, 1:] = (a.diff() * (apart[:, 1:] + apart[:, :-1])).cumsum(1)
        for order, part in ((of_a, potential), (of_b, apart.square() - potential)):
            values.index_add_(0, order.flatten(), part.flatten())
    return 3 * dimension / projections * values


def discriminative_scores(features: Tensor, true_features: Tensor) -> tuple[Tensor, Tensor]:
    """P-IDS and U-IDS of each image: (n, D) twice -> two of (n,), in [0, 1]; Zhao et al. 2021 (arXiv 2103.10428).

    A linear support vector machine (scikit-learn's LinearSVC) learns to tell reconstructions from truth. P-IDS: how
    often a reconstruction looks more real to it than its own truth; U-IDS: how often it is wrong on either; ties count
    one half. Unlike in the paper, whose machine judges the 50,000 images that it was fitted on, an image is judged by
    one that was fitted on the other four fifths of the images, truth and reconstruction left out together, on features
    standardised by them, and with a stronger penalty: few images in many dimensions are always separable.
    """
    from sklearn.svm import LinearSVC  # takes a second

    svm: Any = LinearSVC  # whose `dual` may be False, whatever its annotations say

    x, y = features.double(), true_features.double()
    score = x.new_empty(2, len(x))
    fold = torch.arange(len(x), device=x.device) * FOLDS // len(x)
    for k in range(FOLDS):
        of_others = torch.cat([x[fold != k], y[fold != k]])
        spread, mean = torch.std_mean(of_others, 0, correction=0)
        spread = torch.where(spread > 0, spread, 1)
        real = torch.arange(len(of_others)) >= len(of_others) // 2
        machine = svm(dual=False, C=PENALTY).fit(((of_others - mean) / spread).cpu().numpy(), real.numpy())
        for i, images in enumerate((x, y)):
            held_out = (images[fold == k] - mean) / spread
            score[i, fold == k] = x.new_tensor(machine.decision_function(held_out.cpu().numpy()))
    paired = (score[0] - score[1]).sign()
    wrong = (score[0].sign() - score[1].sign()) / 2
    return (1 + paired) / 2, (1 + wrong) / 2


def _less_noise(distance: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """A distance's values less what finite samples are apart, and as they are."""
    plain = distance(x, y)
    swaps = torch.randint(2, (SWAPS, len(x), 1), generator=torch.Generator().manual_seed(0)).bool().to(x.device)
    noise = sum(distance(torch.where(swap, y, x), torch.where(swap, x, y)) for swap in swaps) / SWAPS
    return plain - noise, plain


def _kid(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    return {"kid": paired_kid(x, y)}


def _frechet(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    return dict(zip(("frechet_distance", "frechet_uncorrected"), _less_noise(frechet, x, y), strict=True))


def _mind(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    return {"mind": _less_noise(mind, x, y)[0]}


def _discriminative(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    return dict(zip(("p_ids", "u_ids"), discriminative_scores(x, y), strict=True))


def feature_scores(features: Tensor, true_features: Tensor) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every metric of sets of features, and why others are not defined: values (n,) by name, reasons by name."""
    finite = (features.isfinite() & true_features.isfinite()).all(1)
    x, y = features[finite], true_features[finite]
    found: dict[str, Tensor] = {}
    reasons: dict[str, str] = {}
    for names, least, scores in SET_METRICS:
        if len(x) < least:
            reasons |= dict.fromkeys(names, f"fewer than {least} images")
            continue
        for name, values in scores(x, y).items():
            found[name] = torch.full(finite.shape, torch.nan, dtype=torch.float64, device=finite.device)
            found[name][finite] = values
    return found, reasons


# Names, the fewest images, and the function.
SET_METRICS: list[tuple[tuple[str, ...], int, SetMetric]] = [
    (("kid",), 3, _kid),
    (("frechet_distance", "frechet_uncorrected"), FEWEST, _frechet),
    (("mind",), FEWEST, _mind),
    (("p_ids", "u_ids"), FEWEST, _discriminative),
]

# Column -> its heading, in front of the network's name.
TITLES = {
    "kid": "KD",
    "frechet_distance": "FD",
    "frechet_uncorrected": "biased FD",
    "mind": "MIND",
    "p_ids": "P-IDS",
    "u_ids": "U-IDS",
}

REALISM = [
    MetricInfo(
        "kid",
        "Kernel distance: how far the reconstructions, as a set, are from the truth; the estimator of the kernel "
        "Inception distance (KID), on the features of another network.",
        "squared maximum mean discrepancy",
        "lower",
        "Bińkowski et al. 2018; without the terms of an image with its own truth, Gretton et al. 2012",
        low=-math.inf,
    ),
    MetricInfo(
        "frechet_distance",
        "Fréchet distance between Gaussians fitted to the features of reconstructions and truth, less what finite "
        "samples of one distribution are apart.",
        "features squared",
        "lower",
        "Heusel et al. 2017; the mean over swaps of images with their truth is subtracted",
        low=-math.inf,
    ),
    MetricInfo(
        "frechet_uncorrected",
        "The same Fréchet distance as published (FID's formula): with few images it is too large, by its difference "
        "from the corrected one.",
        "features squared",
        "lower",
        "Heusel et al. 2017; equals torchmetrics.image.fid.FrechetInceptionDistance on the same features",
    ),
    MetricInfo(
        "mind",
        "Sliced 2-Wasserstein distance, squared, between features of reconstructions and truth, less what finite "
        "samples of one distribution are apart; 3 |shift|² where the sets differ by a shift.",
        "features squared",
        "lower",
        "Berthet et al. 2026, arXiv 2605.06797 (Monge Inception distance)",
        low=-math.inf,
    ),
    MetricInfo(
        "p_ids",
        "How often a linear classifier, fitted on other images, finds a reconstruction more real than its own truth; "
        "0.5 where it cannot tell them apart.",
        "share",
        "higher",
        "Zhao et al. 2021, arXiv 2103.10428; sklearn.svm.LinearSVC, cross-validated by image",
        high=1,
    ),
    MetricInfo(
        "u_ids",
        "How often a linear classifier, fitted on other images, takes a reconstruction for real or the truth for a "
        "reconstruction; 0.5 where it cannot tell them apart.",
        "share",
        "higher",
        "Zhao et al. 2021, arXiv 2103.10428; sklearn.svm.LinearSVC, cross-validated by image",
        high=1,
    ),
]
