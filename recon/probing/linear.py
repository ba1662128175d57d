"""Linear probe: softmax regression on frozen features, its settings chosen without the test images."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from losses import InvalidSetting
from recon.probing.labelled import held_back
from recon.randomness import seed_of

HELD_BACK = 0.2  # of the training images; the settings are chosen on them
BATCH, EPOCHS, FEWEST_STEPS = 512, 25, 500
MOMENTUM = 0.9


@dataclass(frozen=True)
class Grid:
    """The settings tried, every learning rate with every weight decay; both ascending.

    The learning rate belongs to batches of `BATCH` images and a mean over them. Weight decay is that of
    `torch.optim.SGD`: half of it times the squared weights is added to the mean cross-entropy, so it is 1 / (C n) of
    scikit-learn's C on n images.

    Raises:
        InvalidSetting: an empty or unordered axis, a rate that is not positive, a decay below 0, or a pair whose
            product exceeds 2, with which the weights would grow without end.
    """

    learning_rates: tuple[float, ...] = tuple(10 ** (half / 2) for half in range(-7, 1))
    weight_decays: tuple[float, ...] = (0.0, 1e-3, 1e-2, 1e-1)

    def __post_init__(self) -> None:
        for name, axis in (("learning rates", self.learning_rates), ("weight decays", self.weight_decays)):
            if not axis or list(axis) != sorted(set(axis)) or not all(map(math.isfinite, axis)):
                raise InvalidSetting(f"{name} {axis} of a probe; give one or more numbers, ascending")
        if self.learning_rates[0] <= 0 or self.weight_decays[0] < 0:
            raise InvalidSetting("a probe's learning rates must be above 0, its weight decays not below")
        if self.learning_rates[-1] * self.weight_decays[-1] > 2:
            raise InvalidSetting(
                "a probe's largest learning rate times its largest weight decay exceeds 2: it diverges"
            )

    @property
    def pairs(self) -> list[tuple[float, float]]:
        return [(rate, decay) for rate in self.learning_rates for decay in self.weight_decays]


class Heads(NamedTuple):
    """Linear classifiers of the same features, side by side.

    Args:
        weight, bias: (D, heads * classes), (heads * classes,), of standardised features.
        mean, std: (D,), of the features fitted on; std is 1 where they do not vary.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor
    classes: int

    def standardised(self, features: Tensor) -> Tensor:
        return (features.float() - self.mean) / self.std

    def logits(self, features: Tensor) -> Tensor:
        """(m, D) -> (m, heads, classes)."""
        return torch.addmm(self.bias, self.standardised(features), self.weight).unflatten(1, (-1, self.classes))


@dataclass(frozen=True)
class LinearHead:
    """A fitted linear classifier, and how its settings were chosen.

    Args:
        fitted: the one head.
        learning_rate, weight_decay: the chosen ones of the grid.
        accuracies: share of the held-back images each setting got right, a row per learning rate; NaN where there
            were none to choose on.
        selected_on: the number of held-back images.
    """

    fitted: Heads
    grid: Grid
    learning_rate: float
    weight_decay: float
    accuracies: tuple[tuple[float, ...], ...]
    selected_on: int

    @property
    def on_border(self) -> tuple[str, ...]:
        """Settings chosen at an end of their axis, so that a better one may lie beyond: a wider grid would tell.

        No decay at all is no border, nor is the only value of an axis.
        """
        rates, decays = self.grid.learning_rates, self.grid.weight_decays
        axes = {"learning_rate": (self.learning_rate, rates), "weight_decay": (self.weight_decay, decays)}
        ends = {name: value in (axis[0], axis[-1]) and len(axis) > 1 for name, (value, axis) in axes.items()}
        return tuple(name for name, end in ends.items() if end and axes[name][0] > 0 and self.selected_on)

    def predict(self, features: Tensor) -> Tensor:
        """Classes of features (m, D): (m,) int64; the lowest one where several are equally likely."""
        return torch.cat([self.fitted.logits(few)[:, 0].argmax(1) for few in features.split(BATCH)])

    def as_dict(self) -> dict:
        """How it was chosen, in plain values."""
        return {
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "learning_rates": list(self.grid.learning_rates),
            "weight_decays": list(self.grid.weight_decays),
            "accuracies": [list(row) for row in self.accuracies] if self.selected_on else None,
            "selected_on": self.selected_on,
            "on_border": list(self.on_border),
        }


