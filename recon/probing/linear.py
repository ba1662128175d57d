"""Linear probe: softmax regression on frozen features, its settings chosen without the test images."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from losses import InvalidSetting
from recon.config import seed_of
from recon.probing.labelled import stratified_split

SELECTION_SHARE = 0.2  # of the training images, held back to choose the settings on
BATCH, EPOCHS, MIN_STEPS = 512, 25, 500
MOMENTUM = 0.9


@dataclass(frozen=True)
class Grid:
    """The settings to try: every learning rate with every weight decay, both ascending.

    The learning rate is for the mean loss over batches of `BATCH` images. Weight decay is that of `torch.optim.SGD`:
    half of it times the squared weights is added to the mean cross-entropy, so on n images it is 1 / (C n) of
    scikit-learn's C.

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
        """Every (learning rate, weight decay)."""
        return [(rate, decay) for rate in self.learning_rates for decay in self.weight_decays]


@dataclass(frozen=True)
class LinearHeads:
    """K linear classifiers of the same D features into C classes, computed by one matrix product.

    Heads are the last dimension because softmax over the dimension before it works on all heads at once.

    Args:
        weight, bias: (D, C, K) and (C, K), for standardised features.
        mean, std: (D,), of the features that the heads were trained on; std is 1 where a feature is constant.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor

    def standardised(self, features: Tensor) -> Tensor:
        return (features.float() - self.mean) / self.std

    def logits(self, features: Tensor) -> Tensor:
        """(m, D) -> (m, C, K)."""
        product = torch.addmm(self.bias.flatten(), self.standardised(features), self.weight.flatten(1))
        return product.unflatten(1, self.bias.shape)


@dataclass(frozen=True)
class LinearProbe:
    """A trained linear classifier, and how its settings were chosen.

    Args:
        head: the one head, K = 1.
        learning_rate, weight_decay: the chosen ones of the grid.
        accuracies: of each setting on the held-back images, a row per learning rate; NaN where none were held back.
        selected_on: the number of held-back images.
    """

    head: LinearHeads
    grid: Grid
    learning_rate: float
    weight_decay: float
    accuracies: tuple[tuple[float, ...], ...]
    selected_on: int

    @property
    def on_border(self) -> tuple[str, ...]:
        """The settings chosen at an end of their axis: a better one may lie outside the grid.

        A weight decay of 0 does not count, nor does an axis with one value.
        """
        axes = {
            "learning_rate": (self.learning_rate, self.grid.learning_rates),
            "weight_decay": (self.weight_decay, self.grid.weight_decays),
        }
        ends = {name: len(axis) > 1 and value in (axis[0], axis[-1]) for name, (value, axis) in axes.items()}
        return tuple(name for name, end in ends.items() if end and axes[name][0] > 0 and self.selected_on)

    def predict(self, features: Tensor) -> Tensor:
        """Features (m, D) -> classes (m,) int64; the lowest class where several are equally likely."""
        return torch.cat([self.head.logits(part)[..., 0].argmax(1) for part in features.split(BATCH)])

    def as_dict(self) -> dict[str, Any]:
        """The choice in plain values, for probe.json."""
        return {
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "learning_rates": list(self.grid.learning_rates),
            "weight_decays": list(self.grid.weight_decays),
            "accuracies": [list(row) for row in self.accuracies] if self.selected_on else None,
            "selected_on": self.selected_on,
            "on_border": list(self.on_border),
        }


def linear_probe(features: Tensor, labels: Tensor, classes: int, *, grid: Grid = Grid(), seed: int = 0) -> LinearProbe:
    """Trains softmax regression on features, with the settings of the grid that do best on held-back features.

    All settings of the grid are trained at once as heads of one matrix product, as in DINOv2's linear evaluation
    (Oquab et al. 2023, arXiv 2304.07193, appendix B.3). DINOv2's code chooses the head on the test images. Here a
    stratified fifth of the training images is held back to choose on (`choose`), and the chosen setting is trained
    again on all of them. Where every class has one image, the middle setting of the grid is taken.

    SGD with momentum 0.9 from zero weights, `BATCH` images a step, a cosine from the learning rate to 0, `EPOCHS`
    epochs but at least `MIN_STEPS` steps. Features are standardised by the mean and std of those trained on, as the
    batch norm of He et al. 2021 (arXiv 2111.06377, appendix A.1) does. Biases do not decay. Memory besides the
    features: 4 D C K numbers, and a few times `BATCH` C K.

    The rule of choice, batch, epochs and grid were fixed once, by accuracies on Imagenette's validation images
    (features of the bundled VGG19, and raw pixels), and have not been tuned on other data.

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
    pairs, decays = grid.pairs, len(grid.weight_decays)
    fit, select = stratified_split(labels, SELECTION_SHARE, seed)
    if len(select):
        accuracies, entropies = evaluate(train(features, labels, fit, classes, pairs, seed), features, labels, select)
        best = choose(accuracies, entropies, len(select))
    else:
        accuracies = [math.nan] * len(pairs)
        best = len(grid.learning_rates) // 2 * decays + decays // 2
    everything = torch.arange(len(labels), device=labels.device)
    head = train(features, labels, everything, classes, [pairs[best]], seed)
    table = tuple(tuple(accuracies[i : i + decays]) for i in range(0, len(pairs), decays))
    return LinearProbe(head, grid, *pairs[best], table, len(select))


