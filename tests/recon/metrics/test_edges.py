"""Edge width and CPBD of hidden patches: against the papers in slow loops, ramps of known width, blur and masks."""

import math

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
from skimage.color import rgb2gray

from recon.metrics.base import METRICS, Pair, Undefined
from recon.metrics.sharpness import cpbd, edge_width
from tests.recon.metrics.scenes import PHOTOGRAPHS, batch, colours, cut, luminance, somewhere, whole

FUNCTIONS = [edge_width, cpbd]
every_photograph = pytest.mark.parametrize("name", PHOTOGRAPHS)
every_function = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)


# The papers, pixel by pixel -----------------------------------------------------------------------------------


def widths_by_the_paper(patch: np.ndarray, mean_square: float) -> list[int]:
    derivative = ndi.sobel(patch, axis=1) / 8
    strength = derivative**2
    height, width = patch.shape
    found = []
    for y in range(1, height - 1):
        for x in range(2, width - 2):
            if strength[y, x] <= max(4 * mean_square, (1 / 510) ** 2):
                continue
            if not strength[y, x - 1] <= strength[y, x] > strength[y, x + 1]:
                continue
            dx, dy = patch[y, x + 1] - patch[y, x - 1], patch[y + 1, x] - patch[y - 1, x]
            angle = math.degrees(math.atan2(dy, dx))
            if dx == dy == 0 or round(angle / 45) not in (0, 4, -4):
                continue
            row = patch[y] if dx > 0 else -patch[y]
            left, right = x - 1, x + 1
            while left > 0 and row[left - 1] < row[left]:
                left -= 1
            while right < width - 1 and row[right + 1] > row[right]:
                right += 1
            found.append(right - left)
    return found


def by_the_papers(patches: np.ndarray) -> tuple[float, float]:
    """Mean width, and CPBD from its probabilities with beta = 3.6 in bins of a percent: (n, h, w) patches."""
    mean_square = np.mean([(ndi.sobel(patch, axis=1)[1:-1, 1:-1] / 8) ** 2 for patch in patches])
    every, percents = [], []
    for patch in patches:
        widths = widths_by_the_paper(patch, mean_square)
        just_noticeable = 5 if round(255 * (patch.max() - patch.min())) <= 50 else 3
        every += widths
        percents += [round(100 * (1 - math.exp(-((width / just_noticeable) ** 3.6)))) for width in widths]
    return np.mean(every), np.mean(np.array(percents) <= 63)


@every_photograph
@pytest.mark.parametrize("sigma", [0, 0.6, 1.5])
def test_edges_of_hidden_patches_are_those_of_the_papers(name, sigma):
    patches = cut(ndi.gaussian_filter(luminance(name), sigma)[80:208, 100:276])
    hidden = somewhere(patches)
    width, sharp = by_the_papers(patches[hidden].numpy())
    assert edge_width(patches, hidden).item() == pytest.approx(width, rel=1e-12)
    assert cpbd(patches, hidden).item() == pytest.approx(sharp, rel=1e-12)


@every_photograph
def test_edges_of_an_image_of_one_patch_are_those_of_the_papers(name):
    image = luminance(name)[100:180, 100:220]
    for view in (image, image[:, ::-1], 1 - image):
        width, sharp = by_the_papers(view[None])
        assert whole(edge_width, view.copy()) == pytest.approx(width, rel=1e-12)
        assert whole(cpbd, view.copy()) == pytest.approx(sharp, rel=1e-12)


# Closed forms -------------------------------------------------------------------------------------------------


def ramp(length: int, height: float = 0.75) -> np.ndarray:
    """(16, 16), rises along the row within `length` pixels, in steps that are exact for powers of two."""
    return np.tile(0.125 + height * np.clip((np.arange(16) - 5) / length, 0, 1), (16, 1))


def among_flat(function, *patches: np.ndarray) -> float:
    """The number of patches in a flat neighbourhood, where every slope is steep."""
    every = torch.from_numpy(np.stack([*patches, *[np.zeros_like(patches[0])] * 30]))[None]
    return function(every, torch.ones(every.shape[:2], dtype=torch.bool)).item()


@pytest.mark.parametrize("length", [2, 3, 4, 5, 6, 7, 8])
def test_a_ramp_is_as_wide_as_it_is(length):
    rising = ramp(length)
    for view in (rising, rising[:, ::-1], 1 - rising, rising[::-1]):
        assert among_flat(edge_width, view) == length


def test_a_step_has_a_pixel_on_either_side():
    assert among_flat(edge_width, ramp(1)) == 2


def test_an_edge_that_leaves_the_patch_counts_up_to_the_border():
    row = 0.5 + 0.4 * np.tanh((np.arange(24) - 12) / 6)  # rises from end to end
    for start in (1, 3, 6):
        assert among_flat(edge_width, np.tile(row[start : start + 16], (16, 1))) == 15


@pytest.mark.parametrize(("height", "just_noticeable"), [(50 / 255, 5), (51 / 255, 3), (0.8, 3)])
def test_cpbd_counts_edges_up_to_the_just_noticeable_width_of_their_contrast(height, just_noticeable):
    sharp = [among_flat(cpbd, ramp(length, height)) for length in (1, 2, 3, 4, 5, 6, 7)]
    assert sharp == [1.0] * just_noticeable + [0.0] * (7 - just_noticeable)


def test_width_and_cpbd_are_means_over_edges():
    narrow, wide, brief = ramp(2), ramp(8), ramp(2)
    brief[3:] = 0.125  # ends in row 2, so that its edge is upright in row 1 alone
    assert among_flat(edge_width, narrow, wide) == (2 + 8) / 2
    assert among_flat(edge_width, brief, wide) == pytest.approx((1 * 2 + 14 * 8) / 15)
    assert among_flat(cpbd, brief, wide) == pytest.approx(1 / 15)


