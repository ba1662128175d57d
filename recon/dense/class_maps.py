"""Images with a class for every pixel: ADE20K, PASCAL VOC, and any folder of images and masks."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from losses import InvalidSetting
from recon.data.folder import images_below, listed, walk
from recon.data.source import printable, read_rgb
from recon.dense.scenes import IGNORED, Scene, SceneSource, as_invalid, locate

VOC_CLASSES = ["background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"]
VOC_CLASSES += ["diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"]
VOC_CLASSES += ["tvmonitor"]
ADE_CLASSES = 150


class ClassMaps(SceneSource):
    """Images and their masks, in two folders.

    Args:
        files: the images' paths from `images`; a mask has the same path from `masks`, but ends in .png.
        first: the value of the first class; below it are pixels that are not judged, as are those of value `IGNORED`.
    """

    def __init__(
        self, name: str, classes: Iterable[str], images: Path, masks: Path, files: Sequence[str], first: int = 0
    ) -> None:
        super().__init__(name, classes)
        self._images, self.masks, self._files, self._first = images, masks, files, first

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> Scene:
        path = self._images / self._files[index]
        with as_invalid(path):
            image = read_rgb(path)
        values = self.values(index)
        height, width = values.shape
        if image.size != (width, height):
            sizes = f"has {width} x {height} pixels and its image {image.width} x {image.height}"
            remedy = "store both alike, turned as the image's EXIF data say"
            raise InvalidSetting(f"{printable(str(self.mask(index)))} {sizes}: {remedy}")
        # below the first class values wrap around to IGNORED
        classes = np.where(values == IGNORED, values, values - np.uint8(self._first))
        return Scene(image, class_map=torch.from_numpy(classes))

    def mask(self, index: int) -> Path:
        return (self.masks / self._files[index]).with_suffix(".png")

    def values(self, index: int) -> NDArray[np.uint8]:
        """The mask as it is stored: (H, W). Raises InvalidSetting where a value is none of a class."""
        values = read_mask(self.mask(index))
        last = self._first + len(self.classes) - 1
        if (found := largest(values)) > last:
            raise InvalidSetting(
                f"{printable(str(self.mask(index)))} has the value {found}, but the {len(self.classes)} classes end at "
                f"{last}: mend it, or store {IGNORED} where pixels are not to be judged"
            )
        return values


def ade20k(root: Path | None) -> tuple[ClassMaps, ClassMaps]:
    """ADE20K's benchmark of scene parsing as it is published: `root` is its folder ADEChallengeData2016, or has it.

    Value 0 of a mask is "other" and not judged, k is class k - 1 of 150. Zhou et al. 2017, "Scene Parsing through
    ADE20K Dataset", https://sceneparsing.csail.mit.edu.
    """
    paths = [f"{kind}/{split}" for split in ("training", "validation") for kind in ("images", "annotations")]
    folders = locate("ade20k", root, paths, subfolders=["ADEChallengeData2016"])
    classes = ade_classes(folders[0].parents[1] / "objectInfo150.txt")
    return both("ade20k", classes, folders, first=1)


def ade_classes(table: Path) -> list[str]:
    """The first name of each class in the table's last column, where there is that file; it has a row of titles."""
    if not table.exists():
        return [f"class {k}" for k in range(1, ADE_CLASSES + 1)]
    with as_invalid(table):
        names = [row.split("\t")[-1] for row in table.read_text().splitlines()[1:]]
    if len(names) != ADE_CLASSES:
        raise InvalidSetting(f"{printable(str(table))} names {len(names)} classes, not {ADE_CLASSES}: get it again")
    return [re.split("[,;]", name)[0].strip() for name in names]


def voc(root: Path | None) -> tuple[ClassMaps, ClassMaps]:
    """PASCAL VOC 2012's segmentation as it is published: `root` is its folder VOC2012, or VOCdevkit, or has that.

    20 classes of objects and the background; value 255, around objects, is not judged. Everingham et al. 2010,
    doi 10.1007/s11263-009-0275-4.
    """
    lists = [f"ImageSets/Segmentation/{split}.txt" for split in ("train", "val")]
    paths = ["JPEGImages", "SegmentationClass", *lists]
    images, masks, *lists = locate("voc", root, paths, subfolders=["VOC2012", "VOCdevkit/VOC2012"])
    train, val = (
        ClassMaps(f"voc/{file.stem}", VOC_CLASSES, images, masks, listed_in(file, images, masks)) for file in lists
    )
    return train, val


