"""Images in a folder, with or without classes."""

import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from losses import InvalidSetting
from recon.data.source import ENDINGS, Sample, Source, as_unreadable, printable, read_rgb

# Names of the folders of a split, in any case; of several the first counts.
SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test", "testing")}
HELD_OUT_EVERY = 20  # without such folders, every 20th image is held out
SYSTEM_FOLDERS = ("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found")


class ImageFolder(Source):
    """Image files below a folder; an image's name is its path from there, "cat/1.jpg".

    Args:
        files: the images' paths from `folder`.
        classes: folders, each the class of the images in it; others have no class.
        notes: see `Source`.
    """

    def __init__(self, folder: Path, files: list[str], classes: list[str], notes: list[str]) -> None:
        super().__init__(classes=map(printable, classes))
        self._folder = folder
        self._files = files
        number = {name: number for number, name in enumerate(classes)}
        self._labels = [number.get(file.partition("/")[0], -1) for file in files]
        self.notes = notes
        outside = [file for file, label in zip(files, self._labels, strict=True) if label < 0]
        if classes and outside:
            where = printable(str(folder))
            found = f"in none of the {len(classes)} classes of the training images, in {where}: {listed(outside)}"
            self.notes.append(found)

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> Sample:
        path = self._folder / self._files[index]
        with as_unreadable(path):
            return read_rgb(path), self._labels[index]

    def name_of(self, index: int) -> str:
        return printable(self._files[index])

    def label_of(self, index: int) -> int:
        return self._labels[index]

    def content(self, index: int) -> bytes:
        with as_unreadable(self._folder / self._files[index]):
            return (self._folder / self._files[index]).read_bytes()


def image_folder(split: str, root: str | Path | None, download: bool = False) -> ImageFolder:
    """One split of any folder of images; there is nothing to download.

    Subfolders called like splits (train/ and val/, valid/, validation/ or test/) are these; a val/ beside class folders
    is held out too. Otherwise every 20th file of the sorted list is held out as "val", of the images in train/ where
    that is all that `root` holds. The subfolders of the training images that hold images are the classes, if there are
    two or more and fewer images lie beside them than there are classes: these are left out. Otherwise images are found
    at any depth and have no class.
    """
    if root is None:
        raise InvalidSetting("data=folder does not know which folder to read: set data.root=PATH")
    root = Path(root).expanduser()
    if not root.is_dir():
        raise InvalidSetting(
            f"data.root={printable(str(root))} is {'a file, not a folder' if root.exists() else 'missing'}"
        )
    if not os.access(root, os.R_OK | os.X_OK):
        raise InvalidSetting(f"data.root={root} may not be read by this user")
    if splits := split_folders(root):
        return open_split(splits, split)
    held_out = _named_as(root, "val")
    if held_out and classes_of(root, held_out)[0]:
        return open_split({"train": root, "val": root / held_out[0]}, split, without=held_out)
    notes = []
    if lone := lone_training_folder(root):
        notes = [f"no folder of held-out images in {printable(str(root))}: every {HELD_OUT_EVERY}th image is held out"]
        root = lone
    classes, strays, others = classes_of(root)
    notes += others
    files, others = images_below(root, strays)
    files = [file for i, file in enumerate(files) if (i % HELD_OUT_EVERY == 0) == (split == "val")]
    if not files:
        raise InvalidSetting(f"data.root={root} holds one image, which is held out; training needs more")
    return ImageFolder(root, files, classes, notes + others)


def split_folders(root: Path) -> dict[str, Path] | None:
    """The folders of "train" and "val", where `root` has both."""
    named = {split: _named_as(root, split) for split in SPLIT_FOLDERS}
    return {split: root / names[0] for split, names in named.items()} if all(named.values()) else None


def lone_training_folder(root: Path) -> Path | None:
    """`root`/train, where all images of `root` are in it."""
    names = _named_as(root, "train")
    return root / names[0] if names and not any(map(is_image, walk(root, names[:1]))) else None


def open_split(splits: dict[str, Path], split: str, without: Collection[str] = ()) -> ImageFolder:
    """One of two split folders, with the classes of the training images; these are not in the folders `without`."""
    classes, strays, notes = classes_of(splits["train"], without)
    files, others = images_below(splits[split], {*strays, *without} if split == "train" else ())
    if split == "val":
        return ImageFolder(splits[split], files, classes, others)
    root = splits["val"].parent
    third = {name for each in SPLIT_FOLDERS for name in _named_as(root, each)} - {path.name for path in splits.values()}
    notes += [f"not used: {printable(f'{root / name}/')}" for name in sorted(third)]
    return ImageFolder(splits[split], files, classes, notes + others)


