"""What models are shown: views are the scenes' own pixels and truths, moved together."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import masks_to_boxes
from torchvision.transforms.functional import pil_to_tensor

from recon.dense.leaves import LeafScenes
from recon.dense.scenes import IGNORED, Scene, SceneSource
from recon.dense.views import HeldOut, View, Views

SCENES = LeafScenes("train")


class One(SceneSource):
    """The first scene of leaves alone, or one made of an image."""

    def __init__(self, scene: Scene | None = None) -> None:
        super().__init__("one", SCENES.classes)
        self.scene = scene or SCENES.read(0)

    def __len__(self) -> int:
        return 1

    def read(self, index: int) -> Scene:
        return self.scene


def test_a_view_at_scale_one_is_the_scene_or_its_mirror_image():
    one, mirrored = One(), 0
    image, known = pil_to_tensor(one.scene.image).float() / 255, one.scene.class_map.long()
    for k in range(12):
        seen, class_map = Views(one, View(96, (1.0, 1.0), instances=False), seed=0).one(k)
        straight = torch.equal(seen, image) and torch.equal(class_map, known)
        flipped = torch.equal(seen, image.flip(-1)) and torch.equal(class_map, known.flip(-1))
        assert straight != flipped
        mirrored += flipped
    assert 1 < mirrored < 11


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.5, 0.6), (1.5, 2.0)], ids=str)
def test_instances_and_class_maps_are_moved_alike(scale):
    """Where an instance is, the class map has its class; boxes are tight around masks."""
    for k in range(4):
        image, found = Views(SCENES, View(96, scale, instances=True), seed=1).one(k)
        same, class_map = Views(SCENES, View(96, scale, instances=False), seed=1).one(k)
        inside = (class_map != IGNORED).expand(3, -1, -1)
        assert torch.equal(image, same) and inside.any()
        masks = found["masks"].bool()
        for mask, label in zip(masks, found["labels"], strict=True):
            assert (class_map[mask] == label).all()
        assert torch.equal(found["boxes"][:, :2], masks_to_boxes(masks)[:, :2])
        assert torch.equal(found["boxes"][:, 2:], masks_to_boxes(masks)[:, 2:] + 1)
        assert masks.flatten(1).any(1).all()


def test_what_is_beyond_a_small_image_is_ignored_and_of_its_mean_colour():
    image, class_map = Views(One(), View(96, (0.5, 0.5), instances=False), seed=0).one(0)
    beyond = class_map == IGNORED
    assert float(beyond.float().mean()) == pytest.approx(0.75)
    mean = pil_to_tensor(One().scene.image).float().mean((1, 2)).floor() / 255
    assert torch.allclose(image[:, beyond], mean[:, None].expand(-1, int(beyond.sum())))


def test_crowd_is_not_learnt():
    scene = SCENES.read(0)
    _, found = Views(One(), View(96, (1.0, 1.0), instances=True), seed=0).one(0)
    assert len(found["labels"]) == int((~scene.instances.crowd).sum()) < len(scene.instances.crowd)


def test_a_view_depends_on_its_number_and_the_seed_alone():
    def batches(batch, seed=0, rank=0, count=1):
        views = Views(SCENES, View(48, (0.8, 1.25), False, 0.4), seed)
        return torch.cat([images for images, _ in views.load(batch, range(8 // batch // count), rank, count, 0)])

    whole = batches(4)
    assert torch.equal(batches(2), whole)
    assert not torch.equal(batches(4, seed=1), whole)
    halves = [batches(2, rank=rank, count=2).split(2) for rank in range(2)]
    assert torch.equal(torch.cat([part for pair in zip(*halves, strict=True) for part in pair]), whole)


@pytest.mark.parametrize("size, seen", [((200, 100), (64, 128)), ((100, 200), (128, 64)), ((400, 100), (32, 128))])
def test_held_out_images_are_resized_to_the_shorter_side_or_where_they_are_long_to_the_longer(size, seen):
    image = Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8))
    one = One(Scene(image, class_map=torch.zeros(size[1], size[0], dtype=torch.uint8)))
    ((pixels, scene),) = HeldOut(one, 64, 128).load(0)
    assert pixels.shape == (1, 3, *seen) and scene.image.size == size
