"""Probes of a frozen encoder's features: a linear classifier, and nearest neighbours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, product
from typing import Any

import torch
from torch import Tensor

from recon.neighbours import knn
from recon.probing.features import Features, ProbeContext, ProbedEncoder
from recon.probing.labelled import stratified_subset
from recon.probing.linear import linear_probe
from recon.probing.probe_results import ProbeResult, joined_seeds


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
            found.append(replace(result, per_image=correct[None]))
        return found

    asked = list(product(train, context.fractions, context.seeds, names))
    shown = context.progress(asked, f"{', '.join(names)} on {encoder.label}", len(asked))
    return joined_seeds(chain(*context.ranks.parallel_map(results, shown)))
