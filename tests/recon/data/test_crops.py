"""Training and evaluation crops."""

import pytest
import torch
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize

from recon.data import evaluation_crop, training_crop
from tests.recon.data.conftest import picture


@pytest.mark.parametrize("width, height", [(100, 100), (131, 77), (77, 131), (20, 30)])
def test_evaluation_crop_is_the_resize_and_centre_crop_of_the_literature(width, height):
    image = picture(1, width, height)
    theirs = Compose([Resize(int(64 / 0.875), InterpolationMode.BICUBIC), CenterCrop(64), PILToTensor()])
    assert torch.equal(evaluation_crop(image, (64, 64)), theirs(image))


@pytest.mark.parametrize("crop", [training_crop, evaluation_crop])
@pytest.mark.parametrize("size", [(48, 48), (32, 64), (64, 32)])
@pytest.mark.parametrize("width, height", [(100, 100), (200, 10), (10, 200), (1, 1)])
def test_a_crop_of_any_image_has_the_size_asked_for(crop, size, width, height):
    pixels = crop(picture(2, width, height), size)
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, *size)


@pytest.mark.parametrize("margin, seen", [(6, False), (12, True)])  # 6.25 of 100 rows are left out on each side
def test_evaluation_crop_covers_seven_eighths_of_the_limiting_side(margin, seen):
    plain, framed = picture(3, 200, 100), picture(3, 200, 100)
    framed.paste((255, 0, 0), (0, 0, 200, margin))
    inner = slice(2, -2)  # beyond the reach of the interpolation
    crops = [evaluation_crop(image, (70, 140))[:, inner] for image in (plain, framed)]
    assert torch.equal(*crops) != seen


def test_training_crop_is_drawn_from_torch_s_default_generator():
    image = picture(4)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        first, second = training_crop(image, (16, 16)), training_crop(image, (16, 16))
        torch.default_generator.manual_seed(5)
        again = training_crop(image, (16, 16))
    assert torch.equal(first, again) and not torch.equal(first, second)
