"""The probes by name: those that read a frozen encoder's features, and those that train through the encoder."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, product
from typing import Any

import torch
from torch import Tensor

from losses import InvalidSetting
from recon.probing.features import Features, ProbeContext, ProbedEncoder
from recon.probing.fine_tuning import tune
from recon.probing.image_batches import central_crops
from recon.probing.knn import knn
from recon.probing.labelled import stratified_subset
from recon.probing.linear import linear_probe
from recon.probing.probe_results import ProbeResult
from recon.probing.recipes import Recipe, attentive, finetune, paper_linear, partial_finetune, scratch, small
from recon.study_config import Probing


@dataclass(frozen=True)
class Prediction:
    """Predicted classes of the test images (n,) int64, and the settings that were chosen for them."""

    classes: Tensor
    chosen: dict[str, Any] = field(default_factory=dict)


# (training features (m, D), labels (m,), test features (n, D), number of classes, seed) -> variant -> prediction
FrozenProbe = Callable[[Tensor, Tensor, Tensor, int, int], dict[str, Prediction]]


def linear(train: Tensor, labels: Tensor, test: Tensor, classes: int, seed: int) -> dict[str, Prediction]:
    """A linear classifier, its settings chosen from a grid on held-back training images."""
    probe = linear_probe(train, labels, classes, seed=seed)
    return {"": Prediction(probe.predict(test), probe.as_dict())}


def nearest_neighbours(train: Tensor, labels: Tensor, test: Tensor, classes: int, seed: int) -> dict[str, Prediction]:
    """Weighted nearest neighbours by cosine similarity, a variant for each k."""
    return {f"k={k}": Prediction(found) for k, found in knn(train, labels, test, classes).items()}


FROZEN: dict[str, FrozenProbe] = {"linear": linear, "knn": nearest_neighbours}
TUNED: dict[str, Callable[..., Recipe]] = {
    "paper_linear": paper_linear,
    "attentive": attentive,
    "partial": partial_finetune,
    "finetune": finetune,
}


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
    return _joined(chain(*context.ranks.parallel_map(results, shown)))


@dataclass(frozen=True)
class TrainedProbe:
    """A probe that trains by `recipe`, and by `untrained_recipe` where the encoder has not been pretrained."""

    name: str
    variant: str
    recipe: Recipe
    untrained_recipe: Recipe


def trained_probes(names: Sequence[str], settings: Probing, depth: int) -> list[TrainedProbe]:
    """The trainings that the probes `names` of `TUNED` need on an encoder of `depth` blocks.

    Raises:
        InvalidSetting: a number of blocks that cannot be trained.
    """

    def sized(recipe: Recipe) -> Recipe:
        epochs = recipe.epochs if settings.epochs is None else settings.epochs
        return replace(recipe, epochs=epochs) if settings.recipe == "paper" else small(recipe, epochs)

    found = []
    for name in names:
        recipes = {"": TUNED[name]} if name != "partial" else _by_blocks(settings.blocks, depth)
        for variant, recipe in recipes.items():
            made = sized(recipe())
            # Length and batches are part of what is asked, so results of other lengths stand beside each other.
            words = (variant, f"{made.epochs:g} epochs", "paper's batches" if settings.recipe == "paper" else "")
            untrained = sized(scratch()) if name == "finetune" else made
            found.append(TrainedProbe(name, ", ".join(filter(None, words)), made, untrained))
    return found


def _by_blocks(asked: list[float] | None, depth: int) -> dict[str, Callable[[], Recipe]]:
    """Partial fine-tuning of each number of last blocks: as asked, or 0, 1/2, 1, 2, 4, ... and all."""
    if asked is None:
        asked = [0, 0.5, *(2**k for k in range(math.ceil(math.log2(depth)))), depth]
    if not asked:
        raise InvalidSetting("probe.blocks=[] names no number of blocks; null stands for 0, 0.5, 1, 2, 4, ... and all")
    if not all(0 <= blocks <= depth and not blocks * 2 % 1 for blocks in asked):
        raise InvalidSetting(f"probe.blocks={asked}: whole and half numbers from 0 to {depth}")
    return {f"blocks={blocks:g}": lambda blocks=blocks: partial_finetune(blocks) for blocks in asked}


def probe_trained(encoder: ProbedEncoder, probe: TrainedProbe, context: ProbeContext) -> list[ProbeResult]:
    """Trains at every share of the labels, for every seed, and tests on the central crops of the test images."""
    task, pretrained = context.task, encoder.key == "run"

    def result(asked: tuple[float, int]) -> ProbeResult:
        share, seed = asked
        train = task.train.subset(stratified_subset(task.train.labels, share, seed))
        recipe = fitting(probe.recipe if pretrained else probe.untrained_recipe, len(train))
        model = encoder.model if pretrained else encoder.model.untrained(seed)
        classifier = tune(
            model, recipe, train, context.image_size, seed, context.fabric, context.progress, context.workers
        )
        crops = central_crops(task.test_source, task.test_indices, context.image_size, context.batch, context.workers)
        unanswered = ProbeResult(encoder.key, probe.name, probe.variant, "", share, torch.empty(0), [recipe.as_dict()])
        correct = task.test_labels.correct(f"{unanswered.name}/{seed}", classifier.predict(crops))
        return replace(unanswered, correct=correct[None])

    return _joined(context.ranks.parallel_map(result, product(context.fractions, context.seeds)))


def fitting(recipe: Recipe, images: int) -> Recipe:
    """The recipe with batches no larger than the training set, and even, because they are mixed in pairs."""
    return recipe.in_batches(min(recipe.batch, images // 2 * 2))


def _joined(of_seeds: Iterable[ProbeResult]) -> list[ProbeResult]:
    """Results of single seeds with the same name as one result."""
    by_name: dict[str, list[ProbeResult]] = {}
    for result in of_seeds:
        by_name.setdefault(result.name, []).append(result)
    return [
        replace(same[0], correct=torch.cat([each.correct for each in same]), chosen=[each.chosen[0] for each in same])
        for same in by_name.values()
    ]
