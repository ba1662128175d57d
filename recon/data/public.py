"""Published datasets, as torchvision, the Hugging Face hub and timm read and download them."""

import io
import os
import re
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path

import timm.data
from torchvision import datasets
from torchvision.datasets import VisionDataset

from losses import InvalidSetting
from recon.data.folder import ImageFolder, open_split, split_folders
from recon.data.shards import WebDataset
from recon.data.source import Sample, Source, Statistics, as_unreadable, one_line, read_rgb

SPLIT_NAMES = {"train": ("train",), "val": ("validation", "val", "test")}


class HuggingFace(Source):
    """A hub dataset with a column `image` and, for classes, a column `label`."""

    def __init__(self, name: str, dataset: timm.data.ImageDataset) -> None:
        super().__init__(classes=dataset.reader.class_to_idx)
        self._name = name
        self._rows = dataset.reader.dataset  # timm's own reading hides failures and insists on a label

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> Sample:
        with as_unreadable(self.name_of(index)):
            row = self._rows[index]
            encoded, label = row["image"], row.get("label")
            file = io.BytesIO(encoded["bytes"]) if encoded["bytes"] else encoded["path"]
            return read_rgb(file), -1 if label is None else int(label)

    def name_of(self, index: int) -> str:
        return f"{self._name}/{index}"


def hugging_face(name: str, split: str, root: str | Path | None) -> HuggingFace:
    """A dataset by its name on the hub, or a local folder of such a dataset; `root` is where downloads are kept."""
    require("datasets", f"hfds/{name}")
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


def webdataset(name: str, split: str, root: str | Path | None) -> WebDataset:
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


class Published(Source):
    """A torchvision dataset that is held in memory."""

    def __init__(self, name: str, dataset: VisionDataset, mean: Statistics, std: Statistics) -> None:
        super().__init__(getattr(dataset, "classes", ()), mean, std)
        self._name = name
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, index: int) -> Sample:
        return self._dataset[index]

    def label_of(self, index: int) -> int:
        labels = self._dataset.labels if isinstance(self._dataset, datasets.STL10) else self._dataset.targets
        return int(labels[index])

    def name_of(self, index: int) -> str:
        return f"{self._name}/{index}"


def cifar10(split: str, root: str | Path | None, download: bool) -> Published:
    dataset = open_or_download("cifar10", datasets.CIFAR10, root, download, train=split == "train")
    return Published(f"cifar10/{split}", dataset, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))


def cifar100(split: str, root: str | Path | None, download: bool) -> Published:
    dataset = open_or_download("cifar100", datasets.CIFAR100, root, download, train=split == "train")
    return Published(f"cifar100/{split}", dataset, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762))


def stl10(split: str, root: str | Path | None, download: bool) -> Published:
    """Training takes the unlabelled images too; their class is -1."""
    part = {"train": "train+unlabeled", "val": "test"}[split]
    dataset = open_or_download("stl10", datasets.STL10, root, download, split=part)
    return Published(f"stl10/{split}", dataset, mean=(0.4467, 0.4398, 0.4066), std=(0.2603, 0.2566, 0.2713))


def imagenette(split: str, root: str | Path | None, download: bool) -> ImageFolder:
    """Ten classes of ImageNet, at `root` or where torchvision unpacks them below it."""
    root = folder_or_default(root)
    unpacked = root / "imagenette2-320"
    if download and not (split_folders(root) or split_folders(unpacked)):
        download_dataset("imagenette", datasets.Imagenette, root, size="320px")
    splits = split_folders(root) or split_folders(unpacked)
    if not splits:
        raise InvalidSetting(
            f"imagenette is not at {root} (train/ and val/ with a folder per class): set data.root=PATH,"
            " or data.download=true to fetch it there"
        )
    return open_split(splits, split)


def imagenet(split: str, root: str | Path | None, download: bool) -> ImageFolder:
    """ImageNet-1k as everybody unpacks it; its licence allows no download."""
    root = folder_or_default(root)
    splits = split_folders(root)
    if not splits:
        raise InvalidSetting(
            f"imagenet is not at {root} and cannot be downloaded: get it from https://image-net.org,"
            " unpack it to train/<class>/*.JPEG and val/<class>/*.JPEG, and set data.root=PATH"
        )
    return open_split(splits, split)


def folder_or_default(root: str | Path | None) -> Path:
    return Path(root or "data").expanduser()


def open_or_download(
    name: str, kind: type[VisionDataset], root: str | Path | None, download: bool, **part
) -> VisionDataset:
    """The dataset at `root`, downloaded there first if it is missing and may be."""
    root = folder_or_default(root)
    try:
        return kind(root, **part)
    except RuntimeError as missing:
        if not download:
            raise InvalidSetting(
                f"{name} is not at {root}/{kind.base_folder}, or damaged: set data.root=PATH to where that folder is,"
                " or data.download=true to fetch it"
            ) from missing
    return download_dataset(name, kind, root, **part)


def download_dataset(name: str, kind: type[VisionDataset], root: Path, **part) -> VisionDataset:
    try:
        return kind(root, download=True, **part)
    except (OSError, RuntimeError, HTTPException) as reason:
        raise InvalidSetting(f"{name} could not be downloaded to {root}: {one_line(reason)}") from reason
