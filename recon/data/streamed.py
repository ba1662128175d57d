"""Training batches of a stream: each worker of each rank makes its own, in turn."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from losses.errors import InvalidSetting
from recon.data.source import Read, StreamedSource, UnreadableImage

if TYPE_CHECKING:
    from recon.data.batches import Batch, Plan

HOPELESS = 1000  # samples, one after the other, that cannot be read


class StreamedBatches(IterableDataset):
    """Makes every worker's batches of a stream, in turn; hands a user's error over as IndexedBatches does."""

    def __init__(self, source: StreamedSource, plan: "Plan") -> None:
        self.source = source
        self.plan = plan

    def __iter__(self) -> "Iterator[Batch | InvalidSetting]":
        plan, worker = self.plan, get_worker_info()
        turn, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        # A resumed loader begins with its first worker, whoever's turn it was.
        before, role = divmod(plan.start // (plan.batch * plan.world) + turn, workers)
        reader, readers = plan.rank * workers + role, plan.world * workers
        begin, within = divmod(before * plan.batch, plan.repeats)
        images = readable(self.source.endless(reader, readers, plan.seed, begin), self.source.name)
        images = islice((image for image in images for _ in range(plan.repeats)), within, None)
        try:
            for ks in islice(plan.batches(), turn, None, workers):
                unreadable: list[str] = []
                yield plan.make(ks, noting(islice(images, len(ks)), unreadable), unreadable)
        except InvalidSetting as error:
            yield error


def readable(samples: Iterable[Read], name: str) -> Iterator[tuple[Image.Image, int, list[str]]]:
    """Image, class and a line for each sample before it that cannot be read, whose place the image takes as well."""
    unreadable: list[str] = []
    for read in samples:
        try:
            image, label = read()
        except UnreadableImage as error:
            unreadable.append(str(error))
            if len(unreadable) == HOPELESS:
                raise InvalidSetting(f"{HOPELESS} samples of {name} in a row cannot be read; {error}") from error
            continue
        for lines in (unreadable, *([] for _ in unreadable)):
            yield image, label, lines
        unreadable = []


def noting(
    images: Iterable[tuple[Image.Image, int, list[str]]], unreadable: list[str]
) -> Iterator[tuple[Image.Image, int]]:
    """Images and classes alone; the lines go to `unreadable`."""
    for image, label, lines in images:
        unreadable += lines
        yield image, label