def linear_probe(features: Tensor, labels: Tensor, classes: int, *, grid: Grid = Grid(), seed: int = 0) -> LinearHead:
    """Softmax regression on training features, with the settings that do best on held-back ones of them.

    Every setting of the grid is a head, and all are trained at once, one matrix product for all, as in DINOv2's
    linear evaluation (Oquab et al. 2023, arXiv 2304.07193, appendix B.3). Its code chooses the head on the test
    images; here a stratified fifth of the training images is held back for that (`choose`), and the setting chosen is
    then trained anew on all of them. Where every class has one image there is nothing to choose on; then the grid's
    middle setting is taken.

    SGD with momentum 0.9 from zero weights, `BATCH` images a step, the learning rate falling to 0 along a cosine, for
    `EPOCHS` epochs but at least `FEWEST_STEPS` steps. Features are standardised by the mean and std of those fitted
    on, as the batch norm of He et al. 2021 (arXiv 2111.06377, appendix A.1) does. The bias does not decay. Memory
    beside the features: 3 D * classes * heads numbers, and a few times `BATCH` * classes * heads.

    The rule of choice, the batch, the epochs and the grid were settled once, by looking at accuracies on Imagenette's
    validation images (bundled VGG19 features and raw pixels); on other data they have not been looked at.

    Args:
        features: (n, D), read as float32.
        labels: (n,) int64 in [0, classes).

    Raises:
        InvalidSetting: features that are not finite, or labels that do not fit them.
    """
    if len(features) != len(labels) or not len(labels):
        raise InvalidSetting(f"{len(features)} training features with {len(labels)} labels for a linear probe")
    if labels.min() < 0 or labels.max() >= classes:
        raise InvalidSetting(f"labels from {labels.min()} to {labels.max()} where there are {classes} classes")
    if not features.isfinite().all():
        raise InvalidSetting("features that are not finite cannot be probed")
    pairs = [(rate, decay) for rate in grid.learning_rates for decay in grid.weight_decays]
    fit, select = held_back(labels, HELD_BACK, seed)
    if len(select):
        accuracies, entropies = judge(train(features, labels, fit, classes, pairs, seed), features, labels, select)
        best = choose(accuracies, entropies, len(select))
    else:
        accuracies = [math.nan] * len(pairs)
        best = pairs.index(tuple(axis[len(axis) // 2] for axis in (grid.learning_rates, grid.weight_decays)))
    everything = torch.arange(len(labels), device=labels.device)
    head = train(features, labels, everything, classes, [pairs[best]], seed)
    decays = len(grid.weight_decays)
    table = tuple(tuple(accuracies[i : i + decays]) for i in range(0, len(pairs), decays))
    return LinearHead(head, grid, *pairs[best], table, len(select))


def train(
    features: Tensor, labels: Tensor, rows: Tensor, classes: int, pairs: list[tuple[float, float]], seed: int
) -> Heads:
    """One head per (learning rate, weight decay), fitted on some rows of the features.

    Equal to as many runs of `torch.optim.SGD` with a cosine on the same batches.
    """
    mean, std = moments(features, rows)
    rate, decay = (torch.tensor(axis).repeat_interleave(classes).to(mean) for axis in zip(*pairs, strict=True))
    heads = Heads(mean.new_zeros(len(mean), len(rate)), torch.zeros_like(rate), mean, std, classes)
    weight_velocity, bias_velocity = torch.zeros_like(heads.weight), torch.zeros_like(heads.bias)
    steps = max(FEWEST_STEPS, math.ceil(EPOCHS * len(rows) / BATCH))
    for step, batch in zip(range(steps), batches(rows, seed), strict=False):
        x = heads.standardised(features[batch])
        logits = torch.addmm(heads.bias, x, heads.weight).unflatten(1, (-1, classes))
        error = logits.softmax(2).clamp_(min=1e-26)  # products of smaller ones are denormal: 5 times slower on a CPU
        error -= F.one_hot(labels[batch], classes)[:, None]
        error = error.flatten(1).div_(len(x))  # the gradient at the logits
        weight_velocity.mul_(MOMENTUM).addmm_(x.T, error).addcmul_(heads.weight, decay)
        bias_velocity.mul_(MOMENTUM).add_(error.sum(0))
        cosine = (1 + math.cos(math.pi * step / steps)) / 2
        heads.weight.addcmul_(weight_velocity, rate, value=-cosine)
        heads.bias.addcmul_(bias_velocity, rate, value=-cosine)
    return heads


def judge(heads: Heads, features: Tensor, labels: Tensor, rows: Tensor) -> tuple[list[float], list[float]]:
    """Each head's accuracy and mean cross-entropy on some rows of the features."""
    right, entropy = 0, 0
    for few in rows.split(BATCH):
        logits, truth = heads.logits(features[few]), labels[few][:, None]
        right = right + (logits.argmax(2) == truth).sum(0)
        entropy = entropy - logits.log_softmax(2).gather(2, truth[:, None].expand(-1, logits.shape[1], 1)).sum((0, 2))
    return (right / len(rows)).tolist(), (entropy / len(rows)).tolist()


def choose(accuracies: list[float], entropies: list[float], images: int) -> int:
    """The head of lowest cross-entropy among those whose accuracy is within one standard error of the best.

    On few images the highest accuracy of many heads is luck; cross-entropy varies less, but alone would punish a
    head that is right and too sure of itself. One standard error is the rule of Breiman et al. 1984, section 3.4.3.
    """
    best = max(accuracies)
    enough = best - math.sqrt(best * (1 - best) / images)
    return min((i for i, accuracy in enumerate(accuracies) if accuracy >= enough), key=lambda i: entropies[i])


def moments(features: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std (D,) of some rows of the features, summed in float64; std is 1 where they vary by rounding alone."""
    mean = sum(features[few].double().sum(0) for few in rows.split(BATCH)) / len(rows)
    variance = sum((features[few].double() - mean).square().sum(0) for few in rows.split(BATCH)) / len(rows)
    std = variance.sqrt()
    constant = std <= torch.finfo(torch.float32).eps * mean.abs()
    return mean.float(), std.masked_fill(constant, 1).float()


def batches(rows: Tensor, seed: int) -> Iterator[Tensor]:
    """The rows without end, epoch by epoch in random order, in equal batches of at most `BATCH`."""
    generator = torch.Generator().manual_seed(seed_of(seed, "linear probe"))
    while True:
        order = torch.randperm(len(rows), generator=generator).to(rows.device)
        yield from rows[order].chunk(math.ceil(len(rows) / BATCH))
