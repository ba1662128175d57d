"""Datasets of the Hugging Face hub and WebDataset shards, through timm."""

import io
import os
import re
from importlib.util import find_spec
from pathlib import Path

import timm.data
from PIL import Image

from losses.errors import InvalidSetting
from recon.data.shards import WebDataset
from recon.data.source import Source, one_line, read_rgb, reading

SPLIT_NAMES = {"train": ("train",), "val": ("validation", "val", "test")}


class HuggingFace(Source):
    """A hub dataset with a column `image` and, for classes, a column `label`."""

    def __init__(self, name: str, dataset: timm.data.ImageDataset) -> None:
        super().__init__(classes=dataset.reader.class_to_idx)
        self._name = name
        self._rows = dataset.reader.dataset  # timm's own reading hides failures and insists on a label

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> tuple[Image.Image, int]:
        with reading(self.name_of(index)):
            row = self._rows[index]
            encoded, label = row["image"], row.get("label")
            file = io.BytesIO(encoded["bytes"]) if encoded["bytes"] else encoded["path"]
            return read_rgb(file), -1 if label is None else int(label)

    def name_of(self, index: int) -> str:
        return f"{self._name}/{index}"


def hugging_face(name: str, split: str, root: str | Path | None) -> HuggingFace:
    """A dataset by its name on the hub, or a local folder of such a dataset; `root` is where downloads are kept."""
    need("datasets", f"hfds/{name}")
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
    need("webdataset", f"wds/{name}")
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


def need(package: str, name: str) -> None:
    if find_spec(package) is None:
        raise InvalidSetting(f"data={name} needs the package {package}: pip install 'recon[hub]'")
