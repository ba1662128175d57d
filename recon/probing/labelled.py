"""Images with a class each, and test labels that can be asked but not read."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from losses import InvalidSetting
from recon.data import Source, StreamedSource, UnreadableImage, create_dataset
from recon.distributed import ALONE, Ranks
from recon.randomness import seed_of


def fraction(labels: Tensor, share: float, seed: int) -> Tensor:
    """A stratified share of a labelled set, as in the 1% and 10% protocols: labels (n,) int64 -> sorted indices (m,).

    m is share * n, rounded, or the number of classes where that is more: each class has at least one image. Images
    are taken from one order in which the j-th image of a class of n_c stands at (j + 1/2) / n_c (Webster's
    apportionment), so classes keep their proportions, and for one seed a smaller share lies within a larger one.

    Args:
        labels: the classes' numbers, whatever they are; a class that has no image is not missed.
        share: in (0, 1].

    Raises:
        InvalidSetting: no labels, or a share that is none.
    """
    _check(labels, share, 0 < share <= 1, "in (0, 1]")
    order, rank, size = _shuffled(labels, seed_of(seed, "fraction"))
    place = torch.where(rank > 0, (rank + 0.5) / size, 0.0)
    count = max(int((rank == 0).sum()), round(share * len(labels)))
    return order[place.argsort(stable=True)[:count]].sort().values.to(labels.device)


def held_back(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Splits training images in two, class by class: to fit on, and to choose settings on. Sorted indices of both.

    Of a class of n_c images share * n_c, rounded, are held back, at least one and at most n_c - 1: a class of two or
    more is in both parts. The image of a class of one is fitted on, for without it the class would not be known.
    Where every class has one image, as few labels may leave it, the second part is empty: there is nothing to choose
    on, and the caller must have a setting for that.

    Args:
        labels: (n,) int64, the classes' numbers, whatever they are.
        share: in (0, 1).

    Raises:
        InvalidSetting: no labels, or a share that leaves a part empty.
    """
    _check(labels, share, 0 < share < 1, "between 0 and 1")
    order, rank, size = _shuffled(labels, seed_of(seed, "held back"))
    back = rank < (share * size).round().clamp(min=1).minimum(size - 1)
    return tuple(order[part].sort().values.to(labels.device) for part in (~back, back))