def test_edges_are_what_is_steep_for_the_image():
    wide = ramp(8, height=0.25)
    assert among_flat(edge_width, wide, ramp(2, height=0.25)) == (2 + 8) / 2
    assert among_flat(edge_width, wide, ramp(2)) == 2


def test_only_upright_edges_count():
    y, x = np.mgrid[:16, :16]
    slanting, nearly_upright = (np.clip((x + slope * y - 7) / 4, 0, 1) for slope in (0.6, 0.3))
    assert math.isnan(among_flat(edge_width, ramp(2).T)) and math.isnan(among_flat(edge_width, slanting))
    assert 4 <= among_flat(edge_width, nearly_upright) <= 5


@every_function
def test_less_than_an_eight_bit_level_is_no_edge(function):
    assert math.isnan(among_flat(function, ramp(1, height=0.99 / 255)))
    assert not math.isnan(among_flat(function, ramp(1, height=1.01 / 255)))


# Blur and seams -----------------------------------------------------------------------------------------------


@every_photograph
def test_edges_widen_with_every_step_of_gaussian_blur(name):
    image = luminance(name)
    hidden = somewhere(cut(image))
    sigmas = (0, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6)
    widths, sharp = ([f(cut(ndi.gaussian_filter(image, s)), hidden).item() for s in sigmas] for f in FUNCTIONS)
    assert widths == sorted(widths) and len(set(widths)) == len(sigmas)
    assert sharp == sorted(sharp, reverse=True) and len(set(sharp[:6])) == 6
    assert sharp[-1] == 0  # CPBD has an end; widths go on


@every_photograph
@every_function
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mosaic_of_patch_means_has_no_edge_at_all(function, name, dtype):
    truth = torch.from_numpy(colours(name)).permute(2, 0, 1)[None].to(dtype)
    means = torch.nn.functional.avg_pool2d(truth, 16)
    mosaic = means.repeat_interleave(16, 2).repeat_interleave(16, 3)
    hidden = somewhere(means.flatten(2).mT)
    assert function(Pair(mosaic, truth, hidden).grey_patches, hidden).isnan().all()
    seen_whole = whole(function, rgb2gray(mosaic[0].permute(1, 2, 0).double().numpy()))
    assert seen_whole == pytest.approx(2 if function is edge_width else 1)  # every seam would be a perfect edge


# Masks and batches --------------------------------------------------------------------------------------------


@every_function
def test_every_image_is_judged_alone(function):
    patches, hidden = batch()
    alone = torch.cat([function(patches[i : i + 1], hidden[i : i + 1]) for i in range(len(patches))])
    assert torch.equal(function(patches, hidden), alone)
    assert alone.shape == (3,) and alone.unique().numel() == 3


@every_function
def test_visible_patches_change_nothing(function):
    patches, hidden = batch()
    expected = function(patches, hidden)
    for other in (torch.zeros_like(patches), torch.rand_like(patches), torch.full_like(patches, torch.nan)):
        assert torch.equal(function(torch.where(hidden[..., None, None], patches, other), hidden), expected)


@every_function
def test_the_order_of_patches_does_not_matter(function):
    patches, hidden = batch()
    order = torch.randperm(patches.shape[1], generator=torch.Generator().manual_seed(2))
    assert torch.equal(function(patches[:, order], hidden[:, order]), function(patches, hidden))


@every_function
def test_an_image_without_hidden_patches_or_edges_has_no_number_and_spares_the_others(function):
    patches, hidden = batch()
    expected = function(patches, hidden)
    hidden[0], patches[1] = False, 0
    found = function(patches, hidden)
    assert found.isnan().tolist() == [True, True, False]
    assert found[2] == expected[2]
    assert function(patches, torch.zeros_like(hidden)).isnan().all()


@every_function
def test_what_is_not_a_number_in_a_hidden_patch_stays_so(function):
    patches, hidden = batch()
    patches[2, hidden[2].int().argmax(), 8, 8] = torch.nan
    assert function(patches, hidden).isnan().tolist() == [False, False, True]


@every_function
def test_single_precision_is_enough(function):
    patches, hidden = batch()
    single = function(patches.float(), hidden)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), function(patches, hidden), rtol=1e-4, atol=0)


@every_function
def test_a_patch_below_eight_pixels_is_refused(function):
    assert not math.isnan(among_flat(function, ramp(1)[:8, 2:10]))
    with pytest.raises(Undefined, match=r"^patches below 8 pixels$"):
        among_flat(function, ramp(1)[:7, 2:9])


def test_metrics_read_the_reconstruction_s_hidden_patches():
    truth = torch.from_numpy(np.stack([colours(name) for name in PHOTOGRAPHS])).permute(0, 3, 1, 2)
    image = torch.from_numpy(np.stack([ndi.gaussian_filter(colours(n), (1, 1, 0)) for n in PHOTOGRAPHS]))
    hidden = somewhere(batch()[0])
    pair = Pair(image.permute(0, 3, 1, 2), truth, hidden)
    for name, function in zip(("edge_width", "cpbd"), FUNCTIONS, strict=True):
        metric = METRICS[name]
        numbers = metric(pair)
        assert torch.equal(numbers, function(pair.grey_patches, hidden))
        assert (numbers != metric(Pair(pair.truth, pair.truth, pair.mask))).all()
        assert metric.low <= numbers.min() and numbers.max() <= metric.high
