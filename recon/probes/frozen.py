"""Probes that read features of a frozen encoder: linear and nearest neighbours."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon.probes.cache import cached
from recon.probes.contestants import Contestant
from recon.probes.features import Encoder, crops, extract, raw_pixels
from recon.probes.knn import knn
from recon.probes.linear import linear_probe
from recon.probes.result import Result
from recon.probes.subsets import fraction
from recon.probes.terms import Terms

VERSION = 1  # of how features are taken: one more whenever crops, layers or pooling change


@dataclass(frozen=True)
class Features:
    """Of training and test images: name -> (n, D) float32. The names are those of `Result.feature`."""

    train: dict[str, Tensor]
    test: dict[str, Tensor]


@dataclass(frozen=True)
class Answer:
    """Predicted classes of the test images (n,), and what was chosen to get there."""

    predictions: Tensor
    chosen: dict[str, Any] = field(default_factory=dict)


Probe = Callable[[Tensor, Tensor, Tensor, int, int], dict[str, Answer]]


def linear(train: Tensor, labels: Tensor, test: Tensor, classes: int, seed: int) -> dict[str, Answer]:
    """The grid of `linear_probe`: (m, D), (m,), (n, D) -> one answer."""
    head = linear_probe(train, labels, classes, seed=seed)
    return {"": Answer(head.predict(test), head.as_dict())}


def neighbours(train: Tensor, labels: Tensor, test: Tensor, classes: int, seed: int) -> dict[str, Answer]:
    """Cosine kNN at every k: (m, D), (m,), (n, D) -> an answer per k."""
    return {f"k={k}": Answer(found) for k, found in knn(train, labels, test, classes).items()}


FROZEN: dict[str, Probe] = {"linear": linear, "knn": neighbours}


def features_of(contestant: Contestant, layers: Sequence[int], terms: Terms, folder: Path) -> Features:
    """Features of all images, from the cache in `folder` or made and kept there."""
    task, fabric, model = terms.task, terms.fabric, contestant.model
    facts = {
        "version": VERSION,
        "network": contestant.checksum,
        "layers": list(layers) if model else [],
        "data": task.digest,
        "image_size": list(terms.image_size),
        "precision": str(fabric.strategy.precision.precision) if model else "32-true",
    }

    def make() -> dict[str, Tensor]:
        extractor = Encoder(model, layers, fabric) if model else raw_pixels
        found = {}
        for split, source, indices in (
            ("train", task.train.source, task.train.indices),
            ("test", task.test_source, task.test_indices),
        ):
            images = crops(source, indices, terms.image_size, terms.batch, terms.workers)
            shown = terms.progress(images, f"features of {split} images", -(-len(indices) // terms.batch))
            found |= {f"{split}/{name}": x for name, x in extract(extractor, shown, fabric.device).items()}
        return found

    found = cached(folder, facts, make)
    by_split = {
        split: {name.removeprefix(f"{split}/"): x for name, x in found.items() if name.startswith(f"{split}/")}
        for split in ("train", "test")
    }
    return Features(**by_split)


def probe_features(contestant: Contestant, features: Features, names: Sequence[str], terms: Terms) -> list[Result]:
    """Every probe of `names` on every feature, at every share of the labels, for every seed."""
    task, device = terms.task, terms.fabric.device
    correct: dict[tuple[str, str, str, float], list[Tensor]] = defaultdict(list)
    chosen: dict[tuple[str, str, str, float], list[dict[str, Any]]] = defaultdict(list)
    rounds = list(product(features.train, terms.fractions, terms.seeds, names))
    for feature, share, seed, name in terms.progress(rounds, f"{', '.join(names)} on {contestant.label}", len(rounds)):
        which = fraction(task.train.labels, share, seed)
        train, test = features.train[feature][which].to(device), features.test[feature].to(device)
        labels = task.train.labels[which].to(device)
        for variant, answer in FROZEN[name](train, labels, test, len(task.classes), seed).items():
            key = (name, variant, feature, share)
            asked = f"{contestant.key}/{key}/{seed}"
            correct[key].append(task.answers.correct(asked, answer.predictions))
            chosen[key].append(answer.chosen)
    return [Result(contestant.key, *key, torch.stack(found), chosen[key]) for key, found in correct.items()]
