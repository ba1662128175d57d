"""Training batches, an endless sequence of samples that can be entered anywhere; and the images that are held out.

Sample k of a run depends on (seed, k, source) alone: not on the batch size, the number of workers, the ranks or where
the run was resumed. So a checkpoint needs to remember one number. In a stream each worker of each rank reads other
shards, so that the image of sample k also depends on batch size, workers and ranks.
"""

import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, groupby, islice, repeat
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from losses import InvalidSetting
from recon.config import CROP_SCALE, seed_of
from recon.data.crops import CropBatch, evaluation_crop, random_crop, training_crop
from recon.data.source import Croppable, ReadSample, Sample, Source, StreamedSource, UnreadableImage

Masking = Callable[[torch.Generator], Tensor]  # noise (N,)
MAX_UNREADABLE_IN_A_ROW = 1000  # samples of a stream


@dataclass
class Batch:
    """One step's samples of one rank."""

    images: Tensor | CropBatch  # uint8 (B, 3, H, W), or crops that the device resizes to that
    labels: Tensor  # int64 (B,), -1 where there is no class
    noise: Tensor  # float32 (B, N)
    unreadable: list[str]  # a line for each image that was passed over

    def pin_memory(self) -> "Batch":
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.noise.pin_memory(), self.unreadable)

    def images_on(self, device: torch.device) -> Tensor:
        """The images on the device that trains: float32 (B, 3, H, W) in [0, 1]."""
        if isinstance(self.images, CropBatch):
            return self.images.resized(device) / 255
        return self.images.to(device, non_blocking=True).float() / 255


