"""Linear probe: softmax regression on frozen features, its weight decay chosen without the test images."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import Tensor
from torch.nn import functional as F

from recon.neighbours import check_features
from recon.probing.labelled import stratified_split

SELECTION_SHARE = 0.2  # of the training images, held back to choose the weight decay on
DECAYS = tuple(10 ** (half / 2) for half in range(2, -13, -1))  # 10 to 1e-6
OVERFITTED = 2.0  # times the lowest cross-entropy on held-back images: weaker decays are not tried
MAX_STEPS = 500  # of L-BFGS; 10 to 50 are usual
CONVERGED = 1e-4  # nats that the loss may lie above its minimum
CHUNK = 65536  # images whose logits are in memory at a time


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier of features (n, D) into C classes.

    Args:
        weight, bias: (D, C) and (C,), for standardised features.
        mean, std: (D,), of the features it was trained on; std is 1 where a feature is constant.
        excess: about how far its loss lies above the minimum, in nats.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor
    excess: float

    def logits(self, features: Tensor) -> Tensor:
        """(n, D) -> (n, C)."""
        return (features.float() - self.mean) / self.std @ self.weight + self.bias

    def predict(self, features: Tensor) -> Tensor:
        """Features (n, D) -> classes (n,) int64; the lowest class where several are equally likely."""
        return torch.cat([self.logits(part).argmax(1) for part in features.split(CHUNK)])


@dataclass(frozen=True)
class LinearProbe:
    """A trained linear classifier, and how its weight decay was chosen.

    Args:
        decays: that were tried, the strongest first.
        accuracies: of each on the `selected_on` held-back images; none where no image could be held back.
        complete: whether the weakest decay of the grid was tried, too.
    """

    head: LinearHead
    weight_decay: float
    decays: tuple[float, ...]
    accuracies: tuple[float, ...]
    selected_on: int
    complete: bool

    @property
    def on_border(self) -> bool:
        """Whether the choice is an end of the grid: a better weight decay may lie outside."""
        ends = self.decays[:1] + self.decays[-1:] * self.complete
        return self.selected_on > 0 and len(self.decays) > 1 and self.weight_decay in ends

    def as_dict(self) -> dict[str, Any]:
        """The choice in plain values, for probe.json."""
        return {
            "weight_decay": self.weight_decay,
            "weight_decays": list(self.decays),
            "accuracies": list(self.accuracies),
            "selected_on": self.selected_on,
            "on_border": ["weight_decay"] if self.on_border else [],
            "converged": self.head.excess <= CONVERGED,
        }


def linear_probe(
    features: Tensor, labels: Tensor, classes: int, *, decays: Sequence[float] = DECAYS, seed: int = 0
) -> LinearProbe:
    """Trains softmax regression on features, with the weight decay that does best on held-back features.

    A stratified fifth of the training images, drawn by `seed`, is held back to choose on (`choose`); with the chosen
    decay the classifier is trained again on all of them. Where every class has one image, the middle of `decays` is
    taken. Like the probes of CLIP (Radford et al. 2021, arXiv 2103.00020, A.3) it is trained by L-BFGS until it has
    converged, so neither learning rate nor length nor batches can favour one encoder over another. Memory besides the
    features: once more their size, and `CHUNK` logits.

    Args:
        features: (n, D), read as float32. labels: (n,) int64 in [0, classes).
        decays: to try, from strong to weak.

    Raises:
        InvalidSetting: features that are not finite, or labels that do not fit them.
    """
    check_features(features, labels, classes)
    fit, select = stratified_split(labels, SELECTION_SHARE, seed)
    tried: list[tuple[float, float]] = []  # accuracy and cross-entropy on the held-back images
    best = len(decays) // 2
    axes = principal_axes(standardised(features)[0])
    if len(select):
        square = axes if len(fit) >= features.shape[1] else None
        for head in softmax_regressions(features[fit], labels[fit], classes, decays, square):
            logits = head.logits(features[select])
            right = (logits.argmax(1) == labels[select]).double().mean().item()
            tried.append((right, F.cross_entropy(logits, labels[select]).item()))
            if tried[-1][1] > OVERFITTED * min(entropy for _, entropy in tried):
                break
        best = choose(tried, len(select))
    head = next(softmax_regressions(features, labels, classes, decays[best : best + 1], axes))
    complete = len(tried) == len(decays)
    return LinearProbe(
        head, decays[best], tuple(decays[: len(tried)]), tuple(right for right, _ in tried), len(select), complete
    )


def softmax_regressions(
    features: Tensor, labels: Tensor, classes: int, decays: Sequence[float], axes: Tensor | None = None
) -> Iterator[LinearHead]:
    """Yields the classifier of lowest loss for each weight decay, each found from the one before.

    The loss is the mean cross-entropy plus decay / 2 times the squared weights, not the biases, of standardised
    features: scikit-learn's LogisticRegression with C = 1 / (decay n) on n images.

    L-BFGS works along the principal axes of the features, on which the penalty is the same, and each axis is scaled by
    its curvature at weights of zero, variance / classes + decay. Without this the weights along axes of small variance
    need ten times as many steps.

    Args:
        axes: orthonormal (D, D), to work along, as those of more features; None: the features' own.
    """
    x, mean, std = standardised(features)
    axes = principal_axes(x) if axes is None else axes
    x = x @ axes
    variances = x.square().mean(0)
    weights = torch.zeros(len(variances) + 1, classes, dtype=torch.float64, device=x.device)  # the last row: biases
    for decay in decays:
        curvature = torch.cat([variances.double() / classes + decay, weights.new_tensor([1 / classes])])
        scale = curvature.rsqrt()[:, None]

        def unscaled(flat: np.ndarray, scale: Tensor = scale) -> Tensor:
            return torch.from_numpy(flat).to(scale).view(-1, classes) * scale

        def loss(flat: np.ndarray, decay: float = decay, scale: Tensor = scale) -> tuple[float, np.ndarray]:
            value, gradient = loss_and_gradient(x, labels, unscaled(flat), decay)
            return value, (gradient * scale).flatten().cpu().numpy()

        start = (weights / scale).flatten().cpu().numpy()
        options = {"maxiter": MAX_STEPS, "maxfun": 2 * MAX_STEPS, "gtol": 1e-5, "ftol": 1e-8}
        found = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
        weights = unscaled(found.x)
        excess = float(found.jac @ found.jac) / 2  # Newton's estimate, with the curvature at weights of zero
        yield LinearHead(axes @ weights[:-1].float(), weights[-1].float(), mean, std, excess)


def loss_and_gradient(x: Tensor, labels: Tensor, weights: Tensor, decay: float) -> tuple[float, Tensor]:
    """Mean cross-entropy of float32 inputs (n, D) with penalty; weights and gradient (D + 1, C), float64, biases last.

    Summed in float64: in float32 the search along a line would end in rounding errors before it has converged.
    """
    value, gradient, rounded = 0.0, torch.zeros_like(weights), weights.float().T.contiguous()  # (C, D + 1)
    for part, truth in zip(x.split(CHUNK), labels.split(CHUNK), strict=True):
        # Few rows times many are several times as fast as many times few, on CPUs.
        log_shares = ((rounded[:, :-1] @ part.T).T + rounded[:, -1]).double().log_softmax(1)
        value += F.nll_loss(log_shares, truth, reduction="sum").item()
        errors = log_shares.exp() - F.one_hot(truth, weights.shape[1])
        gradient[:-1] += (errors.float().T.contiguous() @ part).T
        gradient[-1] += errors.sum(0)
    penalised = weights[:-1]
    gradient /= len(x)
    gradient[:-1] += decay * penalised
    return value / len(x) + decay / 2 * penalised.square().sum().item(), gradient


def choose(tried: Sequence[tuple[float, float]], images: int) -> int:
    """Returns which of the (accuracy, cross-entropy) pairs to take: the lowest cross-entropy among those whose accuracy
    is within one standard error of the best.

    On few images the highest of many accuracies is luck. Cross-entropy varies less, but alone would reject a classifier
    that is right and overconfident. One standard error is the rule of Breiman et al. 1984, section 3.4.3.
    """
    best = max(accuracy for accuracy, _ in tried)
    enough = best - math.sqrt(best * (1 - best) / images)
    return min((i for i, (accuracy, _) in enumerate(tried) if accuracy >= enough), key=lambda i: tried[i][1])


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std (D,) of features (n, D), summed in float64; std is 1 where a feature varies only by rounding."""
    parts = features.split(CHUNK)
    mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / len(features)
    std = (torch.stack([(part.double() - mean).square().sum(0) for part in parts]).sum(0) / len(features)).sqrt()
    constant = std <= torch.finfo(torch.float32).eps * mean.abs()
    return mean.float(), std.masked_fill(constant, 1).float()


def standardised(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features (n, D) of mean 0 and std 1, float32, with the `moments` that they had."""
    mean, std = moments(features)
    return (features.float() - mean) / std, mean, std


def principal_axes(x: Tensor) -> Tensor:
    """The principal axes (D, K) of centred inputs (n, D); K is the smaller of n and D."""
    if len(x) < x.shape[1]:
        return torch.linalg.svd(x, full_matrices=False)[2].T
    return torch.linalg.eigh(x.T @ x / len(x))[1]
