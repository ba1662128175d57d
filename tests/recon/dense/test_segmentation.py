"""Class maps from an encoder: what must be right, what must not move, and shapes."""

import pytest
import torch
from torch.nn import functional as F

from recon.dense.encoder import DenseEncoder
from recon.dense.pyramids import PyramidBackbone, SimplePyramid
from recon.dense.scenes import IGNORED
from recon.dense.segmentation import LinearSegmenter, PatchNeighbours, UPerNet, class_map, patch_classes
from tests.recon.dense.small_encoders import model_of, pictures

CLASSES = 3


def linear(frozen: bool = True) -> LinearSegmenter:
    torch.manual_seed(0)
    return LinearSegmenter(DenseEncoder(model_of(), frozen=frozen), CLASSES)


def upernet() -> UPerNet:
    torch.manual_seed(0)
    return UPerNet(PyramidBackbone(DenseEncoder(model_of()), SimplePyramid, 32), CLASSES)


def test_the_nearest_patches_know_a_colour_they_have_seen():
    """Images of squares of three colours, one patch each: the classes of other such images are found exactly."""
    colours = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9]])
    model = model_of()
    for block in model.blocks:  # tokens then tell what is in their own patch, and where they are
        block.attn.proj.weight.data.zero_()
    generator = torch.Generator().manual_seed(0)

    def scenes(number: int):
        classes = torch.randint(CLASSES, (number, 3, 5), generator=generator)
        maps = classes.repeat_interleave(4, 1).repeat_interleave(4, 2)
        return colours[maps].movedim(-1, 1), maps

    nearest = PatchNeighbours(DenseEncoder(model, frozen=True), CLASSES, most=10_000, seed=0)
    images, maps = scenes(64)
    nearest.fit([(images[:40], list(maps[:40])), (images[40:], list(maps[40:]))])
    images, maps = scenes(8)
    found = torch.cat([nearest(image[None]) for image in images])
    assert torch.equal(found, maps)


def test_the_class_of_a_patch_is_that_of_most_judged_pixels():
    maps = torch.randint(CLASSES, (2, 12, 20), generator=torch.Generator().manual_seed(0))
    maps[0, :4, :4], maps[1, 4:7] = IGNORED, IGNORED
    found = patch_classes(maps, 4, CLASSES)
    for b in range(2):
        for n in range(15):
            patch = maps[b, 4 * (n // 5) : 4 * (n // 5) + 4, 4 * (n % 5) : 4 * (n % 5) + 4]
            judged = patch[patch != IGNORED]
            expected = judged.bincount(minlength=CLASSES).argmax() if len(judged) else IGNORED
            assert found[b, n] == expected


@pytest.mark.parametrize("make", [linear, upernet])
@pytest.mark.parametrize("size", [(12, 20), (13, 7), (4, 30)], ids=str)
def test_every_pixel_has_logits_at_any_size(make, size):
    model = make().eval()
    assert model(pictures(*size)).shape == (2, CLASSES, *size)


def test_ignored_pixels_have_no_part_in_the_loss():
    model, images = linear().eval(), pictures(12, 12)
    maps = torch.randint(CLASSES, (2, 12, 12), generator=torch.Generator().manual_seed(0))
    judged = torch.rand(2, 12, 12, generator=torch.Generator().manual_seed(1)) < 0.4
    logits = model(images)
    expected = F.cross_entropy(logits.movedim(1, -1)[judged], maps[judged])
    assert torch.allclose(model(images, list(torch.where(judged, maps, IGNORED))), expected, atol=1e-6)


def test_a_frozen_encoder_does_not_move():
    model = linear().train()
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    weight = model.linear.weight.clone()
    model(pictures(12, 20), [torch.zeros(12, 20, dtype=torch.int64)] * 2).backward()
    optimizer.step()
    assert all(torch.equal(before[name], value) for name, value in model.encoder.state_dict().items())
    assert not torch.equal(weight, model.linear.weight)


def test_class_maps_have_the_images_own_size():
    logits = torch.randn(1, CLASSES, 6, 10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(class_map(logits, (6, 10)), logits[0].argmax(0))
    assert class_map(logits, (13, 21)).shape == (13, 21)
