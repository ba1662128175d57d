"""What an image is to dense prediction: the instances of its objects, or a class for every pixel."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from losses import InvalidSetting, nearest
from losses.options import chosen
from losses.reconstruction import IMAGENET_MEAN, IMAGENET_STD
from recon.data.folder import listed
from recon.data.source import Statistics, one_line, printable

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
    """The scenes of training and the held-out ones, with the same classes.

    Args:
        data: dead_leaves, coco, ade20k, voc or pairs.
        root: where the files are; dead_leaves has none.
        task: detection, which needs instances, or segmentation, which needs class maps.

    Raises:
        InvalidSetting: an unknown name, data without what the task needs, files that are missing or damaged.
    """
    from recon.dense import class_maps, coco, leaves  # which need the types above

    chosen("task", task, TASKS)
    openers = {
        "detection": {"dead_leaves": leaves.leaf_scenes, "coco": coco.coco},
        "segmentation": {
            "dead_leaves": leaves.leaf_scenes,
            "ade20k": class_maps.ade20k,
            "voc": class_maps.voc,
            "pairs": class_maps.pairs,
        },
    }
    if data in openers[task]:
        return openers[task][data](root)
    known = sorted({name for each in openers.values() for name in each})
    if data not in known:
        raise InvalidSetting(f"unknown data '{data}'{nearest(data, known)} (data of transfer: {', '.join(known)})")
    takes = " or ".join(sorted(openers[task]))
    raise InvalidSetting(f"data={data} has no {TASKS[task]}, which task={task} needs: set data={takes}")


# ---- for those who read files


def locate(data: str, root: Path | None, *layouts: Sequence[str], subfolders: Sequence[str] = ()) -> list[Path]:
    """The files and folders of the layout that is there; a layout lists paths from `root`, or from a subfolder.

    Raises:
        InvalidSetting: naming what is missing of the layout that is the nearest to being there.
    """
    expected = " or ".join(", ".join(paths) for paths in layouts)
    if root is None:
        raise InvalidSetting(f"data={data} does not know which folder to read: set data.root=PATH ({expected})")
    root = Path(root).expanduser()
    shown = printable(str(root))
    if not root.is_dir():
        raise InvalidSetting(f"data.root={shown} is {'a file, not a folder' if root.exists() else 'missing'}")
    root = next((root / name for name in subfolders if (root / name).is_dir()), root)
    found = max(layouts, key=lambda paths: sum((root / path).exists() for path in paths))
    if missing := [path for path in found if not (root / path).exists()]:
        raise InvalidSetting(
            f"data={data} finds no {listed(missing)} in {printable(str(root))}: set data.root=PATH to a folder "
            f"that has {expected}"
        )
    return [root / path for path in found]


@contextmanager
def as_invalid(file: str | Path) -> Iterator[None]:
    """Raises any exception inside as InvalidSetting that names the file; decoders raise nearly every kind."""
    try:
        yield
    except InvalidSetting:
        raise
    except Exception as reason:
        why = f"no {reason} in an entry" if isinstance(reason, KeyError) else one_line(reason)
        told = f"{printable(str(file))} cannot be read: {why}; replace it, or take it out of the data"
        raise InvalidSetting(told) from reason
