"""Sliced Wasserstein distance of patches' DCT coefficients."""

import math
from functools import cache

import numpy as np
import pytest
import scipy.stats
import skimage.data
import torch
from skimage.filters import gaussian

from recon.metrics.base import Pair
from recon.metrics.distribution import SlicedWasserstein
from recon.metrics.intervals import mean_interval


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
    return (float(x @ y) / len(x) + 1) ** 3


def standard_error(values: torch.Tensor) -> float:
    return float(values.std() / math.sqrt(len(values)))


@cache
def photographs(blur: float = 0) -> torch.Tensor:
    """(12, 3, 64, 64): corners of three photographs."""
    pixels = [getattr(skimage.data, name)()[:256, 100:356] / 255 for name in ("astronaut", "chelsea", "coffee")]
    if blur:
        pixels = [gaussian(x, blur, channel_axis=2) for x in pixels]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float()
    return torch.cat([images[:, :, i : i + 64, j : j + 64] for i in (0, 150) for j in (0, 150)])


def random_mask(b: int, n: int, share: float = 0.75) -> torch.Tensor:
    return torch.rand(b, n, generator=torch.Generator().manual_seed(0)) < share


def all_hidden(image: torch.Tensor, truth: torch.Tensor, p: int) -> Pair:
    return Pair(image, truth, torch.ones(len(truth), truth.shape[2] * truth.shape[3] // p**2, dtype=torch.bool))


def sliced(*pairs: Pair, swaps: int = 0, **options) -> SlicedWasserstein:
    """By default without subtracting what finite samples are apart."""
    options["swaps"] = swaps
    result = SlicedWasserstein(pairs[0].patch_size, **options)
    for pair in pairs:
        result.update(pair)
    return result


def test_the_distance_along_every_vector_is_scipy_s():
    pair = Pair(photographs(blur=1), photographs(), random_mask(12, 64))
    result = sliced(pair, projections=9)
    predicted, true, filled = result.kept[0]
    assert filled.all()
    expected = [
        scipy.stats.wasserstein_distance(x, y) / np.sqrt(np.mean(y**2))
        for x, y in zip(*(t.double().flatten(0, 1).T.numpy() for t in (predicted, true)), strict=True)
    ]
    assert result.compute() == pytest.approx(np.mean(expected), rel=1e-10)


def test_projections_are_of_coefficients_of_one_band_each():
    """Only a patch with energy in a vector's band has a projection on it, of that energy at most."""
    directions = SlicedWasserstein(8, projections=20).directions.view(20, 3, 8, 8)
    radius = torch.arange(8.0).square().add(torch.arange(8.0).square()[:, None]).sqrt().round().clamp(max=7)
    for k, direction in enumerate(directions):
        assert radius[direction.abs().sum(0) > 0].unique().tolist() == [k % 7 + 1]
        assert direction.norm().item() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("contrast", [0.4, 0.8, 1.3])
def test_a_change_in_contrast_of_gaussian_texture_has_a_closed_form(contrast):
    """W1 of N(0, 1) and N(0, s²) is |1 - s| sqrt(2/π); 8000 patches know it to about 1%."""
    noise = 0.05 * normal(500, 3, 16, 16).float()
    found = sliced(all_hidden(0.5 + contrast * noise, 0.5 + noise, 4), projections=6).compute()
    assert found == pytest.approx(abs(1 - contrast) * math.sqrt(2 / math.pi), rel=0.04)


def test_another_draw_of_the_same_texture_comes_nearer_with_the_number_of_images():
    distances = []
    for n in (8, 128):
        draws = [0.5 + 0.05 * normal(n, 3, 16, 16, seed=seed).float() for seed in (1, 2)]
        distances.append(sliced(all_hidden(*draws, 4)).compute())
    assert distances[1] < 0.05 and distances[0] / distances[1] == pytest.approx(4, rel=0.25)


def test_the_truth_has_no_distance_in_any_order():
    """Sets are compared: patches may change places, and images too."""
    truth = photographs()
    grid = truth.unflatten(3, (4, 16)).unflatten(2, (4, 16))
    shuffled = grid.flip(0, 2, 4).flatten(4, 5).flatten(2, 3)
    same, moved = sliced(all_hidden(truth, truth, 16)), sliced(all_hidden(shuffled, truth, 16))
    assert same.compute() == 0 and (same.per_image() == 0).all()
    assert moved.compute() < 1e-6


def test_batches_and_their_order_do_not_show():
    image, truth, mask = photographs(blur=1), photographs(), random_mask(12, 64)
    pairs = [Pair(image[i], truth[i], mask[i]) for i in (slice(0, 5), slice(5, 12))]
    whole = sliced(Pair(image, truth, mask))
    assert sliced(*pairs).compute() == pytest.approx(whole.compute(), rel=1e-9)
    assert torch.allclose(sliced(*pairs).per_image(), whole.per_image(), rtol=1e-9, atol=1e-12)
    swapped = sliced(*pairs[::-1]).per_image()
    assert torch.allclose(swapped.roll(5), whole.per_image(), rtol=1e-9, atol=1e-12)


def test_blur_and_mosaics_are_ever_farther():
    truth, mask = photographs(), random_mask(12, 64)
    mosaic = torch.nn.functional.avg_pool2d(truth, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    images = [*(photographs(blur) for blur in (0, 0.4, 0.8, 1.5, 3)), mosaic]
    distances = [sliced(Pair(image, truth, mask)).compute() for image in images]
    assert distances[0] == 0 and (np.diff(distances) > 0).all()


def test_visible_patches_change_nothing():
    image, truth, mask = photographs(blur=1), photographs(), random_mask(12, 64)
    pair = Pair(image, truth, mask)
    repainted = Pair(image, torch.where(pair.hidden, truth, 1 - truth), mask)
    assert torch.equal(sliced(pair).per_image(), sliced(repainted).per_image())


@pytest.mark.parametrize("hidden", [5, 16, 40])
def test_at_most_sixteen_patches_count_and_they_are_spread_evenly(hidden):
    truth = photographs()[:1]
    mask = (torch.arange(64) < hidden)[None]
    counts = []
    for patch in range(hidden):
        wrong = torch.arange(64) == patch
        image = torch.where(Pair(truth, truth, wrong[None]).hidden, 1 - truth, truth)
        counts.append(sliced(Pair(image, truth, mask), projections=7).compute() > 0)
    places = np.flatnonzero(counts)
    assert len(places) == min(hidden, 16)
    step = hidden // 16
    assert places[0] == 0 and places[-1] + step + 1 >= hidden and set(np.diff(places)) <= {step, step + 1}


def test_images_add_up_to_the_distance():
    """With as many patches of each, an image's part is that of the sum; with fewer it weighs less."""
    mask = random_mask(12, 64)
    mask[2, 5:], mask[3] = False, False
    result = sliced(Pair(photographs(blur=1), photographs(), mask))
    values = result.per_image()
    assert values.shape == (12,) and values.isnan().nonzero().flatten().tolist() == [3]
    predicted, true, filled = result.kept[0]
    predicted, true = predicted[filled].double(), true[filled].double()
    distances = (predicted.sort(0)[0] - true.sort(0)[0]).abs().mean(0) / true.square().mean(0).sqrt()
    assert result.compute() == pytest.approx(distances.mean().item(), rel=1e-9)
    assert values.nanmean().item() == result.compute()


def test_an_image_s_part_is_what_one_more_of_it_does_to_the_distance():
    """Beside 50 of every image, to first order; of images with fewer patches too."""
    image, truth, mask = photographs(blur=1)[:4], photographs()[:4], random_mask(4, 64)
    mask[2, 8:] = False
    once = Pair(image, truth, mask)
    whole = sliced(once, projections=7)
    for i, value in enumerate(whole.per_image()):
        more = sliced(*[once] * 50, Pair(image[i : i + 1], truth[i : i + 1], mask[i : i + 1]), projections=7)
        found = 201 * (more.compute() - whole.compute())
        assert found == pytest.approx((value - whole.compute()).item(), abs=0.002)


def test_an_image_with_nan_is_left_out_alone():
    image, truth, mask = photographs(blur=1), photographs(), random_mask(12, 64)
    rest = [i for i in range(12) if i != 4]
    image[4] = math.nan
    values = sliced(Pair(image, truth, mask)).per_image()
    assert values.isnan().nonzero().flatten().tolist() == [4]
    assert torch.equal(values[rest], sliced(Pair(image[rest], truth[rest], mask[rest])).per_image())


def test_a_truth_without_texture_has_no_scale():
    flat = 0.3 + 1e-7 * torch.rand(2, 3, 16, 16)  # what rounding leaves is none
    assert math.isnan(sliced(all_hidden(torch.rand(2, 3, 16, 16), flat, 4)).compute())


def test_the_standard_error_over_images_is_the_deviation_between_replicates():
    """Images whose contrast differs, so that patches of one image are not independent; as in the test of KID."""
    replicates = []
    for seed in range(200):
        texture, noise = normal(40, 3, 8, 8, seed=2 * seed), normal(40, 3, 8, 8, seed=2 * seed + 1)
        contrast = 0.02 + 0.03 * uniform(40, 1, 1, 1, seed=seed)
        truth, image = (0.5 + contrast * x for x in (texture, 0.5 * texture + 0.2 * noise))
        values = sliced(all_hidden(image, truth, 4), projections=6).per_image()
        replicates.append((float(values.mean()), standard_error(values)))
    replicates = np.array(replicates)
    z = (replicates[:, 0] - replicates[:, 0].mean()) / replicates[:, 1]
    assert z.std() == pytest.approx(1, abs=0.2)


def test_two_samples_of_one_distribution_are_not_apart_and_their_interval_says_so():
    """256 images, as an evaluation has; without the subtraction the distance is 0.11 and never covers 0."""
    found = []
    for seed in range(12):
        truth, image = (0.5 + 0.1 * normal(256, 3, 8, 8, seed=2 * seed + i) for i in (0, 1))
        values = sliced(all_hidden(image, truth, 8), projections=16, swaps=2).per_image()
        interval = mean_interval(values)
        assert interval.low < 0 < interval.high
        found.append(interval.value)
    assert abs(np.mean(found)) < 4 * np.std(found, ddof=1) / math.sqrt(12)


def test_what_is_farther_apart_than_samples_are_keeps_its_distance():
    """Texture of 0.8 of the contrast: W1 is 0.2 E|z|, sqrt(0.08 / pi), of infinitely many images."""
    truth, image = (0.5 + contrast * normal(256, 3, 16, 16, seed=i) for i, contrast in enumerate((0.1, 0.08)))
    pair = all_hidden(image, truth, 8)
    raw, found = (sliced(pair, projections=16, swaps=swaps).compute() for swaps in (0, 2))
    assert raw > math.sqrt(0.08 / math.pi) and found == pytest.approx(math.sqrt(0.08 / math.pi), rel=0.12)
    order = torch.randperm(256, generator=torch.Generator().manual_seed(0))
    shuffled = sliced(Pair(image[order], truth[order], pair.mask), projections=16, swaps=2)
    assert shuffled.compute() == pytest.approx(found, rel=1e-9)
    assert sliced(Pair(truth, truth, pair.mask), swaps=2).compute() == 0
