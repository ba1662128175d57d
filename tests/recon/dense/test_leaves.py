"""Scenes of dead leaves, whose instances and classes are known."""

import numpy as np
import pytest
import torch
from scipy.ndimage import label as parts_of
from torch.nn import functional
from torchvision.ops import masks_to_boxes

from losses import InvalidSetting
from recon.data.synthetic import LEAVES_SIDE, MATERIALS
from recon.dense.leaves import LEAST_PIXELS, LeafScenes
from recon.dense.scenes import IGNORED, open_scenes

SCENES = 60


@pytest.fixture(scope="module")
def scenes():
    train, _ = open_scenes("dead_leaves", None, "detection")
    return [train.read(i) for i in range(SCENES)]


def test_a_scene_is_a_function_of_its_split_and_index():
    both = open_scenes("dead_leaves", None, "segmentation")
    assert [len(source) for source in both] == [2_000, 500]
    again = LeafScenes("train").read(3)
    first = both[0].read(3)
    assert first.image.tobytes() == again.image.tobytes() and torch.equal(first.class_map, again.class_map)
    for name in ("boxes", "labels", "masks", "crowd"):
        assert torch.equal(getattr(first.instances, name), getattr(again.instances, name))
    images = [source.read(i).image.tobytes() for source in both for i in range(20)]
    assert len(set(images)) == len(images)


def test_types_and_shapes_are_those_of_the_documentation(scenes):
    for scene in scenes:
        found, n = scene.instances, len(scene.instances.labels)
        assert (scene.image.mode, scene.image.size) == ("RGB", (LEAVES_SIDE, LEAVES_SIDE))
        assert (found.boxes.dtype, found.boxes.shape) == (torch.float32, (n, 4))
        assert (found.labels.dtype, found.labels.shape) == (torch.int64, (n,))
        assert (found.masks.dtype, found.masks.shape) == (torch.bool, (n, LEAVES_SIDE, LEAVES_SIDE))
        assert (found.crowd.dtype, found.crowd.shape) == (torch.bool, (n,))
        assert (scene.class_map.dtype, scene.class_map.shape) == (torch.uint8, (LEAVES_SIDE, LEAVES_SIDE))


def test_masks_cover_every_pixel_once(scenes):
    for scene in scenes:
        assert (scene.instances.masks.sum(0) == 1).all()


def test_the_class_map_is_the_labels_painted_by_their_masks(scenes):
    for scene in scenes:
        painted = torch.full((LEAVES_SIDE, LEAVES_SIDE), IGNORED, dtype=torch.uint8)
        for mask, label in zip(scene.instances.masks, scene.instances.labels, strict=True):
            painted[mask] = label.to(torch.uint8)
        assert torch.equal(painted, scene.class_map) and painted.max() < len(MATERIALS)


def test_boxes_are_those_of_torchvision_and_end_behind_the_last_pixel(scenes):
    for scene in scenes:
        expected = masks_to_boxes(scene.instances.masks) + torch.tensor([0, 0, 1, 1])
        assert torch.equal(scene.instances.boxes, expected)


def test_leaves_that_are_hardly_seen_are_crowd_and_the_others_are_not(scenes):
    pixels = torch.cat([scene.instances.masks.sum((1, 2)) for scene in scenes])
    crowd = torch.cat([scene.instances.crowd for scene in scenes])
    assert torch.equal(crowd, pixels < LEAST_PIXELS) and 0.2 < crowd.double().mean() < 0.8
    assert pixels[~crowd].min() < LEAST_PIXELS + 8 and pixels.min() >= 1


def test_a_leaf_in_several_parts_is_one_instance(scenes):
    """Of discs in front of a leaf some divide it; parts of one pixel are due to the grid."""
    masks = torch.cat([scene.instances.masks[~scene.instances.crowd] for scene in scenes]).numpy()
    parts = [sum(np.bincount(parts_of(mask, np.ones((3, 3)))[0].ravel())[1:] > 9) for mask in masks]
    assert 0.01 < np.mean(np.array(parts) > 1) < 0.3


def test_a_leaf_looks_like_its_class(scenes):
    """By the squared difference of neighbours inside leaves, in the median over pixels: none where they are flat."""
    rough = {name: [] for name in MATERIALS}
    for scene in scenes:
        grey = torch.tensor(np.asarray(scene.image)).double().mean(-1) / 255
        steps = grey.diff(dim=0)[:, 1:].square() + grey.diff(dim=1)[1:].square()
        for mask, label in zip(scene.instances.masks, scene.instances.labels, strict=True):
            # 1 where all pixels around are of the leaf, so that none of the three that are compared is mixed
            inside = -functional.max_pool2d(-mask[None].double(), 5, 1, 2)[0, 1:, 1:] > 0
            if inside.sum() > 30:
                rough[MATERIALS[label]].append(steps[inside].median().item())
    flat, striped, noisy = (np.array(rough[name]) for name in MATERIALS)
    assert min(map(len, rough.values())) > 100
    assert flat.max() == 0 and striped.min() > 0.002 and noisy.min() > 0.01 and striped.mean() < noisy.mean()


def test_classes_are_equally_frequent(scenes):
    labels = torch.cat([scene.instances.labels for scene in scenes])
    share = labels.bincount(minlength=3) / len(labels)
    assert (share - 1 / 3).abs().max() < 4 * (2 / 9 / len(labels)) ** 0.5


def test_mean_and_std_are_those_of_the_images(scenes):
    pixels = np.stack([np.asarray(scene.image) for scene in scenes]) / 255
    means, source = pixels.mean((1, 2)), LeafScenes("train")
    assert (abs(means.mean(0) - source.mean) < 4 * means.std(0) / len(means) ** 0.5).all()
    np.testing.assert_allclose(pixels.std((0, 1, 2)), source.std, rtol=0.03)


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(InvalidSetting, match=r"^unknown data 'dead_leafs'; did you mean 'dead_leaves'\? \(data of"):
        open_scenes("dead_leafs", None, "detection")
    with pytest.raises(InvalidSetting, match=r"^task=detecting: choose detection or segmentation; did you mean"):
        open_scenes("dead_leaves", None, "detecting")
