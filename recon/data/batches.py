"""Training batches: an endless sequence of samples that can be entered anywhere.

Sample k of a run depends on (seed, k, source) alone: not on the batch size, the number of workers, the ranks
or where the run was resumed. So a checkpoint needs to remember one number. Of a stream the image of sample k depends
on batch size, workers and ranks too, for each worker of each rank reads other shards.
"""

import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, groupby

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from losses import InvalidSetting
from recon.data.crops import Crops, Cut, drawn_cut, training_crop
from recon.data.shards import StreamedBatches
from recon.data.source import Source, StreamedSource, Uncut, UnreadableImage
from recon.randomness import seed_of

Masking = Callable[[torch.Generator], Tensor]  # noise (N,)


@dataclass
class Batch:
    """One step's samples of one rank."""

    images: Tensor | Crops  # uint8 (B, 3, H, W), or what the device makes them of
    labels: Tensor  # int64 (B,), -1 where there is no class
    noise: Tensor  # float32 (B, N)
    unreadable: list[str]  # a line for each image that was passed over

    def pin_memory(self) -> "Batch":
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.noise.pin_memory(), self.unreadable)

    def images_on(self, device: torch.device) -> Tensor:
        """The images on the device that trains: float32 (B, 3, H, W) in [0, 1]."""
        if isinstance(self.images, Crops):
            return self.images.resized(device) / 255
        return self.images.to(device, non_blocking=True).float() / 255


@dataclass(frozen=True)
class Plan:
    """Which samples make a batch, and how an image becomes a sample."""

    image_size: tuple[int, int]
    batch: int
    start: int
    seed: int
    masking: Masking
    rank: int
    world: int
    native: bool
    on_device: bool
    repeats: int

    def batches(self) -> Iterator[range]:
        """The numbers k of this rank's samples, batch by batch."""
        for first in count(self.start + self.rank * self.batch, self.batch * self.world):
            yield range(first, first + self.batch)

    def make(self, ks: range, read: Iterable[tuple[Uncut, int]], unreadable: list[str]) -> Batch:
        images, labels, noise = [], [], []
        for k, (image, label) in zip(ks, read, strict=True):
            images.append(self.crop(image, k))
            labels.append(label)
            noise.append(self.masking(torch.Generator().manual_seed(seed_of(self.seed, "mask", k))))
        images = Crops.of(images, self.image_size) if self.on_device else torch.stack(images)
        return Batch(images, torch.tensor(labels), torch.stack(noise), unreadable)

    def crop(self, image: Uncut, k: int) -> Tensor | tuple[Uncut, Cut]:
        # not torch.manual_seed, which would seed the accelerators too
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_of(self.seed, "crop", k))
            if self.on_device:
                return image, drawn_cut(image, self.image_size, native=self.native)
            return training_crop(image, self.image_size, native=self.native)


def training_batches(
    source: Source | StreamedSource,
    *,
    image_size: tuple[int, int],
    batch: int,
    start: int,
    seed: int,
    workers: int,
    masking: Masking,
    rank: int = 0,
    world: int = 1,
    on_device: bool = False,
    repeats: int = 1,
) -> Iterator[Batch]:
    """Batches without end; the iterator's close() stops the workers.

    An indexable source is shuffled anew in each epoch. The shards of a stream are dealt to the workers of all ranks
    (`StreamedSource.endless`), which make batches in turn. Entered at `start`, each reads on where it would stand had
    the run had these ranks and workers, and this `batch`, from its beginning: with the same ones the samples are those
    of the whole run, to the bit. With others they come in another order; of the pass under way some may come again
    and others be left out, and from then on all come equally often again.

    Args:
        image_size: (H, W) of the training crops.
        batch: samples per rank and batch.
        start: the number of the first sample, counted from 0 over all ranks; of a stream where a batch begins, a
            multiple of batch * world.
        workers: processes that read ahead; 0 reads here. Where processes are not forked, `source` and `masking`
            must pickle.
        masking: draws one image's noise (N,) from the generator.
        rank, world: this process takes the rank-th part of each batch of batch * world samples.
        on_device: leave resizing and mirroring to `Batch.images_on`; the crops are the same.
        repeats: so many samples in a row are of one image, each with its own crop and mask, and it is read once
            (repeated sampling: Hoffer et al. 2020, arXiv 1901.09335; of masked autoencoders, Feichtenhofer et al. 2022,
            arXiv 2205.09113).

    Raises:
        InvalidSetting: more workers and ranks than the stream has shards; from the iterator, when no image of the
            source can be read, or one is too small to be cut.
    """
    plan = Plan(image_size, batch, start, seed, masking, rank, world, source.native, on_device, repeats)
    if isinstance(source, StreamedSource):
        source.check_readers(world, workers)
        dataset, sampler = StreamedBatches(source, plan), None
    else:
        dataset, sampler = IndexedBatches(source, plan), order(len(source), plan)
    loader = DataLoader(
        dataset,
        batch_size=None,  # the dataset's items are whole batches
        sampler=sampler,
        num_workers=workers,
        worker_init_fn=leave_signals_to_the_parent,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # otherwise the loader draws from the global one
    )
    return raising(iter(loader))


def order(images: int, plan: Plan) -> Iterator[tuple[range, list[int]]]:
    """For each batch, the numbers k of its samples and the indices of their images."""
    for ks in plan.batches():
        reads = [k // plan.repeats for k in ks]
        yield ks, [int(permutation(images, plan.seed, n // images)[n % images]) for n in reads]


@lru_cache(maxsize=2)  # a batch may reach into the next epoch
def permutation(images: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(images, generator=torch.Generator().manual_seed(seed_of(seed, "epoch", epoch)))


class IndexedBatches(Dataset):
    """Makes the batch whose samples and images `order` tells.

    A user's error is handed over, not raised: DataLoader would bury its line under the worker's traceback.
    """

    def __init__(self, source: Source, plan: Plan) -> None:
        self.source = source
        self.plan = plan

    def __getitem__(self, which: tuple[range, list[int]]) -> Batch | InvalidSetting:
        ks, indices = which
        unreadable: list[str] = []
        try:
            return self.plan.make(ks, read_each(self.source, indices, unreadable), unreadable)
        except InvalidSetting as error:
            return error


def read_each(source: Source, indices: list[int], unreadable: list[str]) -> Iterator[tuple[Uncut, int]]:
    """The images at `indices`; one that comes several times in a row is read once."""
    for index, times in groupby(indices):
        found = read_or_next(source, index, unreadable)
        yield from (found for _ in times)


def read_or_next(source: Source, index: int, unreadable: list[str]) -> tuple[Uncut, int]:
    """The image at `index` and its class, or the next one that can be read; says in `unreadable` which cannot."""
    images = len(source)
    for candidate in range(index, index + images):
        try:
            return source.uncut(candidate % images)
        except UnreadableImage as error:
            unreadable.append(str(error))
    raise InvalidSetting(f"none of the {images} images can be read; {unreadable[-1]}")


def leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C and many a scheduler's SIGTERM reach every process; only the main one decides what they mean.

    A worker whose parent dies ends by itself: the loader watches for that.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def raising(batches: Iterator[Batch | InvalidSetting]) -> Iterator[Batch]:
    """The batches; an error among them is raised here."""
    try:
        for batch in batches:
            if isinstance(batch, InvalidSetting):
                raise batch
            yield batch
    finally:
        del batches  # stops the workers now, not when the traceback is forgotten