def listed_in(file: Path, images: Path, masks: Path) -> list[str]:
    """The images that a list of VOC names; each must be there, and its mask."""
    with as_invalid(file):
        names = file.read_text().split()
    if not names:
        raise InvalidSetting(f"{printable(str(file))} names no images: get it again")
    for folder, ending in ((images, ".jpg"), (masks, ".png")):
        there = set(os.listdir(folder))
        if missing := [name + ending for name in names if name + ending not in there]:
            named = f"{printable(str(file))} names files that {printable(str(folder))} lacks: {listed(missing)}"
            raise InvalidSetting(f"{named}; get them, or take the names out of the list")
    return [f"{name}.jpg" for name in names]


def pairs(root: Path | None) -> tuple[ClassMaps, ClassMaps]:
    """Any folder with images/train, masks/train, images/val and masks/val, at any depth below these.

    The mask of images/val/x/NAME.jpg is masks/val/x/NAME.png, of the classes' numbers from 0; 255 is not judged. There
    are as many classes as lines in classes.txt, which names them. Without that file all masks are read once, and the
    largest value of the training masks is the last class.
    """
    folders = locate("pairs", root, [f"{kind}/{split}" for split in ("train", "val") for kind in ("images", "masks")])
    table = folders[0].parents[1] / "classes.txt"
    if not table.exists():
        return counted(*both("pairs", [], folders))
    with as_invalid(table):
        names = [line.strip() for line in table.read_text().splitlines() if line.strip()]
    if len(names) < 2:
        raise InvalidSetting(f"{printable(str(table))} must name two classes or more, one a line")
    return both("pairs", names, folders)


def counted(train: ClassMaps, val: ClassMaps) -> tuple[ClassMaps, ClassMaps]:
    """The same sources with the classes that the training masks have; raises InvalidSetting where others have more."""
    last = max(largest(read_mask(train.mask(index))) for index in range(len(train)))
    if last < 1:
        raise InvalidSetting(
            f"the masks in {printable(str(train.masks))} have one class alone, the value 0: store the number of the "
            f"class, 0, 1, ..., in each pixel ({IGNORED} is not judged)"
        )
    train.classes = val.classes = [f"class {k}" for k in range(last + 1)]
    for index in range(len(val)):
        val.values(index)
    return train, val


def both(data: str, classes: list[str], folders: list[Path], first: int = 0) -> tuple[ClassMaps, ClassMaps]:
    """From the folders of images and masks of training, and those of the held-out ones."""
    images, masks, val_images, val_masks = folders
    train, val = paired(images, masks), paired(val_images, val_masks)
    return (
        ClassMaps(f"{data}/train", classes, images, masks, train, first),
        ClassMaps(f"{data}/val", classes, val_images, val_masks, val, first),
    )


def paired(images: Path, masks: Path) -> list[str]:
    """The images' paths from their folder; each must have a mask, and each mask an image."""
    files, _ = images_below(images)
    with_image = {os.path.splitext(file)[0] for file in files}
    without_mask = [name for name in sorted(with_image) if not (masks / f"{name}.png").is_file()]
    with_mask = {os.path.splitext(file)[0] for file in walk(masks) if file.endswith(".png")}
    for lone, kind, folder in ((without_mask, "mask", masks), (sorted(with_mask - with_image), "image", images)):
        if lone:
            where = printable(str(folder))
            raise InvalidSetting(f"no {kind} in {where} for {listed(lone)}: add what is missing, or take these out")
    return files


def read_mask(path: Path) -> NDArray[np.uint8]:
    """The values of a PNG of 8-bit grey or palette indices: (H, W)."""
    with as_invalid(path), Image.open(path) as mask:
        if mask.mode not in ("L", "P", "1"):
            raise ValueError(f"its mode is {mask.mode}, not 8-bit grey or palette values of a class each")
        return np.asarray(mask).astype(np.uint8)


def largest(values: NDArray[np.uint8]) -> int:
    """The largest value that is judged, 0 where there is none."""
    return int(values.max(where=values != IGNORED, initial=0))
