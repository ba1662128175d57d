"""What the spectrum of an encoder's features says without labels: RankMe, and the exponent of alpha-ReQ.

Both are functions of the eigenvalues of a second moment of the features, E z z'. One image changes eigenvalue k of unit
eigenvector v by (v·z)² - λ, so that the derivative of the measure gives every image's part in it (the infinitesimal
jackknife, Efron 1982): from these follow the interval over images and paired differences between encoders.
"""

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

from recon.metrics import Undefined
from recon.neighbours import check_finite
from recon.probing.features import Features, ProbedEncoder
from recon.probing.probe_results import MAX_IMAGES, ProbeResult

FIRST, LAST = 6, 100  # eigenvalues that the exponent is fitted to, counted from 1: the range of its authors' library


def rankme(features: Tensor) -> Tensor:
    """RankMe (Garrido et al. 2022, arXiv 2210.02885): how many dimensions the features (n, D) fill, 1 to min(n, D).

    exp of the entropy of the singular values of the uncentred feature matrix, divided by their sum. The paper adds 1e-7
    to each, against log 0; here 0 log 0 is 0, so that the features of a subspace of r dimensions have r at most. It
    rises with the number of images while that is not far above D. The paper compares only runs of one method by it.

    Returns:
        (n,) float64, whose mean is RankMe, and whose standard error is that of RankMe over images.

    Raises:
        InvalidSetting: features that are not finite.
        Undefined: they are all zero.
    """
    eigenvalues, squares = spectrum(features)
    if not len(eigenvalues):
        raise Undefined("the features are all zero")
    sizes = eigenvalues.sqrt()
    shares = sizes / sizes.sum()
    entropy = -(shares * shares.log()).sum()
    slopes = -(shares.log() + entropy) / (2 * sizes * sizes.sum())  # of the entropy, by each eigenvalue
    return entropy.exp() * (1 + (squares - eigenvalues) @ slopes)


def alpha_req(features: Tensor) -> Tensor:
    """The exponent of alpha-ReQ (Agrawal et al. 2022, NeurIPS): the covariance has eigenvalues of about k^-alpha.

    The authors found representations best where it is near 1: far above, a few dimensions hold everything; below, the
    spectrum is so flat that noise fills it. A line is fitted to log eigenvalues against log k for k from 6 to 100, or
    to the last that is not 0, weighted by 1 / k: the fit of the authors' library (github.com/arnab39/reptrix), which
    leaves out the first eigenvalues because the law is one of the tail.

    Returns:
        (n,) float64, whose mean is alpha, and whose standard error is that of alpha over images.

    Raises:
        InvalidSetting: features that are not finite.
        Undefined: their covariance has fewer than 7 eigenvalues above 0.
    """
    eigenvalues, squares = spectrum(features - features.double().mean(0))
    if len(eigenvalues) <= FIRST:
        raise Undefined(f"the features vary in {len(eigenvalues)} dimensions; a slope needs {FIRST + 1}")
    eigenvalues, squares = eigenvalues[FIRST - 1 : LAST], squares[:, FIRST - 1 : LAST]
    k = torch.arange(FIRST, FIRST + len(eigenvalues), dtype=torch.float64)
    x, weights = k.log(), 1 / k
    x = x - (weights * x).sum() / weights.sum()
    slopes = -weights * x / (weights * x.square()).sum()  # of alpha, by each logarithm
    return slopes @ eigenvalues.log() + (squares / eigenvalues - 1) @ slopes


def spectrum(features: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (K,) above 0 of the features' second moment, the largest first; of each image z of (n, D) the squares
    (v·z)² along the eigenvectors, (n, K). In float64 on the CPU: small eigenvalues count as much as large ones."""
    check_finite(features)
    x = features.double().cpu()
    n, width = x.shape
    if n < width:  # the same eigenvalues from the smaller matrix
        eigenvalues, images = torch.linalg.eigh(x @ x.T / n)
        squares = n * eigenvalues * images.square()
    else:
        eigenvalues, axes = torch.linalg.eigh(x.T @ x / n)
        squares = (x @ axes).square()
    largest = eigenvalues[-1]
    kept = eigenvalues > max(n, width) * torch.finfo(torch.float64).eps * largest
    return eigenvalues[kept].flip(0), squares[:, kept].flip(1)


MEASURES: dict[str, Callable[[Tensor], Tensor]] = {"rankme": rankme, "alpha_req": alpha_req}


def measure_features(
    encoder: ProbedEncoder, features: Features, names: Sequence[str]
) -> tuple[list[ProbeResult], list[str]]:
    """The measures `names` of every feature of the training images, and a line for each that is not defined.

    Of more than MAX_IMAGES images so many are drawn, the same ones for every encoder.
    """
    found, undefined = [], []
    for feature, name in product(features, names):
        chosen = features[feature]
        if len(chosen) > MAX_IMAGES:
            order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))
            chosen = chosen[order[:MAX_IMAGES]]
        try:
            parts = MEASURES[name](chosen)
        except Undefined as reason:
            undefined.append(f"{name} of {encoder.label}, {feature}, is not defined: {reason}")
        else:
            found.append(ProbeResult(encoder.key, name, "", feature, 0.0, parts.float()[None]))
    return found, undefined
