"""Classification of features by the nearest labelled ones, while a model trains and in probes; and checks of both."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from losses import InvalidSetting

NEIGHBOURS = (1, 5, 20)
TRAINING_CHUNK = 16384  # training features compared with at a time
QUERY_CHUNK = 256  # test features classified at a time


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
    check_finite(queries)
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


def check_features(features: Tensor, labels: Tensor, classes: int) -> None:
    """Raises InvalidSetting where features (n, D) are not finite, or labels (n,) do not fit them."""
    if len(features) != len(labels) or not len(labels):
        raise InvalidSetting(f"{len(features)} training features with {len(labels)} labels for a probe")
    if labels.min() < 0 or labels.max() >= classes:
        raise InvalidSetting(f"labels from {labels.min()} to {labels.max()} where there are {classes} classes")
    check_finite(features)


def check_finite(features: Tensor) -> None:
    """Raises InvalidSetting where features are not finite."""
    if not features.isfinite().all():
        raise InvalidSetting("features that are not finite cannot be probed")
