"""How well an encoder's features tell classes apart while it trains: a linear classifier and nearest neighbours.

The linear classifier learns, as the online classifiers of lightly's and solo-learn's benchmarks, from the features that
the training pass has anyway: those of the visible patches, detached. It is tested, as there, on whole images. The
nearest neighbours need no training: they are found on whole images among as many labelled ones.

Nothing of this reaches the run: no gradient, no random number, no state of the model.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from losses import InvalidSetting
from losses.term import step_unless
from recon.data import Source, StreamedSource, UnreadableImage, evaluation_crop
from recon.data.batches import load_batches
from recon.model import MaskedAutoencoder
from recon.neighbours import knn

TRAIN, TEST = 2048, 1024  # labelled images, evenly spaced: those that neighbours are found among, and those to classify
BATCH = 128  # whole images at a time
RATE = 1e-3  # of Adam
EPSILON = 1e-6  # of the standardisation
K = 20


@dataclass(frozen=True)
class LabelledCrops:
    """Central crops, uint8 (n, 3, H, W), and their classes (n,) int64, on the CPU."""

    images: Tensor
    labels: Tensor


class OnlineProbe:
    """A linear classifier (C, D) of the mean patch token of `model`, whose training passes it watches.

    `learn` after each training pass, `accuracies` now and then; `state` goes into the checkpoint. On several ranks the
    classifier learns on rank zero, from its part of the batches.

    Args:
        train, test: images that `accuracies` reads.
        autocast: the run's precision, for whole images.
    """

    def __init__(
        self,
        model: MaskedAutoencoder,
        train: LabelledCrops,
        test: LabelledCrops,
        classes: int,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager],
    ):
        self.model, self.train, self.test, self.device, self.autocast = model, train, test, device, autocast
        self.weight, self.bias = (
            torch.zeros(shape, device=device, requires_grad=True)
            for shape in ((classes, model.cls_token.shape[-1]), (classes,))
        )
        self.optimizer = torch.optim.Adam([self.weight, self.bias], lr=RATE, fused=True)
        self.sums = torch.zeros(3, device=device)  # since the last line of the log: loss, right ones, labelled images
        self.found: dict[str, float] = {}  # the last `accuracies`
        self._tokens: Tensor | None = None
        model.norm.register_forward_hook(self._watch)

    def _watch(self, module: nn.Module, inputs: Any, tokens: Tensor) -> None:
        self._tokens = tokens.detach()

    def learn(self, labels: Tensor) -> None:
        """A step on the last pass of the model, of images with these classes (B,), -1 where there is none.

        The features are standardised by the batch, so that the rate fits features of any scale.
        """
        assert self._tokens is not None
        features = self._tokens[:, self.model.class_tokens :].float().mean(1)
        labels, self._tokens = labels.to(self.device, non_blocking=True), None
        known = (labels >= 0) & (labels < len(self.weight))
        logits = self.logits(features, features)
        losses = F.cross_entropy(logits, labels.where(known, -1), ignore_index=-1, reduction="none")
        loss = losses.sum() / known.sum().clamp(min=1)
        right = (logits.argmax(1) == labels) & known
        self.weight.grad, self.bias.grad = torch.autograd.grad(loss, [self.weight, self.bias])
        finite = self.weight.grad.isfinite().all() & loss.isfinite()
        step_unless(self.optimizer, ~finite | ~known.any())
        sums = torch.stack([losses.detach().sum(), right.sum().float(), known.sum().float()])
        self.sums += torch.where(finite, sums, 0)

    def logits(self, features: Tensor, reference: Tensor) -> Tensor:
        """(n, C) of features (n, D), standardised by mean and variance of the `reference` features."""
        scale = (reference.var(0, correction=0) + EPSILON).rsqrt()
        return F.linear((features - reference.mean(0)) * scale, self.weight, self.bias)

    def means(self) -> dict[str, float]:
        """Loss and accuracy on the training batches since the last call, for one line of the log; waits for the
        device. Empty where no image had a class."""
        loss, right, count = self.sums.tolist()
        self.sums.zero_()
        return {"online_probe/loss": loss / count, "online_probe/train": right / count} if count else {}

    @torch.no_grad()
    def accuracies(self) -> dict[str, float]:
        """Shares of the test images that the linear classifier and the 20 nearest neighbours put in their class.

        On whole images: the classifier's features are standardised by those of the training images, which differ from
        the features of visible patches alone. Where the model is sharded all ranks call it.
        """
        train, test = (self.features(crops.images) for crops in (self.train, self.test))
        labels, truth = self.train.labels.to(self.device), self.test.labels.to(self.device)
        if not (train.isfinite().all() and test.isfinite().all()):  # waits for the device
            return {}
        nearest = knn(train, labels, test, len(self.weight), ks=[K])[K]
        predicted = {"linear": self.logits(test, train).argmax(1), "knn": nearest}
        self.found = {
            f"online_probe/{name}": (classes == truth).double().mean().item() for name, classes in predicted.items()
        }
        return self.found

    def features(self, images: Tensor) -> Tensor:
        """The mean patch token of whole images, (n, D)."""
        found = []
        for part in images.split(BATCH):
            with self.autocast():
                tokens = self.model.encode(part.to(self.device).float() / 255)
            found.append(tokens[:, self.model.class_tokens :].float().mean(1))
        self._tokens = None
        return torch.cat(found)

    def state(self) -> dict[str, Any]:
        weights = {"weight": self.weight.detach(), "bias": self.bias.detach(), "sums": self.sums}
        return weights | {"optimizer": self.optimizer.state_dict(), "found": self.found}

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        for name in ("weight", "bias", "sums"):
            getattr(self, name).copy_(state[name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.found = state["found"]


def open_online_probe(
    name: str,
    sources: Sequence[Source | StreamedSource],
    image_size: tuple[int, int],
    workers: int,
    model: MaskedAutoencoder,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager],
) -> OnlineProbe:
    """Reads the labelled images of the dataset `name`, whose training and held-out images are `sources`.

    Raises:
        InvalidSetting: a stream, or no training or no held-out image with a class.
    """
    train, held_out = sources
    if isinstance(train, StreamedSource) or isinstance(held_out, StreamedSource):
        raise InvalidSetting(
            f"train.online_probe=true reads images by number, and data={name} is a stream; leave it out"
        )
    crops, others = (labelled_crops(*of, image_size, workers) for of in ((train, TRAIN), (held_out, TEST)))
    labels = torch.cat([crops.labels, others.labels])
    for each, which in ((crops, "training"), (others, "held-out")):
        if not len(each.labels):
            raise InvalidSetting(
                f"train.online_probe=true needs labelled images (class folders, or a label column), and data={name} "
                f"has no {which} image with a class; leave it out"
            )
    return OnlineProbe(model, crops, others, max(len(train.classes), int(labels.max()) + 1), device, autocast)


def labelled_crops(source: Source, count: int, image_size: tuple[int, int], workers: int) -> LabelledCrops:
    """Of `count` images, evenly spaced over the source, those that can be read and have a class."""
    total = len(source)
    indices = [i * total // count for i in range(count)] if total > count else list(range(total))
    chunks = [indices[i : i + BATCH] for i in range(0, len(indices), BATCH)]
    images, labels = zip(*load_batches(_LabelledCrops(source, image_size), chunks, workers), strict=True)
    return LabelledCrops(torch.cat(images), torch.cat(labels))


@dataclass
class _LabelledCrops(Dataset):
    source: Source
    image_size: tuple[int, int]

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor] | InvalidSetting:
        crops, labels = [torch.empty(0, 3, *self.image_size, dtype=torch.uint8)], []
        for index in indices:
            try:
                image, label = self.source.read(index)
                if label >= 0:
                    crops.append(evaluation_crop(image, self.image_size, self.source.native)[None])
                    labels.append(label)
            except UnreadableImage:
                continue
            except InvalidSetting as error:  # for `raise_errors`
                return error
        return torch.cat(crops), torch.tensor(labels, dtype=torch.int64)
