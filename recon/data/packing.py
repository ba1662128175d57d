"""Writes packed files (recon/data/packed.py): in chunks, by several processes, so that a killed packing goes on.

Beside the file to be, OUT, stand OUT.partial, which becomes it, and OUT.journal: a line that says what is packed, then
a line for each chunk whose pixels are on the disk. What is not in the journal is cut off and done again, so the
finished file is the same to the bit, however often its making was interrupted.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from losses import InvalidSetting
from recon.data.packed import PIXELS, RECORD, VERSION, Index, preamble
from recon.data.shrinking import Chunk, shrunk_chunks
from recon.data.source import Source


def pack(sources: dict[str, Source], name: str, out: Path, size: int, workers: int) -> Iterator[Chunk]:
    """Writes `out`; yields each chunk once it is safely on the disk, those of an interrupted packing first.

    Whoever stops iterating leaves OUT.partial and OUT.journal behind, from which the same call goes on. `out` is
    there when the iterator is exhausted; where it was complete before, nothing is yielded.

    Args:
        sources: by split; they share classes, mean and std.
        name: of the dataset.
        size: pixels of the shorter side; smaller images, and those of native sources, are stored as they are.
        workers: processes that read and resize; 0: this one.

    Raises:
        InvalidSetting: `out` is something else, or there is an interrupted packing of something else; no image of a
            split can be read.
        OSError: the disk is full, or `out` cannot be written.
    """
    plan = plan_of(sources, name, size)
    partial, journal = (out.with_name(f"{out.name}.{ending}") for ending in ("partial", "journal"))
    if out.exists():
        if Index.of(out).about["plan"] != plan:
            raise InvalidSetting(f"{out} was packed from something else; give another name, or delete it")
        journal.unlink(missing_ok=True)  # the packing was killed right before this
        return
    with opened(journal) as log, opened(partial) as file:
        lock(file, partial)
        chunks, pixels, told = 0, PIXELS, begin(log, journal, plan)
        for chunk, line in chunks_of(journal):
            if pixels + chunk.size > os.fstat(file.fileno()).st_size:
                break
            chunks, pixels, told = chunks + 1, pixels + chunk.size, told + line
            yield chunk
        for each, end in ((file, pixels), (log, told)):
            each.truncate(end)
            each.seek(end)
        for chunk in shrunk_chunks(sources, size, workers, start=chunks):
            write(file, chunk.pixels.numpy())  # the journal may only tell of what a power cut would leave there
            write(log, line_of(chunk))
            yield chunk
        finish(file, journal, plan, sources)
        if out.exists():
            raise InvalidSetting(f"{out} was made by somebody else meanwhile; {partial} is left as it is")
        partial.rename(out)
        journal.unlink()


def plan_of(sources: dict[str, Source], name: str, size: int) -> dict[str, Any]:
    """What tells one packing from another."""
    names = blake2b(digest_size=16)
    for source in sources.values():
        for i in range(len(source)):
            names.update(in_bytes(source.name_of(i)) + b"\n")
    counts = {split: len(source) for split, source in sources.items()}
    return {"version": VERSION, "source": name, "size": size, "images": counts, "names": names.hexdigest()}


def opened(path: Path) -> BinaryIO:
    """For reading and writing, made if it is missing; without a buffer that would be lost with the process."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)


def lock(file: BinaryIO, path: Path) -> None:
    """Of this process alone, and gone with it: not flock, which workers would inherit and hold a while longer."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise InvalidSetting(f"another process is packing: it writes {path}") from None


def write(file: BinaryIO, content: bytes | np.ndarray) -> None:
    view = memoryview(content)
    while view:  # one call may write a part
        view = view[file.write(view) :]
    os.fsync(file.fileno())


def begin(log: BinaryIO, journal: Path, plan: dict[str, Any]) -> int:
    """Makes the plan the journal's first line, or finds it there; returns the line's length."""
    heading = json.dumps(plan).encode() + b"\n"
    found = log.read(len(heading))
    if found.endswith(b"\n") and found == heading:
        return len(heading)
    if b"\n" in found or (found and not heading.startswith(found)):
        raise InvalidSetting(f"{journal} is of a packing of something else; give another name, or delete it")
    log.truncate(0)
    log.seek(0)
    write(log, heading)
    return len(heading)


def line_of(chunk: Chunk) -> bytes:
    return json.dumps([chunk.split, chunk.images, chunk.unreadable]).encode() + b"\n"


def chunks_of(journal: Path) -> Iterator[tuple[Chunk, int]]:
    """What the journal tells of, without pixels, and how long each line is; a torn line is its end."""
    with journal.open("rb") as lines:
        next(lines)
        for line in lines:
            if not line.endswith(b"\n"):
                return
            yield Chunk(*json.loads(line)), len(line)


def finish(file: BinaryIO, journal: Path, plan: dict[str, Any], sources: dict[str, Source]) -> None:
    """Appends the index, then writes the preamble: from then on it is a packed file."""
    records, names, counts = [], [], dict.fromkeys(sources, 0)
    offset, name_end = PIXELS, 0
    for chunk, _ in chunks_of(journal):
        counts[chunk.split] += len(chunk.images)
        rows = []
        for name, label, height, width, crc in chunk.images:
            names.append(in_bytes(name))
            name_end += len(names[-1])
            rows.append((offset, name_end, height, width, label, crc))
            offset += height * width * 3
        records.append(np.array(rows, RECORD))
    for split, count in counts.items():
        if not count:
            raise InvalidSetting(f"none of the {len(sources[split])} images of '{split}' can be read")
    source = next(iter(sources.values()))
    firsts = accumulate(counts.values(), initial=0)
    about = {
        "plan": plan,
        "splits": {split: [first, count] for (split, count), first in zip(counts.items(), firsts, strict=False)},
        **{key: getattr(source, key) for key in ("classes", "mean", "std", "native", "caveat")},
    }
    parts = np.concatenate(records).tobytes(), b"".join(names), json.dumps(about).encode()
    index = b"".join(parts)
    write(file, index)
    file.seek(0)
    digest = blake2b(index, digest_size=32).digest()
    write(file, preamble(offset, sum(counts.values()), len(parts[1]), len(parts[2]), digest))


def in_bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")  # file names may be any bytes
