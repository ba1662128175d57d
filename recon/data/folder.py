"""Images in a folder, with or without classes."""

import os
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from losses import InvalidSetting
from recon.data.source import Sample, Source, as_unreadable, read_rgb

HELD_OUT_NAMES = ("val", "validation", "test")
HELD_OUT_EVERY = 20  # without such a subfolder, every 20th image is held out


class ImageFolder(Source):
    """Image files below a folder; an image's name is its path from there, "cat/1.jpg"."""

    def __init__(self, folder: Path, files: list[str], classes: list[str]) -> None:
        super().__init__(classes=classes)
        self._folder = folder
        self._files = files
        self._labels = labels_of(files, classes, folder)

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> Sample:
        path = self._folder / self._files[index]
        with as_unreadable(path):
            return read_rgb(path), self._labels[index]

    def name_of(self, index: int) -> str:
        return self._files[index]

    def label_of(self, index: int) -> int:
        return self._labels[index]

    def content(self, index: int) -> bytes:
        with as_unreadable(self._folder / self._files[index]):
            return (self._folder / self._files[index]).read_bytes()


def image_folder(split: str, root: str | Path | None, download: bool = False) -> ImageFolder:
    """One split of any folder of images; there is nothing to download.

    With subfolders train/ and val/ (or validation/, test/) these are the splits; otherwise every 20th file of
    the sorted list is held out as "val". The subfolders of the training images are the classes, if there are two
    or more and no image lies beside them; otherwise images are found at any depth and have no class.
    """
    if root is None:
        raise InvalidSetting("data=folder does not know which folder to read: set data.root=PATH")
    root = Path(root).expanduser()
    if not root.is_dir():
        raise InvalidSetting(f"data.root={root} is {'a file, not a folder' if root.exists() else 'missing'}")
    splits = split_folders(root)
    if splits:
        return open_split(splits, split)
    held_out = split == "val"
    files = [file for i, file in enumerate(images_below(root)) if (i % HELD_OUT_EVERY == 0) == held_out]
    if not files:
        raise InvalidSetting(f"data.root={root} holds one image, which is held out; training needs more")
    return ImageFolder(root, files, classes_of(root))


def split_folders(root: Path) -> dict[str, Path] | None:
    """The folders of "train" and "val", where `root` has both."""
    train = root / "train"
    val = next((root / name for name in HELD_OUT_NAMES if (root / name).is_dir()), None)
    return {"train": train, "val": val} if train.is_dir() and val else None


def open_split(splits: dict[str, Path], split: str) -> ImageFolder:
    """One of two split folders, with the classes of the training images."""
    return ImageFolder(splits[split], images_below(splits[split]), classes_of(splits["train"]))


def images_below(folder: Path) -> list[str]:
    """Sorted paths, from `folder`, of the images at any depth; hidden files and folders are skipped."""
    found = []
    for place, subfolders, files in os.walk(folder, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        below = Path(place).relative_to(folder).as_posix()  # once per subfolder: ImageNet has a million files
        found += [name if below == "." else f"{below}/{name}" for name in files if is_image(name)]
    if not found:
        raise InvalidSetting(f"no images in {folder} (files named *{', *'.join(IMG_EXTENSIONS)})")
    return sorted(found)


def classes_of(folder: Path) -> list[str]:
    """Sorted names of the subfolders, if these are classes: two or more, and no image beside them."""
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    subfolders = sorted(entry.name for entry in entries if entry.is_dir())
    beside = any(is_image(entry.name) for entry in entries if entry.is_file())
    return subfolders if len(subfolders) > 1 and not beside else []


def labels_of(files: list[str], classes: list[str], folder: Path) -> list[int]:
    """Each file's class, by the first folder of its path; -1 where there are no classes."""
    if not classes:
        return [-1] * len(files)
    label = {name: number for number, name in enumerate(classes)}
    for file in files:
        if file.split("/")[0] not in label:
            raise InvalidSetting(f"{folder / file} is in none of the {len(classes)} classes of the training images")
    return [label[file.split("/")[0]] for file in files]


def is_image(name: str) -> bool:
    return name.lower().endswith(IMG_EXTENSIONS) and not name.startswith(".")