def _shuffled(labels: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A random order of the images; in that order, each one's rank within its class and its class's size: (n,) each.

    On the CPU in float64, so that a set is the same on every device.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    _, classes, sizes = labels.cpu()[order].unique(return_inverse=True, return_counts=True)
    by_class = classes.argsort(stable=True)
    rank = torch.empty_like(order)
    rank[by_class] = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[classes[by_class]]
    return order, rank.double(), sizes[classes].double()


def _check(labels: Tensor, share: float, possible: bool, interval: str) -> None:
    if not possible:
        raise InvalidSetting(f"a share of {share} of the labels; it must be {interval}")
    if not len(labels):
        raise InvalidSetting("no labelled images to choose from")


T = TypeVar("T")


@dataclass(frozen=True)
class Labelled:
    """Images of `source` with a class each.

    `indices`: which images. `labels`: (n,) int64, 0 to C - 1, positions in `classes`.
    """

    source: Source
    indices: list[int]
    labels: Tensor
    classes: list[str]

    def __len__(self) -> int:
        return len(self.indices)

    def subset(self, which: Tensor) -> "Labelled":
        """The images at positions `which` (m,)."""
        chosen = which.tolist()
        return Labelled(self.source, [self.indices[i] for i in chosen], self.labels[which], self.classes)


class Sealed:
    """Labels of the test images. They are compared with a probe's final predictions, once; nothing else reads them.

    A second question in the same name would be a choice between two answers by the test data.
    """

    def __init__(self, labels: Tensor):
        self._labels = labels
        self._answered: set[str] = set()

    def __len__(self) -> int:
        return len(self._labels)

    def correct(self, probe: str, predictions: Tensor) -> Tensor:
        """Which of the predictions (n,) are right: (n,) bool.

        Raises:
            RuntimeError: this probe has asked before.
        """
        if probe in self._answered:
            raise RuntimeError(
                f"{probe} asked for its test accuracy twice: the test labels must not take part in choices"
            )
        self._answered.add(probe)
        return predictions.cpu() == self._labels


@dataclass(frozen=True)
class Task:
    """What a probe learns and is tested on.

    `test`: images without their labels, which are in `answers`. `digest`: SHA-256 over all images' names, labels and
    contents. `repeated`: how many test images are training images too, to the byte.
    """

    name: str
    train: Labelled
    test_source: Source
    test_indices: list[int]
    answers: Sealed
    digest: str
    repeated: int

    @property
    def classes(self) -> list[str]:
        return self.train.classes


def open_task(name: str, root: str | Path | None, ranks: Ranks = ALONE) -> Task:
    """A dataset's training and test images with their classes; images without a class are left out.

    Args:
        ranks: that share the reading.

    Raises:
        InvalidSetting: no classes, other classes in the test than in the training images, a class with one training
            image, an image that cannot be read.
    """
    with ranks.one_voice():
        train, test = (_indexed(name, create_dataset(name, split, root)) for split in ("train", "val"))
    if train.classes and test.classes and train.classes != test.classes:
        apart = sorted(set(train.classes) ^ set(test.classes)) or ["another order"]
        raise InvalidSetting(f"data={name}: training and test images have different classes: {', '.join(apart[:5])}")
    sources = {"train": train, "val": test}
    found = {split: _labels(source, ranks) for split, source in sources.items()}
    classes = _classes(name, train, found)
    contents = {split: _contents(source, found[split], ranks) for split, source in sources.items()}
    digest = hashlib.sha256()
    for split, source in sources.items():
        for (index, label), content in zip(found[split].items(), contents[split], strict=True):
            digest.update(f"{source.name_of(index)}\0{label}\0".encode() + content)
    position = {label: k for k, label in enumerate(sorted(set(found["train"].values())))}
    labels = {split: torch.tensor([position[label] for label in each.values()]) for split, each in found.items()}
    seen = set(contents["train"])
    return Task(
        name,
        Labelled(train, list(found["train"]), labels["train"], classes),
        test,
        list(found["val"]),
        Sealed(labels["val"]),
        digest.hexdigest(),
        repeated=sum(content in seen for content in contents["val"]),
    )


def _indexed(name: str, source: Source | StreamedSource) -> Source:
    if isinstance(source, StreamedSource):
        raise InvalidSetting(f"data={name} is a stream; a probe reads images by their number: unpack it into a folder")
    return source


def _labels(source: Source, ranks: Ranks) -> dict[int, int]:
    """Index -> class, of the images that have one."""
    labels = ranks.shared(range(len(source)), _readable(source.label_of))
    return {index: label for index, label in enumerate(labels) if label >= 0}


def _contents(source: Source, indices: Iterable[int], ranks: Ranks) -> list[bytes]:
    """SHA-256 of each image's file, or of its pixels."""
    return ranks.shared(indices, _readable(lambda index: hashlib.sha256(source.content(index)).digest()))


def _readable(what: Callable[[int], T]) -> Callable[[int], T]:
    """`what` an image tells, where one that cannot be read is a wrong setting."""

    def of_image(index: int) -> T:
        try:
            return what(index)
        except UnreadableImage as reason:
            raise InvalidSetting(f"{reason}; a probe needs every image: mend it or take it out of the data") from reason

    return of_image


def _classes(name: str, train: Source, found: dict[str, dict[int, int]]) -> list[str]:
    """The names of the classes that occur, in the order of their numbers."""
    have = {split: sorted(set(each.values())) for split, each in found.items()}
    names = dict(enumerate(train.classes))

    def called(labels: Iterable[int]) -> str:
        some = [str(names.get(label, label)) for label in sorted(labels)]
        return ", ".join(some if len(some) <= 5 else [*some[:5], "..."])

    if not have["train"] or not have["val"]:
        raise InvalidSetting(
            f"data={name} has no classes; a probe needs labelled images (class folders, or a label column)"
        )
    if have["train"] != have["val"]:
        apart = set(have["train"]) ^ set(have["val"])
        raise InvalidSetting(
            f"data={name}: training and test images have different classes; on one side alone: {called(apart)}"
        )
    if len(have["train"]) < 2:
        raise InvalidSetting(f"data={name} has the one class {called(have['train'])}; a probe needs two or more")
    counts = torch.tensor(list(found["train"].values())).bincount()
    if alone := {label for label in have["train"] if counts[label] == 1}:
        raise InvalidSetting(
            f"data={name}: class {called(alone)} has one training image, so none can be held back to choose settings on"
        )
    return [str(names.get(label, label)) for label in have["train"]]
