"""WebDataset shards: which process reads which, in an order that can be entered anywhere.

webdataset opens the shards and shuffles their samples, timm finds them. Their own orders of training cannot be entered
in the middle, and of unequal shards timm's shows some samples again and others never.
"""

import io
import json
import math
import os
import random
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, count, groupby, islice, repeat
from typing import Any, cast

from recon.config import seed_of
from recon.data.source import ENDINGS, ReadSample, Sample, StreamedSource, UnreadableImage, as_unreadable, read_rgb

BUFFER = 2048  # samples of a reader, still encoded, out of which the next one is drawn: 230 MB of ImageNet
FIRST = 512  # in it when the first is drawn
META = re.compile(r"__[^/]*__($|/)")  # webdataset's own entries

ReadFile = Callable[[], bytes]  # raises the reason where a shard cannot be read further


class WebDataset(StreamedSource):
    """Samples of an image with one of `ENDINGS`, and a .cls (or timm's `alt_label` of a .json) where they have a class.

    In a pass each reader (a worker of a rank) has a share of whole shards, which it shuffles anew, and their samples by
    webdataset's buffer. In the next pass it takes the next share: after as many passes as readers each sample has come
    equally often, however unequal the shards. Readers of smaller shares begin their next pass earlier.

    To enter at sample N, passes over shards of known length (from timm's _info.json, or once read) are counted; the
    rest is skipped by the headers of local .tar files, while shards on a server are read. What cannot be read keeps its
    place in the order: so do the samples that a torn shard no longer has, where _info.json tells their number.
    """

    def __init__(self, name: str, dataset: Any) -> None:
        """`dataset` is timm's."""
        super().__init__()
        self.name = name
        reader = dataset.reader
        self.shards = [os.path.join(reader.root, shard) for shard in reader.split_info.filenames]
        self._label_key = reader.split_info.alt_label
        self._listed: dict[str, int] = {  # numbers of samples in _info.json, of any split
            os.path.join(reader.root, shard): length
            for split in reader.info.get("splits", {}).values()
            for shard, length in zip(split["filenames"], split["shard_lengths"], strict=True)
            if length > 0
        }
        self._lengths = dict(self._listed)  # and those that were counted

    @property
    def images(self) -> int | None:
        listed = [self._listed.get(shard, 0) for shard in self.shards]
        return sum(listed) if all(listed) else None

    def __iter__(self) -> Iterator[Sample]:
        for read in chain.from_iterable(map(self._samples, self.shards)):
            try:
                yield read()
            except UnreadableImage:
                continue

    def training_samples(self, reader: int, readers: int, seed: int, start: int) -> Iterator[ReadSample]:
        from webdataset.filters import shuffle  # of an optional package

        shards = _shuffled(self.shards, seed_of(seed, "shares"))
        for number in count():
            share = shards[(reader + number) % readers :: readers]
            length = sum(self._lengths.get(shard, math.inf) for shard in share)
            if start >= length:
                start -= int(length)
                continue
            order = _shuffled(share, seed_of(seed, "shards", number))
            chance = random.Random(seed_of(seed, "samples", reader, number))
            # only headers are read of shards that are opened before the entrance
            samples = (sample for shard in order for sample in self._samples(shard, locate=start > 0))
            for sample in shuffle(BUFFER, initial=FIRST, rng=chance)(samples):
                if start:
                    start -= 1
                else:
                    yield sample

    def _samples(self, shard: str, locate: bool = False) -> Iterator[ReadSample]:
        where = f"{self.name}: {os.path.basename(shard)}"
        samples = (
            partial(self._decode, f"{where}/{key}".rstrip("/"), {ending: read for _, ending, read in files})
            for key, files in groupby(_files(shard, locate), key=lambda file: file[0])
        )
        if shard in self._listed:
            reason = ValueError(f"fewer than the {self._listed[shard]} samples of _info.json")
            missing = partial(self._decode, where, {"": partial(_fail, reason)})
            yield from islice(chain(samples, repeat(missing)), self._listed[shard])
            return
        length = 0
        for length, sample in enumerate(samples, start=1):  # noqa: B007
            yield sample
        self._lengths[shard] = length

    def _decode(self, name: str, files: dict[str, ReadFile]) -> Sample:
        """A sample of its files by their endings."""
        with as_unreadable(name):
            image = next((files[ending] for ending in (*ENDINGS, "") if ending in files), None)
            if image is None:
                raise ValueError(f"no image (.{', .'.join(ENDINGS)}) among .{', .'.join(files)}")
            if self._label_key:
                label = json.loads(files["json"]())[self._label_key]
            else:
                label = files["cls"]() if "cls" in files else -1
            return read_rgb(io.BytesIO(image())), int(label)


def _files(shard: str, locate: bool) -> Iterator[tuple[str, str, ReadFile]]:
    """(key, ending, how to read it) of a shard's files; with the ending "" why it cannot be read (to its end).

    Args:
        locate: read the files of a local .tar not now, but when they are asked for.
    """
    from webdataset.gopen import gopen
    from webdataset.tariterators import base_plus_ext

    local, empty = shard.endswith(".tar") and os.path.isfile(shard), True
    try:
        if os.path.exists(shard) and not os.path.isfile(shard):
            raise ValueError("it is no regular file")  # opening a FIFO would wait for a writer
        with gopen(shard) as stream, cast(Any, tarfile.open)(fileobj=stream, mode="r:" if local else "r|*") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # it would keep them all
                key, ending = base_plus_ext(member.name)
                if not (key and ending and member.isreg()) or META.match(member.name):
                    continue
                start, size = member.offset_data, member.size
                if local and start + size > os.path.getsize(shard):
                    raise tarfile.ReadError("unexpected end of data")  # not found where it is not read
                read = partial(_read_part, shard, start, size)
                yield key, ending.lower(), read if local and locate else partial(bytes, tar.extractfile(member).read())
                empty = False
        if empty:
            raise ValueError("no samples")
    except Exception as reason:  # of tarfile, of the file system, or of a server
        yield "", "", partial(_fail, reason)


def _read_part(path: str, offset: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


def _fail(reason: Exception) -> bytes:
    raise reason


def _shuffled(items: Sequence[str], seed: int) -> list[str]:
    return random.Random(seed).sample(items, len(items))
