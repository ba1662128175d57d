"""A dataset as one file of shrunk images, read by memory map: no decoding, and a crop reads its own rows alone.

`python -m recon.pack` writes it (recon/data/packing.py). Little-endian throughout:

    preamble    magic, version, how long each part is, checksums of the preamble and of the index
    pixels      from byte 4096: image after image, row after row, 8-bit RGB, nothing between them
    index       one RECORD per image, the names in UTF-8 one after the other, and a JSON object: source, splits,
                classes, mean, std, native, caveat, the plan it was packed by

The file's length and the checksums of preamble and index are verified when it is opened, an image's CRC-32 when a
process reads it for the first time (0.03 ms for 160 x 213 pixels).
"""

import json
import mmap
import struct
import zlib
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from losses import InvalidSetting
from recon.data.source import Source

MAGIC = b"RECONPAK"
VERSION = 1
PIXELS = 4096  # where they begin
PREAMBLE = struct.Struct("<8sIQQQQ32s")  # magic, version, index's place, images, bytes of names and JSON, blake2b
SEAL = 16  # bytes of the preamble's own blake2b, right behind it
RECORD = np.dtype(
    [("offset", "<u8"), ("name_end", "<u8"), ("height", "<u4"), ("width", "<u4"), ("label", "<i4"), ("crc", "<u4")]
)
AGAIN = "pack it again: python -m recon.pack"


class Packed(Source):
    """One split of a packed file. Every process that reads maps the file itself."""

    def __init__(self, path: Path, split: str) -> None:
        self._path, self._split = path, split
        self._open()

    def _open(self) -> None:
        index = Index.of(self._path)
        about = index.about
        super().__init__(about["classes"], tuple(about["mean"]), tuple(about["std"]))
        self.native, self.caveat = about["native"], about["caveat"]
        self._first, self._images = about["splits"][self._split]
        self._index = index
        self._verified = bytearray(self._images)

    def __len__(self) -> int:
        return self._images

    def uncut(self, index: int) -> tuple["Stored", int]:
        """The image, of which only what is cut out will be copied, and its class.

        Raises:
            InvalidSetting: its bytes are not those that were packed.
        """
        record = self._index.records[self._first + index]
        offset, height, width = int(record["offset"]), int(record["height"]), int(record["width"])
        stored = Stored(self._index.whole[offset : offset + height * width * 3], width, height)
        if not self._verified[index]:
            if zlib.crc32(stored.rows) != record["crc"]:
                raise InvalidSetting(f"{self._path} is damaged: the checksum of {self.name_of(index)} differs; {AGAIN}")
            self._verified[index] = 1
        return stored, int(record["label"])

    def read(self, index: int) -> tuple[Image.Image, int]:
        stored, label = self.uncut(index)
        return stored.crop((0, 0, stored.width, stored.height)), label

    def label_of(self, index: int) -> int:
        return int(self._index.records["label"][self._first + index])

    def name_of(self, index: int) -> str:
        return self._index.name(self._first + index)

    def __getstate__(self) -> tuple[Path, str]:
        return self._path, self._split  # a map does not travel between processes

    def __setstate__(self, state: tuple[Path, str]) -> None:
        self._path, self._split = state
        self._open()


@dataclass(frozen=True)
class Stored:
    """An image in the memory map: its rows (H*W*3 bytes)."""

    rows: memoryview
    width: int
    height: int

    def crop(self, box: tuple[int, int, int, int]) -> Image.Image:
        """The part within (left, top, right, bottom), which lies inside the image, as a copy."""
        left, top, right, bottom = box
        stride = self.width * 3
        part = self.rows[top * stride + left * 3 : (bottom - 1) * stride + right * 3]
        return Image.frombytes("RGB", (right - left, bottom - top), part, "raw", "RGB", stride, 1)


@dataclass(frozen=True)
class Index:
    """What a packed file says of itself, and its bytes."""

    whole: memoryview
    records: np.ndarray  # (images,) of RECORD
    names: memoryview
    about: dict[str, Any]

    @classmethod
    def of(cls, path: Path) -> Self:
        """Maps a packed file, and verifies all but its pixels.

        Raises:
            InvalidSetting: it is missing, no packed file, of another version, cut short, or damaged.
        """
        try:
            with path.open("rb") as file:
                whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except ValueError:  # an empty file cannot be mapped
            raise InvalidSetting(f"{path} is empty; {AGAIN}") from None
        except OSError as reason:
            raise InvalidSetting(f"{path} cannot be opened as a packed file: {reason.strerror}") from reason
        if whole[: len(MAGIC)] != MAGIC:
            raise InvalidSetting(f"{path} is not a packed file, or not finished; python -m recon.pack makes one")
        if len(whole) < PIXELS:
            raise InvalidSetting(f"{path} is cut short, to {len(whole)} bytes; {AGAIN}")
        _, version, place, images, names, about, digest = PREAMBLE.unpack(whole[: PREAMBLE.size])
        if version != VERSION:
            raise InvalidSetting(f"{path} is a packed file of version {version}, not {VERSION}; {AGAIN}")
        if seal(whole[: PREAMBLE.size]) != whole[PREAMBLE.size : PREAMBLE.size + SEAL]:
            raise InvalidSetting(f"{path} is damaged: the checksum of its preamble differs; {AGAIN}")
        length = place + images * RECORD.itemsize + names + about
        if len(whole) != length:
            raise InvalidSetting(f"{path} is cut short, or longer: {len(whole)} bytes instead of {length}; {AGAIN}")
        index = whole[place:]
        if blake2b(index, digest_size=32).digest() != digest:
            raise InvalidSetting(f"{path} is damaged: the checksum of its index differs; {AGAIN}")
        records = np.frombuffer(index, RECORD, images)
        rest = index[records.nbytes :]
        return cls(whole, records, rest[:names], json.loads(bytes(rest[names:])))

    def name(self, image: int) -> str:
        begin = int(self.records["name_end"][image - 1]) if image else 0
        name = bytes(self.names[begin : int(self.records["name_end"][image])])
        return name.decode("utf-8", "surrogateescape")  # file names may be any bytes


def packed(split: str, root: str | Path | None, download: bool = False) -> Packed:
    """One split of the packed file at `root`; there is nothing to download."""
    if root is None:
        raise InvalidSetting("data=packed does not know which file to read: set data.root=FILE (recon.pack makes one)")
    return Packed(Path(root).expanduser(), split)


def preamble(place: int, images: int, names: int, about: int, digest: bytes) -> bytes:
    """The first bytes of a finished file; what it takes is told at PREAMBLE."""
    fields = PREAMBLE.pack(MAGIC, VERSION, place, images, names, about, digest)
    return fields + seal(fields)


def seal(fields: bytes | memoryview) -> bytes:
    return blake2b(fields, digest_size=SEAL).digest()
