"""Labelled images of a dataset: subsets by class, batches, and test labels that no probe can read."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from losses import InvalidSetting
from recon.config import seed_of
from recon.data import Source, StreamedSource, UnreadableImage, create_dataset, evaluation_crop
from recon.data.batches import load_batches
from recon.distributed import ALONE, Ranks


def stratified_subset(labels: Tensor, share: float, seed: int) -> Tensor:
    """Chooses a share of a labelled set class by class, as the 1% and 10% protocols do: sorted indices (m,).

    m is share * n, rounded, or the number of classes where that is more: each class keeps at least one image. Images
    are taken from one order in which the j-th image of a class of n_c stands at (j + 1/2) / n_c (Webster's
    apportionment): classes keep their proportions, and with one seed a smaller subset is part of a larger one.
    `labels` (n,) are any numbers. Raises InvalidSetting without labels, or for a share outside (0, 1].
    """
    if not len(labels) or not 0 < share <= 1:
        raise InvalidSetting(f"a share of {share} of {len(labels)} labelled images; it must be in (0, 1]")
    order, rank, size = _shuffled(labels, seed_of(seed, "fraction"))
    place = torch.where(rank > 0, (rank + 0.5) / size, 0.0)
    count = max(int((rank == 0).sum()), round(share * len(labels)))
    return order[place.argsort(stable=True)[:count]].sort().values.to(labels.device)


def stratified_split(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Splits training images class by class into those to train on and those to choose settings on: sorted indices.

    Of a class of n_c images share * n_c, rounded, are held back, at least one and at most n_c - 1: both parts have
    every class that has two images. A class of one image is trained on; where every class has one, the second part is
    empty. `labels` (n,) are any numbers. Raises InvalidSetting without labels, or for a share outside (0, 1).
    """
    if not len(labels) or not 0 < share < 1:
        raise InvalidSetting(f"a share of {share} of {len(labels)} labelled images; it must be between 0 and 1")
    order, rank, size = _shuffled(labels, seed_of(seed, "held back"))
    held_back = rank < (share * size).round().clamp(min=1).minimum(size - 1)
    fit, select = (order[part].sort().values.to(labels.device) for part in (~held_back, held_back))
    return fit, select


