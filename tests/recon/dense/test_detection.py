"""Mask R-CNN: its anchors and pooling are torchvision's where strides are powers of 2, its labels count from 0."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign

from recon.dense.detection import ANCHOR, SHAPES, Anchors, Detector, in_own_size, roi_align
from recon.dense.encoder import DenseEncoder
from recon.dense.pyramids import FourBlockPyramid, PyramidBackbone, SimplePyramid
from tests.recon.dense.small_encoders import model_of, pictures

STRIDES = [2.0, 4.0, 8.0, 16.0]
NAMES = ["0", "1", "2", "3"]


def maps(strides, side=64):
    generator = torch.Generator().manual_seed(0)
    return {
        n: torch.randn(2, 5, *2 * [int(side / s)], generator=generator) for n, s in zip(NAMES, strides, strict=True)
    }


def test_anchors_are_torchvisions():
    theirs = AnchorGenerator(tuple((int(ANCHOR * s),) for s in STRIDES), (SHAPES,) * 4)
    images, features = ImageList(torch.zeros(2, 3, 64, 64), [(64, 64), (50, 60)]), list(maps(STRIDES).values())
    for ours, expected in zip(Anchors(STRIDES)(images, features), theirs(images, features), strict=True):
        assert torch.equal(ours, expected)


def test_anchors_stand_at_strides_that_are_no_whole_numbers():
    (found, *_) = Anchors([3.5, 7.0])(
        ImageList(torch.zeros(1, 3, 14, 14), [(14, 14)]), [torch.zeros(1, 5, 4, 4), torch.zeros(1, 5, 2, 2)]
    )
    centres = (found[:, :2] + found[:, 2:]) / 2
    assert torch.equal(centres[:12:3, 0], torch.tensor([0.0, 3.5, 7.0, 10.5]))


def test_regions_are_pooled_as_torchvision_pools_them():
    boxes = [torch.tensor([[3.0, 4, 20, 30], [10, 10, 60, 50]]), torch.tensor([[0.0, 0, 9, 9]])]
    sizes = [(64, 64)] * 2
    theirs = MultiScaleRoIAlign(NAMES, 7, 2)(maps(STRIDES), boxes, sizes)
    assert torch.equal(roi_align(NAMES, STRIDES, 7)(maps(STRIDES), boxes, sizes), theirs)


@pytest.fixture(scope="module", params=[SimplePyramid, FourBlockPyramid])
def detector(request) -> Detector:
    torch.manual_seed(0)
    backbone = PyramidBackbone(DenseEncoder(model_of()), request.param, 16, pool=True)
    return Detector(backbone, classes=3, hidden=32, proposals=40)


def test_it_learns_and_its_labels_count_from_zero(detector):
    """One image with a square of the last class: after some steps it is found, with its class and its mask."""
    image, mask = torch.full((1, 3, 32, 32), 0.2), torch.zeros(1, 32, 32, dtype=torch.uint8)
    image[..., 8:24, 4:20], mask[..., 8:24, 4:20] = 0.9, 1
    target = {"boxes": torch.tensor([[4.0, 8, 20, 24]]), "labels": torch.tensor([2]), "masks": mask}
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    detector.train()
    torch.manual_seed(0)
    for _ in range(80):
        loss = detector(image.expand(2, -1, -1, -1), [target] * 2)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        found = in_own_size(detector.eval()(image), (32, 32), (32, 32))
    assert found["scores"][0] > 0.5 and found["labels"][0] == 2
    union = (found["masks"][0] | mask[0].bool()).sum()
    assert (found["masks"][0] & mask[0].bool()).sum() / union > 0.7


def test_a_view_without_instances_has_a_finite_loss(detector):
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "masks": torch.zeros(0, 30, 21).byte()}
    detector.train()
    assert detector(pictures(30, 21), [nothing] * 2).isfinite()


def test_detections_are_in_the_pixels_of_the_image():
    masks = torch.zeros(1, 1, 8, 10)
    masks[..., 2:6, 4:8] = 1
    found = {"boxes": torch.tensor([[4.0, 2, 8, 6]]), "scores": torch.ones(1), "labels": torch.zeros(1).long()}
    same = in_own_size(found | {"masks": masks}, (8, 10), (8, 10))
    assert torch.equal(same["boxes"], found["boxes"]) and torch.equal(same["masks"], masks[:, 0].bool())
    twice = in_own_size(found | {"masks": masks}, (8, 10), (16, 30))
    assert torch.equal(twice["boxes"], torch.tensor([[12.0, 4, 24, 12]]))
    assert twice["masks"].shape == (1, 16, 30) and twice["masks"][0, 4:12, 12:24].float().mean() > 0.9
