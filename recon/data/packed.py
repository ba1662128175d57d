"""A dataset in one Arrow file of shrunk images: `python -m recon.pack` writes it, `data=packed` reads it.

A row is an image: split, name, class, height, width, a checksum of the row, and raw 8-bit RGB pixels. The file is
memory-mapped by pyarrow: nothing is decoded, and a crop copies only its own pixels (docs/data.md has images/s beside
other formats). A file that is not whole does not open; a changed image is noticed when it is first read.
"""

import fcntl
import json
import mmap
import os
import zlib
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from losses import InvalidSetting
from recon.data.source import Source, UnreadableImage, one_line

if TYPE_CHECKING:
    import pyarrow

CHUNK = 64  # images that are written at a time: 6 MB at 160 pixels
PACK_AGAIN = "pack the data again: python -m recon.pack data=NAME data.root=PATH out=FILE"


class MappedImage(NamedTuple):
    """An RGB image in the memory map; `pixels` are its H*W*3 bytes."""

    pixels: memoryview
    width: int
    height: int

    def crop(self, box: tuple[int, int, int, int]) -> Image.Image:
        """A copy of the part within (left, top, right, bottom), which lies inside the image."""
        left, top, right, bottom = box
        stride = self.width * 3
        part = self.pixels[top * stride + left * 3 : (bottom - 1) * stride + right * 3]
        return Image.frombytes("RGB", (right - left, bottom - top), part, "raw", "RGB", stride, 1)


class Packed(Source):
    """One split of a packed file. Each process that reads it maps the file itself."""

    def __init__(self, split: str, root: str | Path | None, download: bool = False) -> None:
        if root is None:
            raise InvalidSetting("data=packed does not know which file to read: set data.root=FILE (recon.pack's)")
        self._path, self._split = Path(root).expanduser(), split
        table, about = open_table(self._path)
        super().__init__(about["classes"], tuple(about["mean"]), tuple(about["std"]))
        self.native, self.caveat = about["native"], about["caveat"]
        rows = np.flatnonzero(table["split"].to_numpy() == split)
        table = table.slice(rows[0] if len(rows) else 0, len(rows))
        self._names, self._pixels = table["name"], table["pixels"]
        numbers = [table[column].to_numpy() for column in ("label", "height", "width", "checksum")]
        self._numbers = np.stack(numbers, axis=1).astype(np.int64)  # (images, 4)
        self._verified = bytearray(len(rows))

    def __len__(self) -> int:
        return len(self._numbers)

    def croppable(self, index: int) -> tuple[MappedImage, int]:
        """The image, of which only what is cropped will be copied, and its class; raises InvalidSetting if damaged."""
        label, height, width, expected = self._numbers[index].tolist()
        image = MappedImage(memoryview(self._pixels[index].as_buffer()), width, height)
        if not self._verified[index]:
            if checksum(self._split, self._names[index].as_py(), label, height, width, image.pixels) != expected:
                name = self.name_of(index)
                raise InvalidSetting(f"{self._path} is damaged: the checksum of {name} differs; {PACK_AGAIN}")
            self._verified[index] = True
        return image, label

    def read(self, index: int) -> tuple[Image.Image, int]:
        image, label = self.croppable(index)
        return image.crop((0, 0, image.width, image.height)), label

    def label_of(self, index: int) -> int:
        return int(self._numbers[index, 0])

    def name_of(self, index: int) -> str:
        return self._names[index].as_py().decode(errors="backslashreplace")  # older files have any bytes

    def __reduce__(self) -> tuple[type, tuple[str, Path]]:
        return Packed, (self._split, self._path)  # a memory map cannot be sent to another process


def open_table(path: Path) -> tuple["pyarrow.Table", dict[str, Any]]:
    """Maps a packed file: its rows, and what `describe` said of them. Raises InvalidSetting if it is not whole."""
    import pyarrow as pa  # only packed data needs it

    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is a directory" if path.is_dir() else "it is no regular file")
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if mapped[:8] == b"RECONPAK":
            raise ValueError("it has the format of an older version")
        table = pa.ipc.open_file(pa.py_buffer(mapped)).read_all()
        table.validate(full=True)
        about = json.loads(table.schema.metadata[b"about"])
        if not table.schema.equals(schema(about), check_metadata=True):
            raise ValueError("its columns or their description are not what recon.pack wrote")
        if unknown := set(table["split"].unique().to_pylist()) - about["plan"]["images"].keys():
            raise ValueError(f"images of an unknown split {unknown}")
    except Exception as reason:  # a damaged file makes pyarrow raise nearly every kind
        raise InvalidSetting(f"{path} cannot be read as packed data: {one_line(reason)}; {PACK_AGAIN}") from reason
    return table, about