def _shuffled(labels: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A random order of the images; in that order, each one's rank within its class and the class's size: (n,) each.

    On the CPU in float64, so that the result is the same for every device.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    _, classes, sizes = labels.cpu()[order].unique(return_inverse=True, return_counts=True)
    by_class = classes.argsort(stable=True)
    rank = torch.empty_like(order)
    rank[by_class] = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[classes[by_class]]
    return order, rank.double(), sizes[classes].double()


@dataclass(frozen=True)
class LabelledImages:
    """Images `indices` of `source`; their labels (n,) int64 are positions in `classes`."""

    source: Source
    indices: list[int]
    labels: Tensor
    classes: list[str]

    def __len__(self) -> int:
        return len(self.indices)

    def subset(self, positions: Tensor) -> "LabelledImages":
        """The images at `positions` (m,)."""
        indices = [self.indices[i] for i in positions.tolist()]
        return LabelledImages(self.source, indices, self.labels[positions], self.classes)


class HeldOutLabels:
    """Labels of the test images. Each probe may compare its final predictions with them once, and never read them.

    A second comparison would allow a probe to choose between two predictions by the test data.
    """

    def __init__(self, labels: Tensor):
        self._labels = labels
        self._answered: set[str] = set()

    def __len__(self) -> int:
        return len(self._labels)

    def correct(self, probe: str, predictions: Tensor) -> Tensor:
        """Which of the predictions (n,) are right: (n,) bool. Raises RuntimeError where `probe` has asked before."""
        if probe in self._answered:
            raise RuntimeError(
                f"{probe} asked for its test accuracy twice: the test labels must not take part in choices"
            )
        self._answered.add(probe)
        return predictions.cpu() == self._labels


@dataclass(frozen=True)
class ProbeTask:
    """The training images of a dataset, and the test images `test_indices` of `test_source`. `digest`: SHA-256 of the
    names, labels and contents of all images. `duplicates`: test images that equal a training image, byte for byte."""

    name: str
    train: LabelledImages
    test_source: Source
    test_indices: list[int]
    test_labels: HeldOutLabels
    digest: str
    duplicates: int

    @property
    def classes(self) -> list[str]:
        return self.train.classes


def open_task(name: str, root: str | Path | None, ranks: Ranks = ALONE, labelled: bool = True) -> ProbeTask:
    """Opens the training and test images of a dataset with their classes; images without a class are left out.

    Not `labelled`: for measures without labels; where the training or the test images have no classes, all are taken.

    Raises:
        InvalidSetting: no classes, other classes in the test than in the training images, a class with one training
            image, an image that cannot be read, a stream.
    """
    with ranks.sync_errors():
        train, test = (create_dataset(name, split, root) for split in ("train", "val"))
        if isinstance(train, StreamedSource) or isinstance(test, StreamedSource):
            raise InvalidSetting(f"data={name} is a stream; a probe reads images by number: unpack it into a folder")
    known, test_known = (_labels(source, ranks) for source in (train, test))
    if labelled:
        check_classes(name, train, test, known, test_known)
    elif not known or not test_known:
        known, test_known = (dict.fromkeys(range(len(source)), -1) for source in (train, test))
    hashes, test_hashes = (_hashes(source, k, ranks) for source, k in ((train, known), (test, test_known)))
    digest = hashlib.sha256()
    for source, labels, contents in ((train, known, hashes), (test, test_known, test_hashes)):
        for (index, label), content in zip(labels.items(), contents, strict=True):
            digest.update(f"{source.name_of(index)}\0{label}\0".encode() + content)
    numbered = sorted(set(known.values()) - {-1})
    names, position = dict(enumerate(train.classes)), {label: k for k, label in enumerate(numbered)}
    numbers, test_numbers = (
        torch.tensor([position.get(label, -1) for label in x.values()]) for x in (known, test_known)
    )
    return ProbeTask(
        name,
        LabelledImages(train, list(known), numbers, [str(names.get(label, label)) for label in numbered]),
        test,
        list(test_known),
        HeldOutLabels(test_numbers),
        digest.hexdigest(),
        duplicates=sum(map(set(hashes).__contains__, test_hashes)),
    )


@contextmanager
def every_image_readable() -> Iterator[None]:
    """Turns an image that cannot be read, which training would skip, into an error of one line."""
    try:
        yield
    except UnreadableImage as reason:
        raise InvalidSetting(f"{reason}; a probe needs every image: mend it or take it out of the data") from reason


def _labels(source: Source, ranks: Ranks) -> dict[int, int]:
    """Index -> class, of the images that have one."""
    labels = ranks.parallel_map(every_image_readable()(source.label_of), range(len(source)))
    return {index: label for index, label in enumerate(labels) if label >= 0}


def _hashes(source: Source, indices: Iterable[int], ranks: Ranks) -> list[bytes]:
    """SHA-256 of each image's file, or of its pixels where it has no file."""

    @every_image_readable()
    def hash_of(index: int) -> bytes:
        return hashlib.sha256(source.content(index)).digest()

    return ranks.parallel_map(hash_of, indices)


def check_classes(name: str, train: Source, test: Source, labels: dict[int, int], test_labels: dict[int, int]) -> None:
    """Raises InvalidSetting where the classes of the images (index -> class) cannot be probed."""
    different = f"data={name}: training and test images have different classes"
    if train.classes and test.classes and train.classes != test.classes:
        apart = sorted(set(train.classes) ^ set(test.classes)) or ["another order"]
        raise InvalidSetting(f"{different}: {', '.join(apart[:5])}")
    names, counts, test_classes = dict(enumerate(train.classes)), Counter(labels.values()), set(test_labels.values())

    def listed(numbers: Iterable[int]) -> str:
        words = [str(names.get(number, number)) for number in sorted(numbers)]
        return ", ".join(words if len(words) <= 5 else [*words[:5], "..."])

    if not labels or not test_labels or (test.notes and test.classes and len(test_labels) < len(test)):
        lacking = "has no classes" if not labels else "has held-out images without a class"
        notes = "".join(f"; {note}" for note in (test if labels else train).notes)
        raise InvalidSetting(
            f"data={name} {lacking}{notes}; a probe needs labelled images (class folders, or a label "
            "column); probe=rankme+alpha_req needs none"
        )
    if counts.keys() != test_classes:
        raise InvalidSetting(f"{different}; on one side alone: {listed(counts.keys() ^ test_classes)}")
    if len(counts) < 2:
        raise InvalidSetting(f"data={name} has the one class {listed(counts)}; a probe needs two or more")
    if single := [label for label, count in counts.items() if count == 1]:
        raise InvalidSetting(
            f"data={name}: class {listed(single)} has one training image, so none can be held back to choose settings "
            "on"
        )


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seeds Python's, numpy's and torch's generators, those of the CPU and of a CUDA `device`, inside the block.

    Their states are restored after it.
    """
    python, array = random.getstate(), np.random.get_state()
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        random.seed(seed)
        np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every accelerator
        for each in cuda:
            torch.cuda.default_generators[each.index or 0].manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


class ImageBatches(Dataset):
    """Item `numbers`, a range, is the batch of these samples. Returns a user's error, which a worker would bury."""

    def batch(self, numbers: range) -> Any:
        raise NotImplementedError

    def __getitem__(self, numbers: range) -> Any:
        try:
            with every_image_readable():
                return self.batch(numbers)
        except InvalidSetting as error:
            return error


@dataclass
class CentralCrops(ImageBatches):
    source: Source
    indices: Sequence[int]
    image_size: tuple[int, int]

    def batch(self, numbers: range) -> Tensor:
        images = (self.source.read(self.indices[k])[0] for k in numbers)
        return torch.stack([evaluation_crop(image, self.image_size, native=self.source.native) for image in images])


def central_crops(
    source: Source, indices: Sequence[int], image_size: tuple[int, int], batch: int, workers: int
) -> Iterator[Tensor]:
    """Yields central crops in the order of `indices`: uint8 (B, 3, H, W), `batch` at a time.

    The iterator raises InvalidSetting when an image cannot be read.
    """
    count = len(indices)
    ranges = [range(start, min(start + batch, count)) for start in range(0, count, batch)]
    return load_batches(CentralCrops(source, indices, image_size), ranges, workers)
