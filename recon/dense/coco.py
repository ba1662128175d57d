"""Images with instances in COCO's format."""

import json
import os
import pickle
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from losses import InvalidSetting
from recon.data.folder import listed
from recon.data.source import one_line, printable, read_rgb
from recon.dense.scenes import Instances, Scene, SceneSource, as_invalid, locate

LAYOUTS = (
    ["annotations/instances_train2017.json", "train2017", "annotations/instances_val2017.json", "val2017"],
    ["train.json", "train", "val.json", "val"],
)
Json = dict[str, Any]
Row = tuple[int, bool, list[float], Any]  # of an instance: label, crowd, box, COCO's "segmentation"


def coco(root: Path | None) -> tuple["CocoScenes", "CocoScenes"]:
    """COCO 2017 as it is published, or train.json with the images in train/, and val.json with those in val/."""
    if find_spec("faster_coco_eval") is None:
        raise InvalidSetting("data=coco needs the package faster-coco-eval: pip install 'recon[transfer]'")
    train_file, train_folder, val_file, val_folder = locate("coco", root, *LAYOUTS)
    val = CocoScenes("coco/val", val_file, val_folder, keep_empty=True)  # the smaller file, where an error shows sooner
    train = CocoScenes("coco/train", train_file, train_folder, keep_empty=False)
    if other := train.categories.items() ^ val.categories.items():
        id, name = min(other)
        raise InvalidSetting(
            f"{printable(str(train_file))} and {printable(str(val_file))} differ in the category {id}, {name!r}: "
            "both must have the same categories, with the same ids"
        )
    return train, val


class CocoScenes(SceneSource):
    """Images of a folder, with their instances from one file.

    A label is the position of the annotation's category in the order of ids. Boxes are those of the file, cut at the
    image's border, and instances are left out of whose box nothing remains. Masks are those of COCO's own code, from
    polygons and from run lengths, compressed or not. The EXIF data's orientation is applied to images, and their size
    must then be that of the file. Lin et al. 2014, "Microsoft COCO", arXiv 1405.0312.

    Args:
        keep_empty: keep images without an instance that is judged, which teach nothing.
    """

    def __init__(self, name: str, file: Path, folder: Path, keep_empty: bool) -> None:
        self._file, self._folder = printable(str(file)), folder
        content = read_content(file)
        with as_invalid(file):
            self.categories: dict[int, str] = dict(
                sorted((entry["id"], entry["name"]) for entry in content["categories"])
            )
            check_images(file, folder, [image["file_name"] for image in content["images"]])
            rows = rows_by_image(file, content, list(self.categories))
            kept = [image for image in content["images"] if keep_empty or any(not row[1] for row in rows[image["id"]])]
            self._files = [image["file_name"] for image in kept]
            self._sizes = np.array([(image["height"], image["width"]) for image in kept], np.int64)
            self._rows = Pickled([rows[image["id"]] for image in kept])
        if not kept:
            raise InvalidSetting(f"{self._file} has no image with an instance that is no crowd: nothing to train on")
        super().__init__(name, self.categories.values())

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> Scene:
        path = self._folder / self._files[index]
        with as_invalid(path):
            image = read_rgb(path)
        height, width = map(int, self._sizes[index])
        if image.size != (width, height):
            raise InvalidSetting(
                f"{printable(str(path))} has {image.width} x {image.height} pixels, but {width} x {height} in "
                f"{self._file}: mend the file, or store the image turned as its EXIF data say"
            )
        with as_invalid(f"{self._file}, segmentation of {self._files[index]},"):
            return Scene(image, instances_of(self._rows[index], height, width))


class Pickled:
    """A list of anything, in few bytes: workers that share memory copy no page when they count references."""

    def __init__(self, entries: list[Any]) -> None:
        written = [np.frombuffer(pickle.dumps(entry, protocol=-1), np.uint8) for entry in entries]
        self._ends = np.cumsum([len(each) for each in written])
        self._bytes = np.concatenate([*written, np.empty(0, np.uint8)])

    def __getitem__(self, index: int) -> Any:
        start = self._ends[index - 1] if index else 0
        return pickle.loads(self._bytes[start : self._ends[index]].data)


def read_content(file: Path) -> Json:
    """A file of COCO's "object detection", with images, annotations and categories."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as reason:
        raise InvalidSetting(f"{printable(str(file))} is no sound JSON: {one_line(reason)}; get it again") from reason
    for key in ("images", "annotations", "categories"):
        if not (isinstance(content, dict) and content.get(key)):
            needed = "data=coco needs images, annotations and categories, as in COCO's instances_train2017.json"
            raise InvalidSetting(f"{printable(str(file))} has no {key}: {needed}")
    return content


def check_images(file: Path, folder: Path, names: list[str]) -> None:
    there = set(os.listdir(folder))
    if missing := [name for name in names if name not in there and not (folder / name).is_file()]:
        where = printable(str(folder))
        raise InvalidSetting(
            f"{printable(str(file))} names images that {where} lacks: {listed(missing)}; get them, or take them out"
        )


def rows_by_image(file: Path, content: Json, categories: list[int]) -> dict[int, list[Row]]:
    """The instances of every image, by its id."""
    labels = {id: label for label, id in enumerate(categories)}
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    rows: dict[int, list[Row]] = {id: [] for id in sizes}
    for annotation in content["annotations"]:
        image, category = annotation["image_id"], annotation["category_id"]
        if image not in sizes or category not in labels:
            key, value = ("image_id", image) if image not in sizes else ("category_id", category)
            raise invalid(file, annotation, f"has the {key} {value}, which the file does not list")
        box = corners(annotation["bbox"], *sizes[image])
        if box[0] >= box[2] or box[1] >= box[3]:
            continue
        if not annotation.get("segmentation"):
            raise invalid(file, annotation, "has no segmentation, and masks cannot be learnt without")
        rows[image].append((labels[category], bool(annotation.get("iscrowd")), box, annotation["segmentation"]))
    return rows


def invalid(file: Path, annotation: Json, what: str) -> InvalidSetting:
    return InvalidSetting(f"{printable(str(file))}: annotation {annotation.get('id')} {what}; mend it, or take it out")


def corners(box: list[float], width: int, height: int) -> list[float]:
    """COCO's left, top, width and height -> left, top, right and bottom within the image."""
    left, top, wide, high = box
    return [max(left, 0), max(top, 0), min(left + wide, width), min(top + high, height)]


def instances_of(rows: list[Row], height: int, width: int) -> Instances:
    labels, crowd, boxes, segmentations = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Instances(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.int64),
        masks=decoded(segmentations, height, width),
        crowd=torch.tensor(crowd, dtype=torch.bool),
    )


def decoded(segmentations: tuple[Any, ...], height: int, width: int) -> Tensor:
    """Polygons or run lengths -> bool (n, height, width)."""
    from faster_coco_eval.core import mask

    if not segmentations:
        return torch.zeros(0, height, width, dtype=torch.bool)
    runs = [mask.segmToRle(each, width, height) for each in segmentations]
    if other := [run["size"] for run in runs if list(run["size"]) != [height, width]]:
        raise ValueError(f"run lengths for {other[0][1]} x {other[0][0]} pixels, not {width} x {height}")
    masks = mask.decode(runs)  # (H, W, n)
    return torch.from_numpy(masks.transpose(2, 0, 1).astype(bool, order="C"))