@dataclass(frozen=True)
class BatchMaker:
    """Which samples make a batch, and how an image becomes a sample."""

    crop: tuple[tuple[int, int], bool, Sequence[float], float]  # size, native, scale, colour_jitter: of `random_crop`
    batch: int
    start: int
    seed: int
    masking: Masking
    rank: int
    world: int
    on_device: bool
    repeats: int

    def sample_numbers(self) -> Iterator[range]:
        """The numbers k of this rank's samples, batch by batch."""
        for first in count(self.start + self.rank * self.batch, self.batch * self.world):
            yield range(first, first + self.batch)

    def sample_indices(self, images: int) -> Iterator[tuple[range, list[int]]]:
        """For each batch, the numbers k of its samples and the indices of their images."""
        for ks in self.sample_numbers():
            reads = [k // self.repeats for k in ks]
            yield ks, [int(permutation(images, self.seed, n // images)[n % images]) for n in reads]

    def make(self, ks: range, read: Iterable[tuple[Croppable, int]], unreadable: list[str]) -> Batch:
        """The batch of samples `ks`; reading the images adds a line to `unreadable` for each that fails."""
        images, labels, noise = [], [], []
        for k, (image, label) in zip(ks, read, strict=True):
            with torch.random.fork_rng(devices=[]):
                # not torch.manual_seed, which would seed the accelerators too
                torch.default_generator.manual_seed(seed_of(self.seed, "crop", k))
                if self.on_device:
                    images.append(random_crop(image, *self.crop))
                else:
                    images.append(training_crop(image, *self.crop))
            labels.append(label)
            noise.append(self.masking(torch.Generator().manual_seed(seed_of(self.seed, "mask", k))))
        images = CropBatch.of(images, self.crop[0]) if self.on_device else torch.stack(images)
        return Batch(images, torch.tensor(labels), torch.stack(noise), list(unreadable))


@lru_cache(maxsize=2)  # a batch may reach into the next epoch
def permutation(images: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(images, generator=torch.Generator().manual_seed(seed_of(seed, "epoch", epoch)))


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
    crop_scale: Sequence[float] = CROP_SCALE,
    colour_jitter: float = 0.0,
) -> Generator[Batch]:
    """Batches without end; the iterator's close() stops the workers.

    An indexable source is shuffled anew in each epoch. The shards of a stream are distributed to the workers of all
    ranks, which make batches in turn. Entered at `start`, a stream goes on to the bit if the run had these ranks,
    workers and `batch` from its beginning. With others samples come in another order; of the current pass some may come
    again and others be left out, and from then on all come equally often again.

    Args:
        image_size: (H, W) of the training crops.
        batch: samples per rank and batch.
        start: the number of the first sample, counted from 0 over all ranks; of a stream a multiple of batch * world.
        workers: processes that read ahead; 0 reads in this one.
        masking: draws one image's noise (N,) from the generator.
        rank, world: this process takes the rank-th part of each batch of batch * world samples.
        on_device: leave resizing and mirroring to `Batch.images_on`; the crops are the same.
        repeats: so many samples in a row are of one image, each with its own crop and mask, and it is read once
            (Hoffer et al. 2020, arXiv 1901.09335; Feichtenhofer et al. 2022, arXiv 2205.09113).
        crop_scale, colour_jitter: as of `random_crop`.

    Raises:
        InvalidSetting: fewer shards than readers; from the iterator, when no image can be read, or a native one is
            smaller than the crop.
    """
    crop = image_size, source.native, crop_scale, colour_jitter
    maker = BatchMaker(crop, batch, start, seed, masking, rank, world, on_device, repeats)
    if isinstance(source, StreamedSource):
        source.check_readers(world, workers)
        dataset, sampler = StreamedBatches(source, maker), None
    else:
        dataset, sampler = IndexedBatches(source, maker), maker.sample_indices(len(source))
    return load_batches(dataset, sampler, workers)


def load_batches(dataset: Dataset, sampler: Iterable[Any] | None, workers: int) -> Generator[Any]:
    """The items of `dataset`, which are whole batches, at the indices of `sampler`, by so many worker processes."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        worker_init_fn=ignore_signals,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # otherwise the loader draws from the global one
    )
    return raise_errors(iter(loader))


class IndexedBatches(Dataset):
    """Makes the batch of (sample numbers, image indices). Returns a user's error for `raise_errors`."""

    def __init__(self, source: Source, maker: BatchMaker) -> None:
        self.source = source
        self.maker = maker

    def __getitem__(self, which: tuple[range, list[int]]) -> Batch | InvalidSetting:
        ks, indices = which
        unreadable: list[str] = []
        try:
            return self.maker.make(ks, self.read_each(indices, unreadable), unreadable)
        except InvalidSetting as error:
            return error

    def read_each(self, indices: list[int], unreadable: list[str]) -> Iterator[tuple[Croppable, int]]:
        """The images at `indices`, or the next ones that can be read; one that comes several times is read once."""
        images = len(self.source)
        for index, times in groupby(indices):
            for candidate in range(index, index + images):
                try:
                    found = self.source.croppable(candidate % images)
                    break
                except UnreadableImage as error:
                    unreadable.append(str(error))
            else:
                raise InvalidSetting(f"none of the {images} images can be read; {unreadable[-1]}")
            yield from (found for _ in times)


class StreamedBatches(IterableDataset):
    """Makes the batches of a stream; the workers take turns. Returns a user's error as IndexedBatches does."""

    def __init__(self, source: StreamedSource, maker: BatchMaker) -> None:
        self.source = source
        self.maker = maker

    def __iter__(self) -> Iterator[Batch | InvalidSetting]:
        maker, worker = self.maker, get_worker_info()
        turn, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        # A resumed loader begins with its first worker, whoever's turn it was.
        before, role = divmod(maker.start // (maker.batch * maker.world) + turn, workers)
        reader, readers = maker.rank * workers + role, maker.world * workers
        begin, within = divmod(before * maker.batch, maker.repeats)
        unreadable: list[str] = []
        samples = self.source.training_samples(reader, readers, maker.seed, begin)
        images = self.read_or_next(samples, unreadable)
        images = islice((image for image in images for _ in range(maker.repeats)), within, None)
        try:
            for ks in islice(maker.sample_numbers(), turn, None, workers):
                yield maker.make(ks, islice(images, len(ks)), unreadable)
                unreadable.clear()
        except InvalidSetting as error:
            yield error

    def read_or_next(self, samples: Iterable[ReadSample], unreadable: list[str]) -> Iterator[Sample]:
        """Each sample, or in its place the next one that can be read."""
        failed = 0
        for read in samples:
            try:
                yield from repeat(read(), failed + 1)
                failed = 0
            except UnreadableImage as error:
                unreadable.append(str(error))
                failed += 1
                if failed == MAX_UNREADABLE_IN_A_ROW:
                    line = f"{failed} samples of {self.source.name} in a row cannot be read; {error}"
                    raise InvalidSetting(line) from error


def ignore_signals(worker: int) -> None:
    """Makes a worker ignore Ctrl-C and SIGTERM, which the main process answers; the loader ends it with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def raise_errors(batches: Iterator[Batch | InvalidSetting]) -> Generator[Batch]:
    """The batches; raises an error among them, which DataLoader would have buried under a worker's traceback."""
    try:
        for batch in batches:
            if isinstance(batch, InvalidSetting):
                raise batch
            yield batch
    finally:
        del batches  # stops the workers now, not when the traceback is forgotten


def held_out_images(
    source: Source | StreamedSource, image_size: tuple[int, int], count: int, seed: int, masking: Masking
) -> tuple[Tensor, Tensor, list[str]]:
    """All of `held_out_batches` in one: images (count, 3, H, W), noise (count, N), names."""
    images, noise, names = zip(*held_out_batches(source, image_size, count, seed, masking, count), strict=True)
    return torch.cat(images), torch.cat(noise), [name for batch in names for name in batch]


def held_out_batches(
    source: Source | StreamedSource, image_size: tuple[int, int], count: int, seed: int, masking: Masking, batch: int
) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
    """The images that every run is evaluated on: images, float32 (B, 3, H, W) in [0, 1]; noise (B, N); their names.

    Of those that can be read `count` (or all, where these are fewer), spread evenly over the source or the first ones
    of a stream, `batch` at a time. An image's noise depends on `seed` and its name alone.

    Raises:
        InvalidSetting: none of the images can be read, or they are smaller than `image_size` and never resized.
    """
    readable = readable_images(source, lambda n: dict.fromkeys([*(i * n // count for i in range(count)), *range(n)]))
    samples = ((evaluation_crop(image, image_size, source.native), name) for image, name in islice(readable, count))
    found = False
    while some := list(islice(samples, batch)):
        found = True
        images, names = zip(*some, strict=True)
        noise = [noise_of(name, seed, masking) for name in names]
        yield torch.stack(images).float() / 255, torch.stack(noise), list(names)
    if not found:
        raise InvalidSetting("none of the held-out images can be read")


def noise_of(name: str, seed: int, masking: Masking) -> Tensor:
    """The noise (N,) of the image of this name."""
    return masking(torch.Generator().manual_seed(seed_of(seed, name)))


def in_random_order(source: Source | StreamedSource, seed: int) -> Iterator[Image.Image]:
    """All images that can be read, shuffled; those of a stream in its own order."""
    generator = torch.Generator().manual_seed(seed)
    return (image for image, _ in readable_images(source, lambda n: torch.randperm(n, generator=generator).tolist()))


def readable_images(
    source: Source | StreamedSource, order: Callable[[int], Iterable[int]]
) -> Iterator[tuple[Image.Image, str]]:
    """Images and their names, at the indices that `order` makes of their number; those of a stream in its own order."""
    if isinstance(source, StreamedSource):
        for position, (image, _) in enumerate(source):
            yield image, f"{source.name}/{position}"
        return
    for index in order(len(source)):
        try:
            yield source.read(index)[0], source.name_of(index)
        except UnreadableImage:
            continue
