"""Probes of a frozen encoder's features: a linear classifier, and nearest neighbours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from losses import InvalidSetting
from recon.probing.features import Features, ProbeContext, ProbedEncoder
from recon.probing.labelled import stratified_subset
from recon.probing.linear import check_features, linear_probe
from recon.probing.probe_results import ProbeResult, joined_seeds

NEIGHBOURS = (1, 5, 20)
TRAINING_CHUNK = 16384  # training features compared with at a time
QUERY_CHUNK = 256  # test features classified at a time


@dataclass(frozen=True)
class Prediction:
    """Predicted classes of the test images (n,) int64, and the settings that were chosen for them."""

    classes: Tensor
    chosen: dict[str, Any] = field(default_factory=dict)


# (training features (m, D), labels (m,), test features (n, D), number of classes, seed) -> variant -> prediction
FrozenProbe = Callable[[Tensor, Tensor, Tensor, int, int], dict[str, Prediction]]


def linear(train: Tensor, labels: Tensor, test: Tensor, classes: int, seed: int) -> dict[str, Prediction]:
    """A linear classifier, its weight decay chosen on held-back training images."""
    probe = linear_probe(train, labels, classes, seed=seed)
    return {"": Prediction(probe.head.predict(test), probe.as_dict())}


def nearest_neighbours(train: Tensor, labels: Tensor, test: Tensor, classes: int, seed: int) -> dict[str, Prediction]:
    """Weighted nearest neighbours by cosine similarity, a variant for each k."""
    return {f"k={k}": Prediction(found) for k, found in knn(train, labels, test, classes).items()}


FROZEN: dict[str, FrozenProbe] = {"linear": linear, "knn": nearest_neighbours}


def probe_frozen(
    encoder: ProbedEncoder, features: tuple[Features, Features], names: Sequence[str], context: ProbeContext
) -> list[ProbeResult]:
    """Runs the frozen probes `names` on every feature, at every share of the labels, for every seed.

    Args:
        features: of the training and of the test images.
    """
    task, device, (train, test) = context.task, context.fabric.device, features

    def results(asked: tuple[str, float, int, str]) -> list[ProbeResult]:
        feature, share, seed, name = asked
        subset = stratified_subset(task.train.labels, share, seed)
        labels = task.train.labels[subset].to(device)
        inputs = train[feature][subset].to(device), labels, test[feature].to(device)
        found = []
        for variant, prediction in FROZEN[name](*inputs, len(task.classes), seed).items():
            result = ProbeResult(encoder.key, name, variant, feature, share, torch.empty(0), [prediction.chosen])
            correct = task.test_labels.correct(f"{result.name}/{seed}", prediction.classes)
            found.append(replace(result, correct=correct[None]))
        return found

    asked = list(product(train, context.fractions, context.seeds, names))
    shown = context.progress(asked, f"{', '.join(names)} on {encoder.label}", len(asked))
    return joined_seeds(chain(*context.ranks.parallel_map(results, shown)))


def knn(
    features: Tensor,
    labels: Tensor,
    queries: Tensor,
    classes: int,
    ks: Sequence[int] = NEIGHBOURS,
    temperature: float = 0.07,
) -> dict[int, Tensor]:
    """Predicts classes by a weighted vote of the k nearest training images, for every k at once: {k: (m,) int64}.

    Similarity s is the cosine, a neighbour's vote exp(s / temperature) (Wu et al. 2018, arXiv 1805.01978, section
    3.4; the evaluation of DINO, arXiv 2104.14294, has the same temperature). Equals scikit-learn's
    `KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature))`.

    Where k exceeds the number of training images, all of them vote. Of classes with equal votes the lowest wins; which
    of equally similar images are the nearest is undefined. A feature of zeros has similarity 0 to everything. Memory
    does not grow with the number of images.

    Args:
        features: (n, D), of the training images; need not be normalised.
        labels: (n,) int64 in [0, classes).
        queries: (m, D), of the images to classify.

    Raises:
        InvalidSetting: no training features, labels that do not fit them, or features that are not finite.
    """
    check_features(features, labels, classes)
    if not queries.isfinite().all():
        raise InvalidSetting("features that are not finite cannot be probed")
    unit, parts = F.normalize(features.float()), []
    for part in queries.split(QUERY_CHUNK):
        similarity, neighbours = _nearest(unit, labels, F.normalize(part.float()), max(ks))
        # Weights are relative to the nearest one's, so that no temperature overflows.
        weights = ((similarity - similarity[:, :1]) / temperature).exp()[:, None]
        one_hot = F.one_hot(neighbours, classes).to(weights)
        parts.append([(weights[..., :k] @ one_hot[:, :k])[:, 0].argmax(1) for k in ks])
    return {k: torch.cat(found) for k, found in zip(ks, zip(*parts, strict=True), strict=True)}


def _nearest(features: Tensor, labels: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Similarities and labels of the k nearest features of each query, nearest first: (b, k) each; all of length 1."""
    best, best_labels = queries.new_empty(len(queries), 0), labels.new_empty(len(queries), 0)
    for chunk, chunk_labels in zip(features.split(TRAINING_CHUNK), labels.split(TRAINING_CHUNK), strict=True):
        similarity, index = (queries @ chunk.T).topk(min(k, len(chunk)))
        best, kept = torch.cat([best, similarity], 1).topk(min(k, best.shape[1] + similarity.shape[1]))
        best_labels = torch.cat([best_labels, chunk_labels[index]], 1).gather(1, kept)
    return best, best_labels
