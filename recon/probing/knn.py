"""Classification by nearest neighbours of frozen features, without any training."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from losses import InvalidSetting

CHUNK = 16384  # training features compared with at a time


def knn(
    features: Tensor,
    labels: Tensor,
    queries: Tensor,
    classes: int,
    ks: Sequence[int] = (1, 5, 20),
    temperature: float = 0.07,
    batch: int = 256,
) -> dict[int, Tensor]:
    """Predicts classes by a weighted vote of the k nearest training images, for every k at once: {k: (m,) int64}.

    Similarity s is the cosine, a neighbour's vote exp(s / temperature) (Wu et al. 2018, arXiv 1805.01978, section
    3.4; the evaluation of DINO, arXiv 2104.14294, has the same temperature). Equals scikit-learn's
    `KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature))`.

    Where k exceeds the number of training images, all of them vote. Of classes with equal votes the lowest wins; which
    of equally similar images are the nearest is undefined. A feature of zeros has similarity 0 to everything. Memory
    does not grow with the number of training images: `batch` times `CHUNK` similarities at a time.

    Args:
        features: (n, D), of the training images; need not be normalised.
        labels: (n,) int64 in [0, classes).
        queries: (m, D), of the images to classify.
        batch: queries at a time.

    Raises:
        InvalidSetting: no training features, a k below 1, a temperature that is not positive, or features that are
            not finite.
    """
    if not len(features) or len(features) != len(labels):
        raise InvalidSetting(f"{len(features)} training features with {len(labels)} labels for nearest neighbours")
    if not ks or min(ks) < 1:
        raise InvalidSetting(f"k={tuple(ks)} of nearest neighbours; each must be at least 1")
    if temperature <= 0:
        raise InvalidSetting(f"temperature={temperature} of nearest neighbours; it must be above 0")
    if labels.min() < 0 or labels.max() >= classes:
        raise InvalidSetting(f"labels from {labels.min()} to {labels.max()} where there are {classes} classes")
    if not (features.isfinite().all() and queries.isfinite().all()):
        raise InvalidSetting("features that are not finite have no neighbours")
    unit = F.normalize(features.float())
    parts = [_vote(*_nearest(unit, labels, part, max(ks)), classes, ks, temperature) for part in queries.split(batch)]
    return {k: torch.cat([part[k] for part in parts]) for k in ks}


def _nearest(features: Tensor, labels: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Similarities and labels of the k nearest features of each query, nearest first: (b, k) each.

    `features` have length 1.
    """
    queries = F.normalize(queries.float())
    best, best_labels = queries.new_empty(len(queries), 0), labels.new_empty(len(queries), 0)
    for chunk, chunk_labels in zip(features.split(CHUNK), labels.split(CHUNK), strict=True):
        similarity, index = (queries @ chunk.T).topk(min(k, len(chunk)))
        best, kept = torch.cat([best, similarity], 1).topk(min(k, best.shape[1] + similarity.shape[1]))
        best_labels = torch.cat([best_labels, chunk_labels[index]], 1).gather(1, kept)
    return best, best_labels


def _vote(similarity: Tensor, labels: Tensor, classes: int, ks: Sequence[int], temperature: float) -> dict[int, Tensor]:
    """Predicted classes by k. Weights are relative to the nearest one's, so that no temperature overflows."""
    weights = ((similarity - similarity[:, :1]) / temperature).exp()[:, None]
    one_hot = F.one_hot(labels, classes).to(weights)
    return {k: (weights[..., :k] @ one_hot[:, :k])[:, 0].argmax(1) for k in ks}
