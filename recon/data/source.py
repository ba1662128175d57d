"""What a dataset is to the rest of the program, and how a file becomes an RGB image."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from PIL import Image

from losses import InvalidSetting
from losses.reconstruction import IMAGENET_MEAN, IMAGENET_STD

Statistics = tuple[float, float, float]
Sample = tuple[Image.Image, int]  # an RGB image and its class, -1 where there is none
ReadSample = Callable[[], Sample]  # reads and decodes; raises UnreadableImage


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
    """

    native = False
    caveat: str | None = None

    def __init__(
        self, classes: Iterable[str] = (), mean: Statistics = IMAGENET_MEAN, std: Statistics = IMAGENET_STD
    ) -> None:
        self.classes = list(classes)
        self.mean = mean
        self.std = std


class Source(_Described, ABC):
    """Images that can be read by index."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Sample:
        """Raises UnreadableImage."""

    def croppable(self, index: int) -> tuple[Croppable, int]:
        """The same as `read`, for a caller that needs only a part of the image."""
        return self.read(index)

    @abstractmethod
    def name_of(self, index: int) -> str:
        """The image's name within the dataset: the same on every machine, and different for every image."""

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
    """Decode a file of any kind that PIL knows, in whichever colour mode, to 8-bit RGB."""
    with Image.open(file) as image:
        if image.mode.startswith("I;16"):  # convert() would clip 16-bit grey to white
            image = image.convert("I").point(lambda value: value / 256).convert("L")
        if "transparency" in image.info:  # convert() would warn that it drops a palette's transparency
            image = image.convert("RGBA")
        return image.convert("RGB")


@contextmanager
def as_unreadable(name: str | Path) -> Iterator[None]:
    """Raises any exception inside as UnreadableImage; decoders raise nearly every kind."""
    try:
        yield
    except Exception as reason:
        raise UnreadableImage(f"{name}: {one_line(reason)}") from reason


def one_line(reason: Exception) -> str:
    """An exception's message without its line breaks, or its kind where it has no message."""
    return " ".join(str(reason).split()) or type(reason).__name__
