"""Published datasets: photographs that come with scikit-image, and what torchvision and timm read and download."""

import io
import os
import re
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import skimage.data
import timm.data
from PIL import Image
from torchvision import datasets

from losses import InvalidSetting
from recon.data.folder import ImageFolder, lone_training_folder, open_split, split_folders
from recon.data.shards import WebDataset
from recon.data.source import Sample, Source, as_unreadable, one_line, read_rgb

Root = str | Path | None
TRAIN_ALONE = "{0} at {1} lacks val/: get it, or hold out every 20th training image by data=folder data.root={1}"
SPLIT_NAMES = {"train": ("train",), "val": ("validation", "val", "test")}

PHOTOGRAPHS = ["astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg"]
PHOTOGRAPHS += ["ihc.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg"]
TILE = 96
STRIDE = 32
LARGEST = 512  # the shorter side that larger photographs are shrunk to, so that none dominates

# Of torchvision: the class that reads it, and the mean and std of its pixels.
TORCHVISION = {
    "cifar10": (datasets.CIFAR10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": (datasets.CIFAR100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "stl10": (datasets.STL10, (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)),
}
Downloadable = type[datasets.CIFAR10 | datasets.STL10 | datasets.Imagenette]


# ---- embedded photographs


class Photos(Source):
    """Overlapping square tiles of a few photographs, data for a first run; a tile's class is its photograph."""

    caveat = "These images are overlapping tiles of 8 photographs: intervals hold for these photographs alone."

    def __init__(self, split: str, root: Root = None, download: bool = False) -> None:
        super().__init__(classes=[Path(name).stem for name in PHOTOGRAPHS])
        folder = Path(skimage.data.__file__).parent
        self._split = split
        self._regions = [region(read_rgb(folder / name), split) for name in PHOTOGRAPHS]
        self._tiles = [(label, box) for label, image in enumerate(self._regions) for box in tile_boxes(*image.size)]

    def __len__(self) -> int:
        return len(self._tiles)

    def read(self, index: int) -> Sample:
        label, box = self._tiles[index]
        return self._regions[label].crop(box), label

    def label_of(self, index: int) -> int:
        return self._tiles[index][0]

    def name_of(self, index: int) -> str:
        label, (left, top, _, _) = self._tiles[index]
        return f"photos/{self.classes[label]}/{self._split} at {left},{top}"


def region(photograph: Image.Image, split: str) -> Image.Image:
    """The left three quarters of a photograph for "train", the rest for "val".

    Shrunk after the cut, so that no pixel of one region is mixed into the other.
    """
    width, height = photograph.size
    cut = width * 3 // 4
    part = photograph.crop({"train": (0, 0, cut, height), "val": (cut, 0, width, height)}[split])
    scale = min(1.0, LARGEST / min(width, height))
    return part.resize((round(part.width * scale), round(part.height * scale)), Image.Resampling.BICUBIC)


def tile_boxes(width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) of the tiles that cover a region."""
    return [(left, top, left + TILE, top + TILE) for top in offsets(height) for left in offsets(width)]


def offsets(length: int) -> list[int]:
    """Where tiles begin along one side: evenly spread, at most a stride apart, the last one ends at the border."""
    last = length - TILE
    steps = -(-last // STRIDE)
    return [step * last // max(steps, 1) for step in range(steps + 1)]


# ---- of torchvision


class Published(Source):
    """A torchvision dataset that is held in memory. Training on stl10 takes the unlabelled images too; class -1."""

    def __init__(self, name: str, split: str, root: Root, download: bool) -> None:
        kind, mean, std = TORCHVISION[name]
        train = split == "train"
        part = {"split": "train+unlabeled" if train else "test"} if name == "stl10" else {"train": train}
        root = Path(root or "data").expanduser()
        try:
            self._dataset = kind(root, **part)
        except RuntimeError as missing:
            if not download:
                raise InvalidSetting(
                    f"{name} is not at {root}/{kind.base_folder}, or damaged: set data.root=PATH to where that folder "
                    "is, or data.download=true to fetch it"
                ) from missing
            self._dataset = download_dataset(name, kind, root, **part)
        super().__init__(getattr(self._dataset, "classes", ()), mean, std)
        self._labels: Any = getattr(self._dataset, "labels" if name == "stl10" else "targets")
        self.name = f"{name}/{split}"

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, index: int) -> Sample:
        return self._dataset[index]

    def label_of(self, index: int) -> int:
        return int(self._labels[index])


def imagenette(split: str, root: Root, download: bool) -> ImageFolder:
    """Ten classes of ImageNet, at `root` or where torchvision unpacks them below it."""
    root = Path(root or "data").expanduser()
    places = root, root / "imagenette2-320"
    if download and not any(map(split_folders, places)):
        download_dataset("imagenette", datasets.Imagenette, root, size="320px")
    for place in places:
        if splits := split_folders(place):
            return open_split(splits, split)
    if place := next(filter(lone_training_folder, places), None):
        raise InvalidSetting(TRAIN_ALONE.format("imagenette", place))
    raise InvalidSetting(
        f"imagenette is not at {root} (train/ and val/ with a folder per class): set data.root=PATH,"
        " or data.download=true to fetch it there"
    )


def imagenet(split: str, root: Root, download: bool) -> ImageFolder:
    """ImageNet-1k as everybody unpacks it; its licence allows no download."""
    root = Path(root or "data").expanduser()
    splits = split_folders(root)
    if not splits and lone_training_folder(root):
        raise InvalidSetting(TRAIN_ALONE.format("imagenet", root))
    if not splits:
        raise InvalidSetting(
            f"imagenet is not at {root} and cannot be downloaded: get it from https://image-net.org,"
            " unpack it to train/<class>/*.JPEG and val/<class>/*.JPEG, and set data.root=PATH"
        )
    return open_split(splits, split)


def download_dataset(name: str, kind: Downloadable, root: Path, **part: Any) -> Any:
    try:
        return kind(root, download=True, **part)
    except (OSError, RuntimeError, HTTPException) as reason:
        raise InvalidSetting(f"{name} could not be downloaded to {root}: {one_line(reason)}") from reason


# ---- of timm: the Hugging Face hub, and WebDataset shards


class HuggingFace(Source):
    """A hub dataset with a column `image` and, for classes, a column `label`."""

    def __init__(self, name: str, dataset: Any) -> None:
        super().__init__(classes=dataset.reader.class_to_idx)
        self.name = name
        self._rows = dataset.reader.dataset  # timm's own reading hides failures and insists on a label

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> Sample:
        with as_unreadable(self.name_of(index)):
            row = self._rows[index]
            encoded, label = row["image"], row.get("label")
            file = io.BytesIO(encoded["bytes"]) if encoded["bytes"] else encoded["path"]
            return read_rgb(file), -1 if label is None else int(label)


def hugging_face(name: str, split: str, root: Root) -> HuggingFace:
    """A dataset by its name on the hub, or a local folder of such a dataset; `root` is where downloads are kept."""
    require("datasets", f"hfds/{name}")
    reason: Exception = ValueError()
    for part in SPLIT_NAMES[split]:
        try:
            dataset = timm.data.create_dataset(f"hfds/{name}", root=root and os.path.expanduser(root), split=part)
            return HuggingFace(f"hfds/{name}/{split}", dataset)
        except ValueError as unknown_split:
            reason = unknown_split
        except Exception as failure:  # the hub client raises errors of four libraries
            reason = failure
            break
    raise InvalidSetting(f"hfds/{name} could not be opened ({split}): {one_line(reason)}") from reason


def webdataset(name: str, split: str, root: Root) -> WebDataset:
    """The shards in the folder `name` of `root` ("data" by default), which may be the address of a server.

    Which shards belong to the split is told by their names (train-0001.tar; validation, val or test), or by
    timm's _info.json in that folder.
    """
    require("webdataset", f"wds/{name}")
    folder = os.path.expanduser(f"{root or 'data'}/{name}")  # not Path, which would spoil an address
    for part in SPLIT_NAMES[split]:
        local = sorted(shard.name for shard in Path(folder).glob("*.tar") if has_word(part, shard.name))
        try:
            dataset = timm.data.create_dataset(f"wds/{name}", root=folder, split="::".join(local) or part)
            return WebDataset(f"wds/{name}/{split}", dataset)
        except RuntimeError:  # no such shards, and no such entry in _info.json
            continue
    raise InvalidSetting(
        f"wds/{name} has no shards for '{split}' at {folder}:"
        f" name them {SPLIT_NAMES[split][0]}-*.tar or list them in _info.json, and set data.root=PATH"
    )


def has_word(word: str, text: str) -> bool:
    """Whether no letter touches the word: "train" is in x-train-01.tar, not in pretrained-val.tar."""
    return re.search(rf"(?<![a-z]){word}(?![a-z])", text.lower()) is not None


def require(package: str, name: str) -> None:
    if find_spec(package) is None:
        raise InvalidSetting(f"data={name} needs the package {package}: pip install 'recon[hub]'")
