"""WebDataset shards: which process reads which, in an order that can be entered anywhere.

webdataset opens the shards and shuffles their samples, timm finds them. Their own orders of training are not taken:
webdataset's ends with the epoch of its loader, and timm's ends a pass after number of samples / workers, so that of
unequal shards some samples come again and others never; neither can be entered in the middle.
"""

import io
import json
import math
import os
import random
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, groupby, islice, repeat

import timm.data

from recon.config import seed_of
from recon.data.source import ReadSample, Sample, StreamedSource, UnreadableImage, as_unreadable, read_rgb

BUFFER = 2048  # samples of a reader, still encoded, out of which the next one is drawn: 230 MB of ImageNet
FIRST = 512  # in it when the first is drawn
IMAGES = ("jpg", "png", "webp")
META = re.compile(r"__[^/]*__($|/)")  # webdataset's own entries


@dataclass(frozen=True)
class FileRange:
    """Where in a shard a file lies that has not been read."""

    shard: str
    offset: int
    size: int

    def read(self) -> bytes:
        with open(self.shard, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


Content = bytes | FileRange | Exception  # the reason where a shard cannot be read further


class WebDataset(StreamedSource):
    """Samples of .jpg, .png or .webp, with a .cls (or timm's `alt_label` of a .json) where they have a class.

    A pass over the data is divided into a share of whole shards for each reader: a worker of a rank. A reader shuffles
    the shards of its share anew in each pass, and their samples by webdataset's buffer. From pass to pass it takes the
    next share, so that after as many passes as there are readers it has read everything once: then each sample has come
    equally often, however unequal the shards. Readers of smaller shares begin their next pass earlier.

    To enter at sample N, passes over shards of known length are counted and not read; a length is known from timm's
    _info.json, or once the shard was read. The rest is skipped without reading the images of local .tar files, by their
    headers alone; shards on a server are read. What cannot be read keeps its place in the order: so do the samples that
    a torn shard no longer has, where _info.json tells their number.
    """

    def __init__(self, name: str, dataset: timm.data.IterableImageDataset) -> None:
        super().__init__()
        self.name = name
        reader = dataset.reader
        self.shards = [os.path.join(reader.root, shard) for shard in reader.split_info.filenames]
        self._label_key = reader.split_info.alt_label
        self._listed = {  # numbers of samples in _info.json, of any split
            os.path.join(reader.root, shard): length
            for split in reader.info.get("splits", {}).values()
            for shard, length in zip(split["filenames"], split["shard_lengths"], strict=True)
            if length > 0
        }
        self._lengths = dict(self._listed)  # and those that were counted

    @property
    def images(self) -> int | None:
        return sum(map(self._listed.get, self.shards)) if self._listed.keys() >= set(self.shards) else None

    def __iter__(self) -> Iterator[Sample]:
        for read in chain.from_iterable(map(self._samples, self.shards)):
            try:
                yield read()
            except UnreadableImage:
                continue

    def training_samples(self, reader: int, readers: int, seed: int, start: int) -> Iterator[ReadSample]:
        import webdataset  # an optional package

        shuffled = _shuffled(self.shards, seed_of(seed, "shares"))
        for number in count():
            share = shuffled[(reader + number) % readers :: readers]
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

    def _chained(self, shards: list[str], skipped: int) -> Iterator[ReadSample]:
        """The shards' samples; the images of a shard within the first `skipped` are not read until they are decoded."""
        position = 0
        for shard in shards:
            for sample in self._samples(shard, locate=position < skipped):
                yield sample
                position += 1

    def _samples(self, shard: str, locate: bool = False) -> Iterator[ReadSample]:
        where = f"{self.name}: {os.path.basename(shard)}"
        samples = (
            partial(self._decode, f"{where}/{key}".rstrip("/"), {ending: content for _, ending, content in files})
            for key, files in groupby(_files(shard, locate), key=lambda file: file[0])
        )
        if shard in self._listed:
            reason = ValueError(f"fewer than the {self._listed[shard]} samples of _info.json")
            missing = partial(self._decode, where, {"": reason})
            yield from islice(chain(samples, repeat(missing)), self._listed[shard])
            return
        length = 0
        for length, sample in enumerate(samples, start=1):  # noqa: B007
            yield sample
        self._lengths[shard] = length

    def _decode(self, name: str, files: dict[str, Content]) -> Sample:
        """A sample of its files by their endings."""
        with as_unreadable(name):
            image = next((files[ending] for ending in (*IMAGES, "") if ending in files), None)
            if image is None:
                raise ValueError(f"no .{', .'.join(IMAGES)} among {', '.join(f'.{ending}' for ending in files)}")
            if self._label_key:
                label = json.loads(_bytes(files["json"]))[self._label_key]
            else:
                label = _bytes(files["cls"]) if "cls" in files else -1
            return read_rgb(io.BytesIO(_bytes(image))), int(label)


def _files(shard: str, locate: bool) -> Iterator[tuple[str, str, Content]]:
    """(key, ending, content) of a shard's files; with the ending "" why it is empty or cannot be read to its end.

    Args:
        locate: of a local file that is not compressed, tell where the contents are instead of reading them.
    """
    from webdataset.gopen import gopen

    local, empty = shard.endswith(".tar") and os.path.isfile(shard), True
    try:
        with gopen(shard) as stream, tarfile.open(fileobj=stream, mode="r:" if local else "r|*") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # it would keep them all
                folder, name = os.path.split(member.name)
                key, dot, ending = name.partition(".")
                if not (member.isreg() and key and dot) or META.match(member.name):
                    continue
                if local and member.offset_data + member.size > os.path.getsize(shard):
                    raise tarfile.ReadError("unexpected end of data")  # not found where it is not read
                place = FileRange(shard, member.offset_data, member.size)
                content = place if local and locate else tar.extractfile(member).read()
                yield os.path.join(folder, key), ending.lower(), content
                empty = False
        if empty:
            raise ValueError("no samples")
    except Exception as reason:  # of tarfile, of the file system, or of a server
        yield "", "", reason


def _bytes(content: Content) -> bytes:
    if isinstance(content, Exception):
        raise content
    return content.read() if isinstance(content, FileRange) else content


def _shuffled(items: list[str], seed: int) -> list[str]:
    return random.Random(seed).sample(items, len(items))