def schema(about: dict[str, Any]) -> "pyarrow.Schema":
    """The columns of a packed file, described by `about`."""
    import pyarrow as pa

    numbers = [(column, pa.int32()) for column in ("label", "height", "width")]
    columns = [("split", pa.string()), ("name", pa.binary()), *numbers]
    text = json.dumps(about)
    described = {"about": text, "checksum": str(zlib.crc32(text.encode()))}
    return pa.schema([*columns, ("checksum", pa.uint32()), ("pixels", pa.large_binary())], described)


def checksum(split: str, name: bytes, label: int, height: int, width: int, pixels: bytes | memoryview) -> int:
    """CRC-32 of everything else that a row holds."""
    return zlib.crc32(f"{split} {label} {height} {width} ".encode() + name, zlib.crc32(pixels))


def pack(
    sources: Mapping[str, Source], name: str, out: Path, size: int, workers: int = 0
) -> Generator[tuple[int, list[str]]]:
    """Writes the file `out`; yields, chunk by chunk, how many images were tried, and a line for each unreadable one.

    The images go to OUT.partial, which becomes `out` when the iterator is exhausted. An error, or closing the iterator
    before, removes it; after a kill the next call begins anew. Where `out` is finished already, nothing is yielded.
    The shorter side is shrunk to `size` pixels, except of native sources; `workers` threads read and resize.

    Raises:
        InvalidSetting: `out` is something else, or is being written; no image of a split can be read.
        OSError: the disk is full, or `out` cannot be written.
    """
    import pyarrow as pa

    columns = schema(describe(sources, name, size))
    unfinished = out.with_name(f"{out.name}.partial")
    with unfinished.open("ab") as file:  # "wb" would empty what another process writes
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise InvalidSetting(f"another process is packing: it writes {unfinished}") from None
        try:
            if out.exists():
                if not open_table(out)[0].schema.equals(columns, check_metadata=True):
                    raise InvalidSetting(f"{out} was packed from something else; give another name, or delete it")
                return
            file.truncate(0)
            with pa.ipc.new_file(file, columns) as writer, ThreadPoolExecutor(max(workers, 1)) as pool:
                for split, source in sources.items():
                    images, readable = len(source), 0
                    for first in range(0, images, CHUNK):
                        chunk = range(first, min(first + CHUNK, images))
                        made = list(pool.map(partial(make_row, source, split, size), chunk))
                        if rows := [row for row in made if not isinstance(row, str)]:
                            writer.write_batch(pa.record_batch(list(zip(*rows, strict=True)), schema=columns))
                        readable += len(rows)
                        yield len(chunk), [line for line in made if isinstance(line, str)]
                    if not readable:
                        raise InvalidSetting(f"none of the {images} images of '{split}' can be read")
            file.flush()
            os.fsync(file.fileno())  # a power cut must not leave the name without the content
            unfinished.rename(out)
        finally:
            unfinished.unlink(missing_ok=True)


def make_row(source: Source, split: str, size: int, index: int) -> tuple | str:
    """An image as a row, its shorter side at most `size` pixels; or why it cannot be read, in one line."""
    try:
        image, label = source.read(index)
    except UnreadableImage as error:
        return str(error)
    shorter = min(image.size)
    if not source.native and shorter > size:
        width, height = (side * size // shorter for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)  # antialiased
    row = split, source.name_of(index).encode(), label, image.height, image.width
    pixels = image.tobytes()
    return *row, checksum(*row, pixels), pixels


def describe(sources: Mapping[str, Source], name: str, size: int) -> dict[str, Any]:
    """What readers must know, and what tells one packing from another."""
    first, names = next(iter(sources.values())), blake2b(digest_size=16)
    for source in sources.values():
        for i in range(len(source)):
            names.update(f"{source.name_of(i)}\n".encode())
    images = {split: len(source) for split, source in sources.items()}
    plan = {"source": name, "size": size, "images": images, "names": names.hexdigest()}
    return {key: getattr(first, key) for key in ("classes", "mean", "std", "native", "caveat")} | {"plan": plan}
