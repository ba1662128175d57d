"""What a dataset is to the rest of the program, and how a file becomes an RGB image."""

import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from PIL import Image, PngImagePlugin

from losses import InvalidSetting
from losses.reconstruction import IMAGENET_MEAN, IMAGENET_STD

Statistics = tuple[float, float, float]
Sample = tuple[Image.Image, int]  # an RGB image and its class, -1 where there is none
ReadSample = Callable[[], Sample]  # reads and decodes; raises UnreadableImage

# What a file of an image is called, in folders and in shards.
ENDINGS = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "avif", "gif", "bmp", "tif", "tiff", "jp2", "j2k")
ENDINGS += ("ppm", "pgm", "pbm", "pnm")
MAX_PIXELS = 89_478_485  # from here on Pillow warns of decompression bombs: 340 MiB as RGB
BITS_PER_SAMPLE, ORIENTATION = 258, 274  # tags of TIFF and EXIF
TURNED = {  # by the orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

PngImagePlugin.MAX_TEXT_CHUNK = (
    PngImagePlugin.MAX_TEXT_MEMORY
)  # a sound picture may have over 1 MB of text, or a profile
warnings.filterwarnings("ignore", module=r"PIL\.")  # of bombs, which are refused, and of damaged metadata


class UnreadableImage(Exception):
    """One image that cannot be opened or decoded; the message is one line that names it and the reason."""


class Croppable(Protocol):
    """A PIL image, or one whose pixels are only read when they are cropped."""

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    def crop(self, box: tuple[int, int, int, int]) -> Image.Image:
        """The RGB image within (left, top, right, bottom)."""
        ...


class _Described:
    """The classes (empty where there are none), and the pixels' mean and std in [0, 1], per channel.

    `native`: images are cropped at their own scale and never resized, because their statistics are known at that scale.
    `caveat`: what a reader must know of numbers measured on these images; one sentence.
    `notes`: what was found with the images and is not used, a line each, for the user.
    """

    native = False
    caveat: str | None = None

    def __init__(
        self, classes: Iterable[str] = (), mean: Statistics = IMAGENET_MEAN, std: Statistics = IMAGENET_STD
    ) -> None:
        self.classes = list(classes)
        self.mean = mean
        self.std = std
        self.notes: list[str] = []


class Source(_Described, ABC):
    """Images that can be read by index. `name`: dataset and split, where the images have no names of their own."""

    name: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Sample:
        """Raises UnreadableImage."""

    def croppable(self, index: int) -> tuple[Croppable, int]:
        """The same as `read`, for a caller that needs only a part of the image."""
        return self.read(index)

    def name_of(self, index: int) -> str:
        """The image's name within the dataset: the same on every machine, and different for every image."""
        return f"{self.name}/{index}"

    def label_of(self, index: int) -> int:
        """The image's class, -1 where there is none. Raises UnreadableImage where the class is in the image's file."""
        return self.read(index)[1]

    def content(self, index: int) -> bytes:
        """What a checksum is taken of: the image's file, or its pixels where it has none. Raises UnreadableImage."""
        return self.read(index)[0].tobytes()


class StreamedSource(_Described, ABC):
    """Images that are read one after the other, from shards that can be read in parallel."""

    name: str
    shards: Sequence[str]

    @property
    def images(self) -> int | None:
        """The number of samples in a pass, where it is known before they are read."""
        return None

    @abstractmethod
    def __iter__(self) -> Iterator[Sample]:
        """All samples that can be read, in one fixed order; every iteration begins at the first."""

    @abstractmethod
    def training_samples(self, reader: int, readers: int, seed: int, start: int) -> Iterator[ReadSample]:
        """What one of `readers` reads for training, shuffled, pass after pass, from its `start`-th sample on.

        All readers together read every sample once in a pass, and in the long run every sample equally often. The
        order depends on the arguments alone.
        """

    def check_readers(self, ranks: int, workers: int) -> None:
        """Raises InvalidSetting where there are fewer shards than workers of all ranks."""
        shards = len(self.shards)
        if shards >= ranks * max(1, workers):
            return
        processes = f"{ranks} process{'es' * (ranks != 1)}"
        few = f"{self.name} has {shards} shard{'s' * (shards != 1)}, fewer than the {processes}"
        remedy = f": start {shards} at most"
        if shards >= ranks:
            remedy = f" x {workers} workers: set data.workers={shards // ranks}"
        raise InvalidSetting(f"{few}{remedy}, or write the data into more shards")


def read_rgb(file: str | Path | BinaryIO) -> Image.Image:
    """Decode a file of any kind that PIL knows, in whichever colour mode, to 8-bit RGB.

    Values wider than 8 bits are scaled by their range, the orientation of the EXIF data is applied, and what is
    transparent is put on white.

    Raises:
        ValueError: more pixels than Pillow warns of, or values without a known range; what PIL raises otherwise.
    """
    with Image.open(file) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}; store it smaller")
        image.load()
        turned = TURNED.get(orientation_of(image))
        image = eight_bits(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB")
        return image if turned is None else image.transpose(turned)


def orientation_of(image: Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)  # PIL has turned a TIFF when it loaded it
    except Exception:  # damaged EXIF data raise nearly every kind; the pixels are sound
        return 1


def eight_bits(image: Image.Image) -> Image.Image:
    """Grey values of 16 or 32 bits scaled to 8, which convert() would clip; other images as they are."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):  # PIL scales a PPM to 16 bits
        bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))[0]
        values = np.asarray(image)
        grey = np.rint(values.clip(0, 2**bits - 1) * (255 / (2**bits - 1))).astype(np.uint8)
        return Image.fromarray(np.where(values == image.info.get("transparency"), np.uint8(255), grey))
    if image.mode in ("I", "F"):
        raise ValueError("its 32-bit values have no known range; store it with 8 or 16 bits")
    return image


@contextmanager
def as_unreadable(name: str | Path) -> Iterator[None]:
    """Raises any exception inside as UnreadableImage; decoders raise nearly every kind."""
    try:
        yield
    except Exception as reason:
        raise UnreadableImage(f"{printable(str(name))}: {one_line(reason)}") from reason


def one_line(reason: Exception) -> str:
    """An exception's message without its line breaks and control characters, or its kind where it has no message."""
    return UNPRINTABLE.sub(_escaped, " ".join(str(reason).split())) or type(reason).__name__


def printable(name: str) -> str:
    r"""A file's name as it is hashed, stored and printed: backslashes are doubled, and bytes that are not UTF-8 and
    control characters escaped ("caf\xe9.png", "two\nlines.png"), so that other names stay other names."""
    return UNPRINTABLE.sub(_escaped, name.replace("\\", "\\\\"))


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else found[0].encode("unicode_escape").decode()