def images_below(folder: Path, without: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """Sorted paths, from `folder`, of the images at any depth, without those in `without`; a note on other files."""
    images, others = [], Counter()
    for path in walk(folder, without):
        if is_image(path):
            images.append(path)
        else:
            ending = os.path.splitext(path)[1].lower() or "without an ending"
            others["folders that may not be read" if path.endswith("/") else ending] += 1
    shown = printable(str(folder))
    if not images:
        raise InvalidSetting(f"no images in {shown} (files named *.{', *.'.join(ENDINGS)})")
    counts = ", ".join(f"{count:,} {printable(ending)}" for ending, count in others.most_common(9))
    return sorted(images), [f"passed over in {shown}, since not images: {counts}"] if others else []


def walk(folder: Path, without: Collection[str] = ()) -> Iterator[str]:
    """Paths, from `folder`, of the regular files at any depth, and of folders that may not be read, with a last "/".

    Hidden and system folders and files are skipped, and what is directly in `folder` and named in `without`. A folder
    is entered once and an image comes once, however many links lead there, under its own path rather than a link's.
    """

    def is_new(path: str, place: tuple[int, int]) -> bool:
        if not is_image(path):
            return True  # a link to it may be called like an image
        known = len(seen)
        seen.add(place)
        return len(seen) > known

    folders: list[str] = [""]
    seen: set[tuple[int, int]] = set()
    while folders:
        links: list[str] = []
        for below in folders:  # which grows
            try:
                place = _place(os.stat(folder / below))
                entries = sorted(os.scandir(folder / below), key=lambda entry: entry.name)
            except OSError:
                yield below
                continue
            if place in seen:
                continue
            seen.add(place)
            for entry in entries:
                path = below + entry.name
                if is_hidden(entry.name) or path in without:
                    continue
                if entry.is_symlink():
                    links.append(path)
                elif entry.is_dir():
                    folders.append(f"{path}/")
                elif entry.is_file() and is_new(path, (place[0], entry.inode())):
                    yield path
        folders = []
        for path in links:
            try:
                target = os.stat(folder / path)
            except OSError:  # it leads nowhere
                continue
            if S_ISDIR(target.st_mode):
                folders.append(f"{path}/")
            elif S_ISREG(target.st_mode) and is_new(path, _place(target)):
                yield path


def classes_of(folder: Path, without: Collection[str] = ()) -> tuple[list[str], list[str], list[str]]:
    """Sorted names of the subfolders with images, if these are classes; the images beside them; a note on these.

    They are classes if there are two or more, and more than images beside them. Otherwise all three are empty, except
    for the note.
    """
    found, beside = {_place(folder.stat()): ""}, []  # a link to the folder itself is no class
    for entry in sorted(os.scandir(folder), key=lambda entry: (entry.is_symlink(), entry.name)):
        if is_hidden(entry.name) or entry.name in without:
            continue
        if entry.is_dir():
            if any(map(is_image, walk(Path(entry.path)))):
                found.setdefault(_place(entry.stat()), entry.name)
        elif entry.is_file() and is_image(entry.name):
            beside.append(entry.name)
    classes = sorted(filter(None, found.values()))
    if len(classes) < 2 or not beside:
        return (classes if len(classes) > 1 else []), [], []
    where = f"beside the folders {listed(classes)} of {printable(str(folder))}: {listed(beside)}"
    if len(beside) < len(classes):
        return classes, beside, [f"left out, since {where}"]
    return [], [], [f"no classes, since images lie {where}"]


def _place(status: os.stat_result) -> tuple[int, int]:
    """What is the same for all names of a file or folder."""
    return status.st_dev, status.st_ino


def _named_as(root: Path, split: str) -> list[str]:
    """The subfolders of `root` that are called like the split, the usual name first."""
    found = {name.lower(): name for name in sorted(os.listdir(root)) if (root / name).is_dir()} if root.is_dir() else {}
    return [found[name] for name in SPLIT_FOLDERS[split] if name in found]


def listed(names: list[str]) -> str:
    """The first names, and how many there are if these are more."""
    return ", ".join(map(printable, names[:3])) + (f", ... ({len(names):,})" if len(names) > 3 else "")


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def is_image(path: str) -> bool:
    return path.rpartition(".")[2].lower() in ENDINGS
