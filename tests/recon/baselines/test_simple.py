"""Reconstructions that nothing has to be learnt for."""

import numpy as np
import pytest
import skimage.data
import torch
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from losses.reconstruction import expand_to_pixels, patchify
from recon.baselines import SIMPLE
from recon.baselines.classical import nearest

every_baseline = pytest.mark.parametrize("baseline", SIMPLE.values(), ids=SIMPLE)


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """(3, 3, 32, 48): a piece of each of three photographs."""
    images = (skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee())
    pieces = np.stack([image[50:210:5, 100:340:5] for image in images])
    return torch.from_numpy(pieces).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def mask() -> Tensor:
    """(3, 24): of 8-pixel patches, 6 visible."""
    return torch.rand(3, 24, generator=torch.Generator().manual_seed(0)).argsort(1) >= 6


def hidden_pixels(mask: Tensor) -> Tensor:
    return expand_to_pixels(mask, (4, 6), 8)


@every_baseline
def test_hidden_pixels_are_never_read(baseline, photographs, mask):
    other = torch.where(hidden_pixels(mask), torch.rand_like(photographs), photographs)
    assert torch.equal(
        baseline(photographs, mask), torch.where(hidden_pixels(mask), baseline(other, mask), photographs)
    )


@every_baseline
def test_visible_pixels_are_the_truth_and_hidden_ones_are_in_range(baseline, photographs, mask):
    image = baseline(photographs, mask)
    assert image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1
    assert torch.equal(image == photographs, (image == photographs) | ~hidden_pixels(mask))
    assert not torch.allclose(image, photographs, atol=0.1)


@every_baseline
def test_a_batch_is_its_images_one_by_one(baseline, photographs, mask):
    alone = torch.cat([baseline(i[None], m[None]) for i, m in zip(photographs, mask, strict=True)])
    assert torch.equal(baseline(photographs, mask), alone)


@every_baseline
def test_a_constant_image_comes_back(baseline, mask):
    image = torch.full((3, 3, 32, 48), 0.3, dtype=torch.float64)
    torch.testing.assert_close(baseline(image, mask), image, rtol=0, atol=1e-12)


@every_baseline
def test_an_image_without_a_visible_patch_is_nan_and_leaves_the_others_alone(baseline, photographs, mask):
    blind = mask.clone()
    blind[1] = True
    image, expected = baseline(photographs, blind), baseline(photographs, mask)
    assert image[1].isnan().all()
    assert torch.equal(image[[0, 2]], expected[[0, 2]])


@every_baseline
def test_an_image_without_a_hidden_patch_comes_back(baseline, photographs):
    assert torch.equal(baseline(photographs, torch.zeros(3, 24, dtype=torch.bool)), photographs)


@every_baseline
def test_a_mirrored_image_has_the_mirrored_reconstruction_where_no_patch_is_equally_near(baseline, photographs):
    mask = torch.ones(3, 4, 6, dtype=torch.bool)
    mask[:, 0, 0] = mask[:, 0, 5] = False  # columns 0-2 are nearer to the first, 3-5 to the second
    mirrored = baseline(photographs.flip(3), mask.flip(2).flatten(1)).flip(3)
    torch.testing.assert_close(baseline(photographs, mask.flatten(1)), mirrored, rtol=0, atol=1e-6)


def test_the_mean_is_that_of_the_visible_pixels_in_every_channel(photographs, mask):
    image = SIMPLE["mean"](photographs, mask)
    for i in range(3):
        hidden = hidden_pixels(mask)[i, 0]
        colour = photographs[i][:, ~hidden].double().mean(1)
        torch.testing.assert_close(image[i][:, hidden].double(), colour[:, None].expand(3, int(hidden.sum())))


def test_every_hidden_patch_is_a_copy_of_the_nearest_visible_one(photographs, mask):
    """By search, the first in row order among equals."""
    patches, copies = patchify(photographs, 8), patchify(SIMPLE["nearest"](photographs, mask), 8)
    equals = 0
    for i in range(3):
        visible = (~mask[i]).nonzero()[:, 0].tolist()
        for n in range(24):
            distance = [np.hypot(n // 6 - v // 6, n % 6 - v % 6) for v in visible]
            equals += distance.count(min(distance)) > 1
            assert torch.equal(copies[i, n], patches[i, visible[distance.index(min(distance))]])
    assert equals > 5  # else the rule for them was not tried


def test_among_equally_near_patches_the_first_in_row_order_is_copied():
    mask = torch.ones(1, 9, dtype=torch.bool)
    mask[0, [1, 3, 5, 7]] = False  # the four neighbours of the middle one
    assert nearest(mask, (3, 3))[0].tolist() == [1, 1, 1, 3, 1, 5, 3, 7, 5]


def test_biharmonic_is_that_of_scikit_image(photographs, mask):
    image = SIMPLE["biharmonic"](photographs.double(), mask)
    for i in range(3):
        truth, hidden = photographs[i].double().permute(1, 2, 0).numpy(), hidden_pixels(mask)[i, 0].numpy()
        expected = inpaint_biharmonic(truth, hidden, channel_axis=-1)
        np.testing.assert_array_equal(image[i].permute(1, 2, 0).numpy(), expected)


def test_biharmonic_continues_a_ramp_between_visible_patches():
    """Second differences of a ramp are zero, so it is the smoothest surface through what is visible of it."""
    ramp = torch.linspace(0, 1, 40, dtype=torch.float64).expand(1, 3, 40, 40)
    mask = torch.zeros(1, 5, 5, dtype=torch.bool)
    mask[0, 1:4, 1:4] = True
    torch.testing.assert_close(SIMPLE["biharmonic"](ramp, mask.flatten(1)), ramp, rtol=0, atol=1e-9)


@pytest.mark.filterwarnings("error")
def test_biharmonic_is_finite_without_a_warning_from_a_single_visible_patch(photographs):
    mask = torch.ones(3, 24, dtype=torch.bool)
    mask[:, 0] = False
    assert SIMPLE["biharmonic"](photographs, mask).isfinite().all()


def test_biharmonic_does_not_depend_on_the_number_of_threads(photographs, mask):
    threads = torch.get_num_threads()
    images = []
    try:
        for count in (1, 4):
            torch.set_num_threads(count)
            images.append(SIMPLE["biharmonic"](photographs, mask))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*images)
