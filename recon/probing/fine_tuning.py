"""Probes that train through the encoder: a head, and as much of the encoder as a recipe says."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from losses import InvalidSetting
from recon.config import seed_of
from recon.console import Progress
from recon.data.batches import load_batches, permutation
from recon.model import MaskedAutoencoder
from recon.probing.classifier import Classifier
from recon.probing.features import ProbeContext, ProbedEncoder
from recon.probing.labelled import ImageBatches, LabelledImages, central_crops, seeded, stratified_subset
from recon.probing.probe_results import ProbeResult, joined_seeds
from recon.probing.recipes import Recipe, attentive, efficient, finetune, paper_linear, partial_finetune, scratch, small
from recon.study_config import Probing
from recon.training.optim import learning_rate, parameter_groups

TUNED: dict[str, Callable[..., Recipe]] = {
    "paper_linear": paper_linear,
    "attentive": attentive,
    "efficient": efficient,
    "partial": partial_finetune,
    "finetune": finetune,
}


@dataclass(frozen=True)
class TrainedProbe:
    """A probe that trains by `recipe`, and by `untrained_recipe` where the encoder has not been pretrained."""

    name: str
    variant: str
    recipe: Recipe
    untrained_recipe: Recipe


def trained_probes(names: Sequence[str], settings: Probing, depth: int) -> list[TrainedProbe]:
    """The trainings that the probes `names` of `TUNED` need on an encoder of `depth` blocks.

    Raises InvalidSetting for a number of blocks that cannot be trained.
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
    return {f"blocks={blocks:g}": partial(partial_finetune, blocks) for blocks in asked}


def probe_trained(
    encoder: ProbedEncoder, model: MaskedAutoencoder, probe: TrainedProbe, context: ProbeContext
) -> list[ProbeResult]:
    """Trains `model`, the encoder's, at every share of the labels, for every seed; tests on central crops."""
    task, pretrained, size = context.task, encoder.key == "run", context.image_size

    def result(asked: tuple[float, int]) -> ProbeResult:
        share, seed = asked
        train = task.train.subset(stratified_subset(task.train.labels, share, seed))
        recipe = fitting(probe.recipe if pretrained else probe.untrained_recipe, len(train))
        start = model if pretrained else model.untrained(seed)
        classifier = tune(start, recipe, train, size, seed, context.fabric, context.progress, context.workers)
        crops = central_crops(task.test_source, task.test_indices, size, context.batch, context.workers)
        unanswered = ProbeResult(encoder.key, probe.name, probe.variant, "", share, torch.empty(0), [recipe.as_dict()])
        correct = task.test_labels.correct(f"{unanswered.name}/{seed}", classifier.predict(crops))
        return replace(unanswered, per_image=correct[None])

    return joined_seeds(context.ranks.parallel_map(result, product(context.fractions, context.seeds)))


def fitting(recipe: Recipe, images: int) -> Recipe:
    """The recipe with batches no larger than the training set, and even, because they are mixed in pairs."""
    return recipe.in_batches(min(recipe.batch, images // 2 * 2))


def tune(
    encoder: MaskedAutoencoder,
    recipe: Recipe,
    train: LabelledImages,
    image_size: tuple[int, int],
    seed: int,
    fabric: Fabric,
    progress: Progress,
    workers: int = 0,
) -> Classifier:
    """Trains a classifier by `recipe` on a copy of `encoder`, on views of `image_size` (H, W).

    The same arguments give the same bits on the CPU, whatever `workers` (processes that read ahead) is.

    Raises:
        InvalidSetting: more blocks than the encoder has, a batch larger than the data, an image that cannot be read,
            or weights that are not finite after training.
    """
    images, classes = len(train), len(train.classes)
    if recipe.batch > images:
        raise InvalidSetting(f"{recipe.name}: a batch of {recipe.batch} from {images} images; choose a smaller batch")
    steps = recipe.steps(images)
    with seeded(seed_of(seed, "tuning"), fabric.device):
        head = recipe.head(encoder.norm.weight.shape[0], classes)
        classifier = Classifier(encoder, head, recipe.blocks, recipe.drop_path, fabric).train()
        optimizer = recipe.optimiser(parameter_groups(classifier, recipe.weight_decay, recipe.layer_decay))
        mean, std = encoder.mean.flatten().tolist(), encoder.std.flatten().tolist()
        views = AugmentedViews(train, recipe.augmentation.transform(image_size, mean, std), seed)
        batches = views.load(recipe.batch, steps, workers)
        for step, (images, labels) in enumerate(progress(batches, recipe.name, steps)):
            rate = learning_rate(step, steps=steps, peak=recipe.rate, warmup=recipe.warmup)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            images = images.to(fabric.device, non_blocking=True)
            labels = labels.to(fabric.device, non_blocking=True)
            images, targets = recipe.mixing(images, labels, classes, seed_of(seed, "mixing", step))
            loss = F.cross_entropy(classifier(images), targets, label_smoothing=recipe.label_smoothing)
            fabric.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    if not classifier.head.linear.weight.isfinite().all():
        raise InvalidSetting(f"{recipe.name} diverged: its weights are not finite; choose a smaller base rate")
    return classifier.eval()


@dataclass
class AugmentedViews(ImageBatches):
    """Augmented training images, float32 (B, 3, H, W), with their labels (B,).

    The images are shuffled in each epoch, and a batch may reach into the next one. View k depends on (seed, k, the
    images) alone, whatever the size of the batches and the number of workers.
    """

    train: LabelledImages
    transform: Callable[[Image.Image], Tensor]
    seed: int

    def load(self, batch: int, steps: int, workers: int) -> Any:
        """Iterates over `steps` batches. Raises InvalidSetting, from the iterator, when an image cannot be read."""
        return load_batches(self, [range(step * batch, (step + 1) * batch) for step in range(steps)], workers)

    def batch(self, numbers: range) -> tuple[Tensor, Tensor]:
        count = len(self.train)
        positions = [int(permutation(count, self.seed, k // count)[k % count]) for k in numbers]
        views = [self.view(position, k) for position, k in zip(positions, numbers, strict=True)]
        return torch.stack(views), self.train.labels[positions]

    def view(self, position: int, k: int) -> Tensor:
        image, _ = self.train.source.read(self.train.indices[position])
        with seeded(seed_of(self.seed, "view", k)):
            return self.transform(image)
