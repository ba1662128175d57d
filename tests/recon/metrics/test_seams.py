"""The seam ratio: against slow loops, 1 on photographs sharp or blurred, large on mosaics."""

import io
import math
from functools import cache

import numpy as np
import pytest
import scipy.ndimage as ndi
import skimage.data
import torch
from PIL import Image
from skimage.color import rgb2gray

from recon.metrics.base import METRICS, Pair, Undefined
from recon.metrics.sharpness import seam_ratio

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee")
P, GRID = 16, (18, 25)
every_photograph = pytest.mark.parametrize("name", PHOTOGRAPHS)


def as_tensor(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) -> (1, 3, H, W)."""
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None]


@cache
def photograph(name: str, sigma: float = 0) -> torch.Tensor:
    """(1, 3, 288, 400)."""
    return as_tensor(ndi.gaussian_filter(getattr(skimage.data, name)()[:288, :400] / 255, (sigma, sigma, 0)))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([photograph(name) for name in PHOTOGRAPHS]), somewhere(3)


def somewhere(images: int, seed: int = 0, share: float = 0.75) -> torch.Tensor:
    """(B, N) bool."""
    return torch.rand(images, math.prod(GRID), generator=torch.Generator().manual_seed(seed)) < share


def blocks(per_patch: torch.Tensor) -> torch.Tensor:
    """(B, C, rows, columns) -> (B, C, H, W)."""
    return per_patch.repeat_interleave(P, 2).repeat_interleave(P, 3)


def mosaic(images: torch.Tensor) -> torch.Tensor:
    return blocks(torch.nn.functional.avg_pool2d(images, P))


def by_hand(image: torch.Tensor, mask: torch.Tensor, p: int) -> float:
    """Pixel by pixel, for one image."""
    grey = rgb2gray(image.permute(1, 2, 0).numpy())
    height, width = grey.shape
    hidden = mask.numpy().reshape(height // p, width // p)
    inside, across = [], []
    for y in range(height):
        for x in range(width):
            for v, u in ((y, x + 1), (y + 1, x)):
                if v == height or u == width or not (hidden[y // p, x // p] and hidden[v // p, u // p]):
                    continue
                same = (y // p, x // p) == (v // p, u // p)
                (inside if same else across).append(abs(grey[v, u] - grey[y, x]))
    return np.mean(across) / np.mean(inside)


@every_photograph
@pytest.mark.parametrize("p", [2, 4, 8])
def test_steps_are_counted_pixel_by_pixel(name, p):
    image = photograph(name)[:, :, 100:140, 120:176]
    mask = torch.rand(1, 40 * 56 // p**2, generator=torch.Generator().manual_seed(p)) < 0.6
    assert seam_ratio(image, mask).item() == pytest.approx(by_hand(image[0], mask[0], p), rel=1e-12)


def test_photographs_have_no_seams_be_they_sharp_or_blurred():
    for sigma in (0, 1, 2, 4):
        images = torch.cat([photograph(name, sigma) for name in PHOTOGRAPHS])
        ratios = torch.stack([seam_ratio(images, somewhere(3, seed)) for seed in range(8)])
        assert ratios.min() > 0.85 and ratios.max() < 1.15
        assert ratios.mean().item() == pytest.approx(1, abs=0.03)


@every_photograph
def test_blur_between_sharp_visible_patches_is_no_seam(name):
    mask = somewhere(1)
    pair = Pair(photograph(name, sigma=2), photograph(name), mask)
    assert seam_ratio(pair.image, mask).item() == pytest.approx(1, abs=0.1)


@every_photograph
def test_a_mosaic_of_patch_means_is_all_seam(name):
    truth, mask = photograph(name), somewhere(1)
    ratio = seam_ratio(mosaic(truth), mask).item()
    assert 100 * seam_ratio(truth, mask).item() < ratio < 2550


@every_photograph
def test_seams_grow_with_the_shift_of_patches_against_each_other(name):
    truth, mask = 0.25 + 0.5 * photograph(name), somewhere(1)
    shifts = blocks(torch.randn(1, 1, *GRID, generator=torch.Generator().manual_seed(3), dtype=truth.dtype))
    ratios = [seam_ratio(truth + deviation * shifts, mask).item() for deviation in (0, 0.01, 0.02, 0.05, 0.1)]
    assert ratios == sorted(ratios) and len(set(ratios)) == len(ratios)


def test_jpeg_s_own_grid_shows_where_it_lies_on_the_patches():
    file = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).save(file, "jpeg", quality=50)
    image = np.array(Image.open(file)) / 255
    everything = torch.ones(1, 63**2, dtype=torch.bool)
    on, off = (seam_ratio(as_tensor(image[i : i + 504, i : i + 504]), everything).item() for i in (0, 3))
    assert on > 1.15 and off == pytest.approx(1, abs=0.05)


def test_chequers_of_black_and_white_patches_have_the_largest_ratio():
    chequers = torch.tensor(np.indices(GRID).sum(0) % 2)[None, None].expand(1, 3, -1, -1)
    ratio = seam_ratio(blocks(chequers).double(), somewhere(1)).item()
    assert ratio == pytest.approx(2550) and ratio <= METRICS["seam_ratio"].high * (1 + 1e-12)


def test_patches_with_detail_that_meet_without_a_step_have_ratio_zero():
    patch = torch.zeros(P, P)
    patch[4:12, 4:12] = 0.5
    assert seam_ratio(patch.repeat(1, 3, *GRID), somewhere(1)).item() == 0


def test_contrast_and_brightness_do_not_count():
    images, mask = batch()
    torch.testing.assert_close(seam_ratio(0.3 + 0.5 * images, mask), seam_ratio(images, mask), rtol=1e-10, atol=0)


def test_rows_and_columns_count_alike():
    images, mask = batch()
    turned = mask.unflatten(1, GRID).mT.flatten(1)
    torch.testing.assert_close(seam_ratio(images.mT, turned), seam_ratio(images, mask), rtol=1e-12, atol=0)


def test_visible_patches_change_nothing():
    images, mask = batch()
    expected = seam_ratio(images, mask)
    hidden = blocks(mask.unflatten(1, (1, *GRID)))
    for other in (torch.zeros_like(images), torch.rand_like(images), torch.full_like(images, torch.nan)):
        assert torch.equal(seam_ratio(torch.where(hidden, images, other), mask), expected)


def test_every_image_is_judged_alone():
    images, mask = batch()
    alone = torch.cat([seam_ratio(images[i : i + 1], mask[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(seam_ratio(images, mask), alone, rtol=1e-13, atol=0)
    assert alone.shape == (3,) and alone.unique().numel() == 3


def test_an_image_without_seams_to_judge_has_no_number_and_spares_the_others():
    images, mask = batch()
    images, mask = images[[0, 1, 2, 0, 1]], mask[[0, 1, 2, 0, 1]]
    expected = seam_ratio(images, mask)
    images[1] = 0.4  # flat
    mask[2] = False
    mask[3] = torch.from_numpy(np.indices(GRID).sum(0) % 2 == 0).flatten()  # no two hidden patches touch
    images[4] = torch.nan
    found = seam_ratio(images, mask)
    assert found[0] == expected[0] and found[1:].isnan().all()


def test_single_precision_is_enough():
    images, mask = batch()
    single = seam_ratio(images.float(), mask)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), seam_ratio(images, mask), rtol=1e-5, atol=0)


def test_images_without_borders_or_insides_are_refused():
    image = torch.rand(1, 3, 8, 8)
    with pytest.raises(Undefined, match="one patch"):
        seam_ratio(image, torch.ones(1, 1, dtype=torch.bool))
    with pytest.raises(Undefined, match="patches below 2 pixels"):
        seam_ratio(image, torch.ones(1, 64, dtype=torch.bool))


def test_the_metric_reads_the_composite():
    truth, mask = batch()
    pair = Pair(mosaic(truth), truth, mask)
    assert torch.equal(METRICS["seam_ratio"](pair), seam_ratio(pair.image, mask))
    assert (METRICS["seam_ratio"](pair) > METRICS["seam_ratio"](Pair(pair.truth, pair.truth, pair.mask))).all()
