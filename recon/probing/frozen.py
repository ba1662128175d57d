"""Probes that read features of a frozen encoder: linear and nearest neighbours."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain, product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recon.probing.context import Contestant, Terms
from recon.probing.features import Encoder, cached, crops, extract, raw_pixels
from recon.probing.knn import knn
from recon.probing.labelled import fraction
from recon.probing.linear import linear_probe
from recon.probing.probe_results import Result

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


class Answered(NamedTuple):
    """One seed's answer to `key`, a result's probe, variant, feature and fraction: which images it told right, (n,)."""

    key: tuple[str, str, str, float]
    correct: Tensor
    chosen: dict[str, Any]


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
    task, fabric, model, ranks = terms.task, terms.fabric, contestant.model, terms.ranks
    facts = {
        "version": VERSION,
        "network": contestant.checksum,
        "layers": list(layers) if model else [],
        "data": task.digest,
        "image_size": list(terms.image_size),
        "precision": str(fabric.strategy.precision.precision) if model else "32-true",
    }

    def make() -> dict[str, Tensor]:
        found = {}
        for split, source, indices in (
            ("train", task.train.source, task.train.indices),
            ("test", task.test_source, task.test_indices),
        ):
            batches = ranks.mine([indices[i : i + terms.batch] for i in range(0, len(indices), terms.batch)])
            with ranks.one_voice():
                extractor = Encoder(model, layers, fabric) if model else raw_pixels
                own = list(chain(*batches))  # in the same batches: only the last of all may be smaller
                images = crops(source, own, terms.image_size, terms.batch, terms.workers)
                shown = terms.progress(images, f"features of {split} images", len(batches))
                features = extract(extractor, shown, fabric.device)
            for name in ranks.from_first(list(features)):  # one that had no images knows no names
                found[f"{split}/{name}"] = ranks.rows(features.pop(name, torch.empty(0)), terms.batch)
        return found

    found = cached(folder, facts, make, ranks)
    by_split = {
        split: {name.removeprefix(f"{split}/"): x for name, x in found.items() if name.startswith(f"{split}/")}
        for split in ("train", "test")
    }
    return Features(**by_split)


def probe_features(contestant: Contestant, features: Features, names: Sequence[str], terms: Terms) -> list[Result]:
    """Every probe of `names` on every feature, at every share of the labels, for every seed."""
    task, device = terms.task, terms.fabric.device

    def answered(asked: tuple[str, float, int, str]) -> list[Answered]:
        feature, share, seed, name = asked
        which = fraction(task.train.labels, share, seed)
        train, test = features.train[feature][which].to(device), features.test[feature].to(device)
        labels = task.train.labels[which].to(device)
        found = []
        for variant, answer in FROZEN[name](train, labels, test, len(task.classes), seed).items():
            key = (name, variant, feature, share)
            right = task.answers.correct(f"{contestant.key}/{key}/{seed}", answer.predictions)
            found.append(Answered(key, right, answer.chosen))
        return found

    rounds = list(product(features.train, terms.fractions, terms.seeds, names))
    shown = terms.progress(rounds, f"{', '.join(names)} on {contestant.label}", len(rounds))
    by_key: dict[tuple[str, str, str, float], list[Answered]] = defaultdict(list)
    for one in chain(*terms.ranks.shared(shown, answered)):
        by_key[one.key].append(one)
    return [
        Result(contestant.key, *key, torch.stack([one.correct for one in seeds]), [one.chosen for one in seeds])
        for key, seeds in by_key.items()
    ]
