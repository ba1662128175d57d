"""Scenes of dead leaves: every leaf is an instance, and its material is its class.

Leaves are those of the data set dead_leaves with the larger sizes (`recon.data.synthetic`), but each leaf draws a
material of its own. So the instances and the class of every pixel are known exactly, and need no file.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from recon.config import seed_of
from recon.data.synthetic import FINER, MATERIALS, SMALLEST, leaf_colours, leaf_map, numbered, render, texture
from recon.dense.scenes import Instances, Scene, SceneSource

SCENES = {"train": 2_000, "val": 500}
LEAST_PIXELS = 64  # of a leaf that is judged: of fewer one cannot tell the material


class LeafScenes(SceneSource):
    """Scenes that are computed when they are read, each from the split and its index alone.

    They have instances and a class map. A pixel belongs to the leaf at the upper left of its `FINER` x `FINER` points.
    A leaf of which other leaves leave several parts is one instance; one that is seen in fewer than `LEAST_PIXELS`
    pixels is marked as crowd. The masks of all instances, crowd included, cover every pixel once, and so the class map
    has no pixel that is not judged.
    """

    def __init__(self, split: str) -> None:
        super().__init__(f"dead_leaves/{split}", MATERIALS, mean=(0.5, 0.5, 0.5), std=(0.197, 0.197, 0.197))
        self._split = split

    def __len__(self) -> int:
        return SCENES[self._split]

    def read(self, index: int) -> Scene:
        generator = np.random.default_rng(seed_of("scenes of dead_leaves", self._split, index))
        leaf = numbered(leaf_map(SMALLEST["large"], generator))
        material = generator.integers(len(MATERIALS), size=leaf.max() + 1)
        colours = leaf_colours(leaf, generator)
        textures = np.choose(material[leaf], [texture(leaf, name, generator) for name in MATERIALS])
        image = Image.fromarray(np.rint(render(leaf, colours, textures) * 255).astype(np.uint8))
        seen, labels = torch.from_numpy(leaf[::FINER, ::FINER]), torch.from_numpy(material)
        return Scene(image, instances_of(seen, labels), labels[seen].to(torch.uint8))


def leaf_scenes(root: object = None) -> tuple[LeafScenes, LeafScenes]:
    return LeafScenes("train"), LeafScenes("val")


def instances_of(seen: Tensor, labels: Tensor) -> Instances:
    """The leaves of a map (H, W) of numbers from 0, and the class of each number (leaves,)."""
    pixels = seen.flatten().bincount(minlength=len(labels))
    shown = pixels.nonzero()[:, 0]  # some are seen between the points alone
    left_top, right_bottom = (corners(seen, len(labels), end) for end in ("amin", "amax"))
    boxes = torch.cat([left_top, right_bottom + 1], 1)[shown]
    return Instances(boxes, labels[shown], seen == shown[:, None, None], crowd=pixels[shown] < LEAST_PIXELS)


def corners(seen: Tensor, leaves: int, end: str) -> Tensor:
    """The lowest ("amin") or highest column and row of each number of a map (H, W): float32 (leaves, 2)."""
    row, column = torch.meshgrid(*map(torch.arange, seen.shape), indexing="ij")
    points = torch.stack([column, row], -1).reshape(-1, 2).float()
    index = seen.reshape(-1, 1).expand(-1, 2)
    return torch.zeros(leaves, 2).scatter_reduce(0, index, points, end, include_self=False)
