"""Probes that train through the encoder: the paper's linear probe, attentive, partial and full fine-tuning."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from losses import InvalidSetting
from recon.probes.contestants import Contestant
from recon.probes.features import crops
from recon.probes.labelled import Labelled
from recon.probes.recipe import Recipe, attentive, finetune, paper_linear, partial, scratch, small
from recon.probes.result import Result
from recon.probes.settings import Probing
from recon.probes.subsets import fraction
from recon.probes.terms import Terms
from recon.probes.tuning import tune


class Training(NamedTuple):
    """How one probe is trained. `untrained`: the recipe for an encoder that has learnt nothing."""

    probe: str
    variant: str
    recipe: Recipe
    untrained: Recipe


def _partial(probing: Probing, depth: int) -> list[Training]:
    return [
        Training("partial", f"blocks={blocks:g}", partial(blocks), partial(blocks))
        for blocks in _blocks(probing, depth)
    ]


TUNED: dict[str, Callable[[Probing, int], list[Training]]] = {
    "paper_linear": lambda probing, depth: [Training("paper_linear", "", paper_linear(), paper_linear())],
    "attentive": lambda probing, depth: [Training("attentive", "", attentive(), attentive())],
    "partial": _partial,
    "finetune": lambda probing, depth: [Training("finetune", "", finetune(), scratch())],
}


def trainings(names: Sequence[str], probing: Probing, depth: int) -> list[Training]:
    """Every training that the probes `names` ask for, at the size that `probing` says.

    Raises:
        InvalidSetting: blocks that cannot be trained.
    """
    return [_sized(each, probing) for name in names for each in TUNED[name](probing, depth)]


def probe_tuned(contestant: Contestant, training: Training, terms: Terms) -> list[Result]:
    """A training at every share of the labels, for every seed; tested on the central crops of the test images."""
    rounds = list(product(terms.fractions, terms.seeds))
    found = terms.ranks.shared(rounds, lambda each: _trained(contestant, training, *each, terms))
    results = []
    for share in terms.fractions:
        correct, chosen = zip(*(of for of, (at, _) in zip(found, rounds, strict=True) if at == share), strict=True)
        results.append(
            Result(contestant.key, training.probe, training.variant, "", share, torch.stack(correct), list(chosen))
        )
    return results


def _trained(
    contestant: Contestant, training: Training, share: float, seed: int, terms: Terms
) -> tuple[Tensor, dict[str, Any]]:
    """One training: which test images were right, (n,) bool, and how it was trained."""
    task, learnt = terms.task, contestant.key == "run"
    part = task.train.subset(fraction(task.train.labels, share, seed))
    recipe = fitting(training.recipe if learnt else training.untrained, part)
    encoder = contestant.model if learnt else contestant.model.untrained(seed)
    classifier = tune(encoder, recipe, part, terms.image_size, seed, terms.fabric, terms.progress, terms.workers)
    images = crops(task.test_source, task.test_indices, terms.image_size, terms.batch, terms.workers)
    asked_as = f"{contestant.key}/{training.probe}/{training.variant}/{share}/{seed}"
    return task.answers.correct(asked_as, classifier.predict(images)), recipe.as_dict()


def fitting(recipe: Recipe, part: Labelled) -> Recipe:
    """The recipe with batches no larger than a small part of the labels, and even: they are mixed in pairs."""
    return recipe.in_batches(min(recipe.batch, len(part) // 2 * 2))


def _sized(training: Training, probing: Probing) -> Training:
    """At the length and in the batches that were asked for, which are part of the question."""

    def sized(recipe: Recipe) -> Recipe:
        epochs = recipe.epochs if probing.epochs is None else probing.epochs
        return replace(recipe, epochs=epochs) if probing.recipe == "paper" else small(recipe, epochs)

    recipe, untrained = sized(training.recipe), sized(training.untrained)
    how = "paper's batches" if probing.recipe == "paper" else ""
    variant = ", ".join(filter(None, (training.variant, f"{recipe.epochs:g} epochs", how)))
    return Training(training.probe, variant, recipe, untrained)


def _blocks(probing: Probing, depth: int) -> list[float]:
    """How many of the last blocks are trained: as asked, or 0, 1/2, 1, 2, 4, ... and all."""
    if probing.blocks is None:
        return [0, 0.5, *(2**k for k in range(math.ceil(math.log2(depth)))), depth]
    if not probing.blocks:
        raise InvalidSetting("probe.blocks=[] names no number of blocks; null stands for 0, 0.5, 1, 2, 4, ... and all")
    for blocks in probing.blocks:
        if not 0 <= blocks <= depth or blocks * 2 % 1:
            raise InvalidSetting(f"probe.blocks={probing.blocks}: whole and half numbers from 0 to {depth}")
    return list(dict.fromkeys(probing.blocks))