def train(
    features: Tensor, labels: Tensor, rows: Tensor, classes: int, pairs: list[tuple[float, float]], seed: int
) -> LinearHeads:
    """Trains one head per (learning rate, weight decay) on some rows of the features.

    Equal to one run of `torch.optim.SGD` with a cosine schedule per head, on the same batches.
    """
    mean, std = moments(features, rows)
    rates, decays = torch.tensor(pairs).to(mean).unbind(1)
    weight = mean.new_zeros(len(mean), classes, len(pairs), requires_grad=True)
    bias = mean.new_zeros(classes, len(pairs), requires_grad=True)
    heads = LinearHeads(weight, bias, mean, std)
    weight_momentum, bias_momentum = torch.zeros_like(weight), torch.zeros_like(bias)
    steps = max(MIN_STEPS, math.ceil(EPOCHS * len(rows) / BATCH))
    for step, batch in zip(range(steps), batches(rows, seed), strict=False):
        truth = labels[batch, None].expand(-1, len(pairs))
        loss = F.cross_entropy(heads.logits(features[batch]), truth, reduction="sum") / len(batch)
        weight_gradient, bias_gradient = torch.autograd.grad(loss, (weight, bias))
        cosine = (1 + math.cos(math.pi * step / steps)) / 2
        with torch.no_grad():  # SGD with a learning rate and a decay of its own for each head
            weight_momentum.mul_(MOMENTUM).add_(weight_gradient).addcmul_(weight, decays)
            bias_momentum.mul_(MOMENTUM).add_(bias_gradient)
            weight.addcmul_(weight_momentum, rates, value=-cosine)
            bias.addcmul_(bias_momentum, rates, value=-cosine)
    return LinearHeads(weight.detach(), bias.detach(), mean, std)


def evaluate(heads: LinearHeads, features: Tensor, labels: Tensor, rows: Tensor) -> tuple[list[float], list[float]]:
    """Accuracy and mean cross-entropy of each head on some rows of the features."""
    correct, entropy = 0, 0
    for part in rows.split(BATCH):
        logits = heads.logits(features[part])
        truth = labels[part, None].expand(-1, logits.shape[2])
        correct = correct + (logits.argmax(1) == truth).sum(0)
        entropy = entropy + F.cross_entropy(logits, truth, reduction="none").sum(0)
    return (correct / len(rows)).tolist(), (entropy / len(rows)).tolist()


def choose(accuracies: list[float], entropies: list[float], images: int) -> int:
    """Returns the head of lowest cross-entropy among those whose accuracy is within one standard error of the best.

    On few images the highest of many accuracies is luck. Cross-entropy varies less, but alone would reject a head
    that is right and overconfident. One standard error is the rule of Breiman et al. 1984, section 3.4.3.
    """
    best = max(accuracies)
    enough = best - math.sqrt(best * (1 - best) / images)
    return min((i for i, accuracy in enumerate(accuracies) if accuracy >= enough), key=lambda i: entropies[i])


def moments(features: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std (D,) of some rows, summed in float64; std is 1 where a feature varies only by rounding."""
    parts = rows.split(BATCH)
    mean = sum(features[part].double().sum(0) for part in parts) / len(rows)
    variance = sum((features[part].double() - mean).square().sum(0) for part in parts) / len(rows)
    std = variance.sqrt()
    constant = std <= torch.finfo(torch.float32).eps * mean.abs()
    return mean.float(), std.masked_fill(constant, 1).float()


def batches(rows: Tensor, seed: int) -> Iterator[Tensor]:
    """Yields the rows without end, in a new random order each epoch, in equal batches of at most `BATCH`."""
    generator = torch.Generator().manual_seed(seed_of(seed, "linear probe"))
    while True:
        order = torch.randperm(len(rows), generator=generator).to(rows.device)
        yield from rows[order].chunk(math.ceil(len(rows) / BATCH))
