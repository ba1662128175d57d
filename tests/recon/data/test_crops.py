"""Training and evaluation crops; those resized on the device equal PIL's, and do not depend on their batch."""

from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize

from recon.data import create_dataset, evaluation_crop, training_batches, training_crop
from recon.data.crops import UNIT, filter_weights, random_crop
from tests.recon.data.conftest import Pictures, masking, picture, write_shard


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


@pytest.mark.parametrize("width, height", [(10, 400), (401, 9), (3, 1000)])
def test_the_ends_of_a_long_image_are_cut_off_before_it_is_enlarged(width, height, monkeypatch):
    """The same crop, but for rounding, from a part of it."""
    image, sizes = picture(5, width, height), []
    theirs = Compose([Resize(int(32 / 0.875), InterpolationMode.BICUBIC), CenterCrop(32), PILToTensor()])(image)
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, *a: sizes.append(size) or resize(self, size, *a))
    assert (evaluation_crop(image, (32, 32)).int() - theirs.int()).abs().max() <= 1
    assert max(sizes[0]) <= 16 * 36


def test_training_crop_is_drawn_from_torch_s_default_generator():
    image = picture(4)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        first, second = training_crop(image, (16, 16)), training_crop(image, (16, 16))
        torch.default_generator.manual_seed(5)
        again = training_crop(image, (16, 16))
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_crops_cover_what_crop_scale_says():
    with torch.random.fork_rng(devices=[]):
        parts = [random_crop(picture(4, 100, 80), (16, 16), scale=(0.5, 0.6))[0] for _ in range(100)]
    shares = [part.height * part.width / 8000 for part in parts]
    assert 0.48 < min(shares) < 0.52 and 0.58 < max(shares) < 0.62  # sides are whole pixels


def test_colour_jitter_changes_colours_alone():
    """The same crops; grey images stay grey, and their contrast changes by no more than asked."""
    grey = Image.fromarray(np.asarray(picture(4, 40, 40).convert("L"))).convert("RGB")
    whole = {"native": True, "size": (40, 40)}
    for image, bound in ((picture(4, 40, 40), 255), (grey, 0)):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(3)
            plain, mirrored = random_crop(image, **whole)
            torch.default_generator.manual_seed(3)
            changed, mirrored_too = random_crop(image, **whole, colour_jitter=0.4)
        before, after = (np.asarray(x).astype(float) for x in (plain, changed))
        assert mirrored == mirrored_too and before.shape == after.shape and np.abs(before - after).max() > 10
        assert np.ptp(after, axis=2).max() <= bound
        assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.5


# ---- on the device


def images(source, number, *, batch=4, start=0, size=(16, 12), on_device=True, workers=0, **more):
    """The first images as the model gets them, in grey levels."""
    batches = training_batches(
        source,
        image_size=size,
        batch=batch,
        start=start,
        seed=0,
        workers=workers,
        masking=masking,
        on_device=on_device,
        **more,
    )
    cpu = torch.device("cpu")
    return torch.cat([b.images_on(cpu) for b in islice(batches, number // batch)]) * 255


@pytest.mark.parametrize("size", [(16, 12), (40, 30), (96, 96)], ids=["smaller", "about as large", "larger"])
def test_device_crops_are_the_loader_s_but_for_the_last_grey_level(size):
    ours, theirs = (images(create_dataset("photos", "train"), 64, size=size, on_device=way) for way in (True, False))
    difference = (ours - theirs).abs()
    assert difference.max() < 2.01 and (difference > 0.5).float().mean() < 0.02


@pytest.fixture(params=["indexed", "streamed"])
def source(request, tmp_path):
    if request.param == "indexed":
        return Pictures(10, unreadable=(3, 4))
    pytest.importorskip("webdataset")
    write_shard(tmp_path / "birds" / "train-0.tar", range(10))
    return create_dataset("wds/birds", "train", root=tmp_path)


def test_a_device_crop_is_the_same_to_the_bit_in_any_batch(source):
    whole = images(source, 48, batch=16)
    assert torch.equal(images(source, 48, batch=1), whole)
    assert torch.equal(images(source, 24, start=24, workers=1), whole[24:])


@pytest.mark.parametrize("on_device", [True, False])
def test_colour_jitter_does_not_depend_on_the_batch(on_device):
    source = create_dataset("photos", "train")
    four, two = (images(source, 8, batch=n, on_device=on_device, colour_jitter=0.4) for n in (4, 2))
    assert torch.equal(four, two) and not torch.equal(four, images(source, 8, on_device=on_device))


def test_native_images_are_cropped_and_not_resized_on_the_device():
    source = create_dataset("gaussian_field", "val")
    assert torch.equal(*(images(source, 16, on_device=way) for way in (True, False)))


@pytest.mark.parametrize("outputs", [1, 7, 64, 224])
def test_filter_weights_are_exact_and_sum_to_one(outputs):
    inputs = torch.tensor([1, 2, 13, 64, 160, 500])
    w = filter_weights(inputs, 512, outputs)
    assert torch.equal(w.sum(-1), torch.ones(len(inputs), outputs))
    assert torch.equal(w * UNIT, (w * UNIT).round())
    for side, of_side in zip(inputs, w, strict=True):
        assert not of_side[:, side:].any()
        assert torch.equal(filter_weights(side[None], int(side), outputs)[0], of_side[:, :side])


def test_plain_interpolation_would_alias_where_this_does_not():
    """A fine checkerboard becomes grey."""
    board = torch.from_numpy(np.indices((96, 96)).sum(0) % 2 * 255.0).float()
    w = filter_weights(torch.tensor([96]), 96, 24)[0]
    assert ((w @ board @ w.T) - 127.5).abs().max() < 3
