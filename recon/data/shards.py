"""WebDataset shards: which process reads which, in an order that can be entered anywhere."""

import io
import json
import math
import os
import random
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, groupby, islice, repeat
from typing import TYPE_CHECKING

import timm.data
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from losses import InvalidSetting
from recon.data.source import Read, StreamedSource, UnreadableImage, read_rgb, reading
from recon.randomness import seed_of

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


BUFFER = 2048  # samples of a reader, still encoded, out of which the next one is drawn: 230 MB of ImageNet
FIRST = 512  # in it when the first is drawn
IMAGES = ("jpg", "png", "webp")
META = re.compile(r"__[^/]*__($|/)")  # webdataset's own entries


@dataclass(frozen=True)
class Place:
    """Where in a shard a file lies that has not been read."""

    shard: str
    offset: int
    size: int

    def read(self) -> bytes:
        with open(self.shard, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


Parts = dict[str, bytes | Place | Exception]  # a sample's files by their endings; a reason under "unreadable"


class WebDataset(StreamedSource):
    """Samples of .jpg, .png or .webp, with a .cls (or timm's `alt_label` of a .json) where they have a class.

    timm's factory finds the shards. Its order of training is not taken: it ends a pass after number of samples /
    workers, so that of unequal shards some samples come again and others never, and cannot be entered in the middle.

    A pass over the data is dealt to the readers in shares of whole shards: each shard to one worker of one rank. A
    reader shuffles the shards of its share anew in each pass, and their samples by webdataset's buffer. From pass to
    pass it takes the next share, so that after as many passes as there are readers it has read everything once: then
    each sample has come equally often, however unequal the shards. Readers of smaller shares begin their next pass
    earlier.

    To enter at sample N, passes over shards of known length are reckoned and not read: known from timm's _info.json,
    or once they have been gone through. What then remains is gone through without reading the images of local .tar
    files, by their headers alone; shards on a server are read. What cannot be read keeps its place in the order:
    so do the samples that a torn shard no longer has, where _info.json tells their number.
    """

    def __init__(self, name: str, dataset: timm.data.IterableImageDataset) -> None:
        super().__init__()
        self.name = name
        reader = dataset.reader
        self.shards = [os.path.join(reader.root, shard) for shard in reader.split_info.filenames]
        self._label_key = reader.split_info.alt_label
        self._told = {  # numbers of samples, of any split
            os.path.join(reader.root, shard): length
            for split in reader.info.get("splits", {}).values()
            for shard, length in zip(split["filenames"], split["shard_lengths"], strict=True)
            if length > 0
        }
        self._lengths = dict(self._told)  # those that were counted, too

    @property
    def images(self) -> int | None:
        return sum(map(self._told.get, self.shards)) if self._told.keys() >= set(self.shards) else None

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        for read in chain.from_iterable(self._samples(shard) for shard in self.shards):
            try:
                yield read()
            except UnreadableImage:
                continue

    def endless(self, reader: int, readers: int, seed: int, start: int) -> Iterator[Read]:
        import webdataset  # not everybody has it

        dealt = _shuffled(self.shards, seed_of(seed, "shares"))
        for number in count():
            share = dealt[(reader + number) % readers :: readers]
            length = sum(self._lengths.get(shard, math.inf) for shard in share)
            if start >= length:
                start -= length
                continue
            order = _shuffled(share, seed_of(seed, "shards", number))
            chance = random.Random(seed_of(seed, "samples", reader, number))
            for sample in webdataset.shuffle(BUFFER, initial=FIRST, rng=chance)(self._chained(order, start)):
                if start:
                    start -= 1
                else:
                    yield sample

    def _chained(self, shards: list[str], skipped: int) -> Iterator[Read]:
        """The shards' samples; a shard within the first `skipped` is not read before its samples are."""
        position = 0
        for shard in shards:
            for sample in self._samples(shard, locate=position < skipped):
                yield sample
                position += 1

    def _samples(self, shard: str, locate: bool = False) -> Iterator[Read]:
        where = f"{self.name}: {os.path.basename(shard)}"
        found = (
            partial(self._decoded, f"{where}/{key}".rstrip("/"), {ending: data for _, ending, data in files})
            for key, files in groupby(_files(shard, locate), key=lambda file: file[0])
        )
        if shard in self._told:
            reason = ValueError(f"fewer than the {self._told[shard]} samples of _info.json")
            missing = partial(self._decoded, where, {"unreadable": reason})
            yield from islice(chain(found, repeat(missing)), self._told[shard])
            return
        length = 0
        for length, sample in enumerate(found, start=1):  # noqa: B007
            yield sample
        self._lengths[shard] = length

    def _decoded(self, name: str, parts: Parts) -> tuple[Image.Image, int]:
        with reading(name):
            if "unreadable" in parts:
                raise parts["unreadable"]
            image = next((parts[ending] for ending in IMAGES if ending in parts), None)
            if image is None:
                raise ValueError(f"no .{', .'.join(IMAGES)} among {', '.join(f'.{ending}' for ending in parts)}")
            if self._label_key:
                label = json.loads(_bytes(parts["json"]))[self._label_key]
            else:
                label = _bytes(parts["cls"]) if "cls" in parts else -1
            return read_rgb(io.BytesIO(_bytes(image))), int(label)


def _files(shard: str, locate: bool) -> Iterator[tuple[str, str, bytes | Place | Exception]]:
    """(key, ending, content) of a shard's files; last the reason, where it cannot be read to its end, or is empty."""
    empty = True
    try:
        for name, data in _members(shard, locate):
            key, dot, ending = os.path.basename(name).partition(".")
            if key and dot and not META.match(name):
                empty = False
                yield os.path.join(os.path.dirname(name), key), ending.lower(), data
        if empty:
            yield "", "unreadable", ValueError("no samples")
    except Exception as reason:  # of tarfile, of the file system, or of a server
        yield "", "unreadable", reason


def _members(shard: str, locate: bool) -> Iterator[tuple[str, bytes | Place]]:
    """Names and contents; of a local file that is not compressed their places alone, if so asked."""
    from webdataset.gopen import gopen

    local = shard.endswith(".tar") and os.path.isfile(shard)
    with gopen(shard) as stream, tarfile.open(fileobj=stream, mode="r:" if local else "r|*") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # it would keep them all
            if not member.isreg():
                continue
            if local and member.offset_data + member.size > os.path.getsize(shard):
                raise tarfile.ReadError("unexpected end of data")  # not found where it is not read
            if local and locate:
                yield member.name, Place(shard, member.offset_data, member.size)
            else:
                yield member.name, tar.extractfile(member).read()


def _bytes(data: bytes | Place) -> bytes:
    return data.read() if isinstance(data, Place) else data


def _shuffled(items: list[str], seed: int) -> list[str]:
    return random.Random(seed).sample(items, len(items))
