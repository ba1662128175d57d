"""What an image is to dense prediction: the instances of its objects, or a class for every pixel."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from losses import InvalidSetting, nearest
from losses.options import chosen
from losses.reconstruction import IMAGENET_MEAN, IMAGENET_STD
from recon.data.source import Statistics

IGNORED = 255  # of class maps: pixels that are not judged
TASKS = {"detection": "instances", "segmentation": "class maps"}  # and what they learn from


@dataclass(frozen=True)
class Instances:
    """The n objects of one image of H x W pixels.

    boxes: float32 (n, 4), left, top, right and bottom in pixels; a box ends where the pixel behind it begins.
    labels: int64 (n,), from 0.
    masks: bool (n, H, W).
    crowd: bool (n,), regions that are not judged (COCO's iscrowd): finding them is neither right nor wrong.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor
    crowd: Tensor


@dataclass(frozen=True)
class Scene:
    """An RGB image, and its instances or its class map, uint8 (H, W) of classes from 0 and `IGNORED`."""

    image: Image.Image
    instances: Instances | None = None
    class_map: Tensor | None = None


class SceneSource(ABC):
    """Scenes that can be read by index.

    name: dataset and split.
    classes: the names of the labels of instances, or of the values of class maps.
    mean, std: of the pixels in [0, 1], per channel.
    """

    def __init__(
        self, name: str, classes: Iterable[str], mean: Statistics = IMAGENET_MEAN, std: Statistics = IMAGENET_STD
    ) -> None:
        self.name = name
        self.classes = list(classes)
        self.mean = mean
        self.std = std

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Scene:
        """Raises InvalidSetting where a file is damaged, with one line that names it."""


def open_scenes(data: str, root: Path | None, task: str) -> tuple[SceneSource, SceneSource]:
    """The scenes of training and the held-out ones.

    Args:
        data: dead_leaves.
        root: where the files are; dead_leaves has none.
        task: detection, which needs instances, or segmentation, which needs class maps.

    Raises:
        InvalidSetting: an unknown name, data without what the task needs, files that are missing or damaged.
    """
    from recon.dense.leaves import LeafScenes  # which needs the types above

    chosen("task", task, TASKS)
    openers = {"dead_leaves": lambda root: (LeafScenes("train"), LeafScenes("val"))}
    if data not in openers:
        known = sorted(openers)
        raise InvalidSetting(f"unknown data '{data}'{nearest(data, known)} (data of transfer: {', '.join(known)})")
    return openers[data](root)
