"""Trains a head on an encoder, and as much of the encoder as a recipe says."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from losses import InvalidSetting
from recon.console import Progress
from recon.model import MaskedAutoencoder
from recon.probing.augmentation import view_batches
from recon.probing.context import Contestant, Terms
from recon.probing.features import crops
from recon.probing.heads import Head
from recon.probing.labelled import Labelled, fraction
from recon.probing.probe_results import Result
from recon.probing.recipes import Recipe, attentive, finetune, paper_linear, partial, scratch, small
from recon.randomness import seed_of
from recon.study_config import Probing
from recon.training.optim import learning_rate


def tune(
    encoder: MaskedAutoencoder,
    recipe: Recipe,
    train: Labelled,
    image_size: tuple[int, int],
    seed: int,
    fabric: Fabric,
    progress: Progress,
    workers: int = 0,
) -> "Classifier":
    """Trains a classifier by `recipe` on a copy of `encoder`, which stays as it is.

    The same arguments give the same bits on the CPU, whatever the number of workers.

    Args:
        image_size: (H, W) of the training views.
        workers: processes that read ahead; 0 reads here.

    Raises:
        InvalidSetting: more blocks than the encoder has, a batch larger than the data, an image that cannot be read,
            or weights that are not finite in the end.
    """
    images, classes = len(train.indices), len(train.classes)
    if recipe.batch > images:
        raise InvalidSetting(f"{recipe.name}: a batch of {recipe.batch} from {images} images; choose a smaller batch")
    steps = recipe.steps(images)
    with own_generators(fabric.device, seed_of(seed, "tuning")):
        classifier = Classifier(encoder, recipe, classes, fabric).train()
        optimizer = recipe.optimiser(parameter_groups(classifier, recipe.weight_decay, recipe.layer_decay))
        transform = recipe.view.transform(image_size, encoder.mean.flatten().tolist(), encoder.std.flatten().tolist())
        batches = view_batches(train, transform, batch=recipe.batch, steps=steps, seed=seed, workers=workers)
        for step, (views, labels) in enumerate(progress(batches, recipe.name, steps)):
            set_rates(optimizer, learning_rate(step, steps=steps, peak=recipe.rate, warmup=recipe.warmup))
            views = views.to(fabric.device, non_blocking=True)
            labels = labels.to(fabric.device, non_blocking=True)
            views, targets = recipe.mixing(views, labels, classes, seed_of(seed, "mixing", step))
            loss = F.cross_entropy(classifier(views), targets, label_smoothing=recipe.label_smoothing)
            fabric.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    if not classifier.head.linear.weight.isfinite().all():
        raise InvalidSetting(f"{recipe.name} diverged: its weights are not finite; choose a smaller base rate")
    return classifier.eval()


class Classifier(nn.Module):
    """A copy of an encoder, of which the last `recipe.blocks` blocks learn, and a head.

    Frozen parts stay in evaluation mode and keep no graph. Under a head with a norm of its own the encoder's norm
    is left out; otherwise it learns only with the whole encoder.
    """

    def __init__(self, encoder: MaskedAutoencoder, recipe: Recipe, classes: int, fabric: Fabric):
        super().__init__()
        self.fabric = fabric
        self.encoder = deepcopy(encoder).requires_grad_(False)
        self.head: Head = recipe.head(encoder.norm.weight.shape[0], classes)
        if self.head.own_norm:
            self.encoder.norm = nn.Identity()
        set_drop_path(self.encoder, recipe.drop_path)
        whole = recipe.blocks in (len(encoder.blocks), math.inf)
        self.learning = [*(everything(self.encoder) if whole else last_blocks(self.encoder, recipe.blocks)), self.head]
        for part in self.learning:
            part.requires_grad_(True)
        self.encoder.cls_token.requires_grad_(whole)
        self.to(fabric.device)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> logits (B, C), float32."""
        with self.fabric.autocast():
            # What has no parameter that learns keeps no graph, so frozen blocks cost their forward pass alone.
            return self.head(self.encoder.encode(images).float()).float()

    def train(self, mode: bool = True) -> "Classifier":
        """Only what learns is ever in training mode."""
        super().train(False)
        for part in self.learning:
            part.train(mode)
        return self

    @torch.no_grad()
    def predict(self, batches: Iterable[Tensor]) -> Tensor:
        """Batches of images (B, 3, H, W), uint8 or float in [0, 1] -> classes of all of them, (n,) int64 on the CPU."""
        self.eval()
        found = []  # not waited for until all are there
        for images in batches:
            images = images.to(self.fabric.device, non_blocking=True)
            images = images.float() / 255 if images.dtype == torch.uint8 else images
            found.append(self(images).argmax(dim=1))
        return torch.cat(found).cpu()


def everything(encoder: MaskedAutoencoder) -> list[nn.Module]:
    """The encoder's modules; positions are a formula, and its decoder takes no part."""
    return [encoder.patch_embed, *encoder.blocks, encoder.norm]


def last_blocks(encoder: MaskedAutoencoder, blocks: float) -> list[nn.Module]:
    """The last blocks, and for a half the MLP of the block before them, with its norm and its drop path.

    Raises:
        InvalidSetting: more blocks than there are.
    """
    depth, whole = len(encoder.blocks), int(blocks)
    if blocks > depth:
        raise InvalidSetting(f"the last {blocks:g} blocks cannot be trained: the encoder has {depth}")
    parts: list[nn.Module] = list(encoder.blocks[depth - whole :])
    if blocks > whole:
        block = encoder.blocks[depth - whole - 1]
        parts += [block.norm2, block.mlp, block.drop_path2]
    return parts


def set_drop_path(encoder: MaskedAutoencoder, rate: float) -> None:
    """Stochastic depth (Huang et al. 2016): 0 at the first block, rising linearly to `rate` at the last."""
    for number, block in enumerate(encoder.blocks):
        share = rate * number / max(1, len(encoder.blocks) - 1)
        block.drop_path1, block.drop_path2 = DropPath(share), DropPath(share)


def parameter_groups(classifier: Classifier, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """What learns, grouped by depth and by whether it decays: weights of linear and convolutional layers alone do.

    Each group's `scale` is its share of the learning rate: layer_decay to the number of layers above it. Layers from
    below are the embedding, each block, and the head, whose scale is 1 (Bao et al. 2021, BEiT).
    """
    encoder = classifier.encoder
    matrices = {m.weight for m in classifier.modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    layers = [
        [encoder.cls_token, *encoder.patch_embed.parameters()],
        *(list(block.parameters()) for block in encoder.blocks),
        [*encoder.norm.parameters(), *classifier.head.parameters()],
    ]
    groups = []
    for above, layer in enumerate(reversed(layers)):
        learning = [p for p in layer if p.requires_grad]
        for decay, parameters in (
            (weight_decay, [p for p in learning if p in matrices]),
            (0.0, [p for p in learning if p not in matrices]),
        ):
            if parameters:
                groups.append({"params": parameters, "weight_decay": decay, "scale": layer_decay**above})
    return groups


def set_rates(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


@contextmanager
def own_generators(device: torch.device, seed: int) -> Iterator[None]:
    """torch's generators of the CPU and of `device` begin at `seed` inside, and stand as before afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


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
