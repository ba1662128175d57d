"""Gaussian random fields have the covariance that they say they have."""

import numpy as np
import pytest
import torch
from PIL import Image

from losses import InvalidSetting
from recon.data import create_dataset, held_out_images, training_batches
from recon.data.batches import permutation
from recon.data.synthetic import (
    EXPONENTS,
    FIELD_SIDE,
    MEAN,
    QUANTISATION,
    STD,
    autocovariance,
    colour,
    colour_covariance,
    power,
)
from tests.recon.data.conftest import masking

IMAGES = 210


@pytest.fixture(scope="module")
def train():
    return create_dataset("gaussian_field", "train")


@pytest.fixture(scope="module")
def fields(train):
    """(IMAGES, 3, FIELD_SIDE, FIELD_SIDE) float64, centred, and labels (IMAGES,)."""
    images, labels = zip(*(train.read(i) for i in range(IMAGES)), strict=True)
    pixels = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(pixels).movedim(-1, 1).double() / 255 - MEAN, torch.tensor(labels)


def test_an_image_is_a_function_of_its_split_and_index(train):
    again, val = create_dataset("gaussian_field", "train"), create_dataset("gaussian_field", "val")
    assert train.read(7)[0].tobytes() == again.read(7)[0].tobytes() and train.read(7)[1] == again.read(7)[1]
    images = [source.read(i)[0].tobytes() for source in (train, val) for i in range(20)]
    names = [source.name_of(i) for source in (train, val) for i in range(len(source))]
    assert len(set(images)) == len(images) and len(set(names)) == len(names) == 11_000
    image = train.read(0)[0]
    assert isinstance(image, Image.Image) and (image.mode, image.size) == ("RGB", (FIELD_SIDE, FIELD_SIDE))


def test_the_global_random_states_are_left_alone(train):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    train.read(0)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == np.random.get_state()[1].tolist()


def test_every_class_is_there_as_often_as_the_others(fields, train):
    assert train.classes == ["1/f^1", "1/f^2", "1/f^3"]
    counts = fields[1].bincount(minlength=3)
    assert (counts - IMAGES / 3).abs().max() < 4 * (IMAGES * 2 / 9) ** 0.5


@pytest.mark.parametrize("label", range(3))
def test_the_measured_spectrum_falls_as_the_class_says(fields, label):
    """The slope of log power over log frequency of numpy's periodogram, to 0.02: its standard error is 0.005."""
    images = fields[0][fields[1] == label].numpy()
    periodogram = (np.abs(np.fft.fft2(images)) ** 2).mean((0, 1))
    frequency = np.fft.fftfreq(FIELD_SIDE)
    radius = np.hypot(frequency[:, None], frequency)
    low = (radius > 0) & (radius < 0.25)  # beyond it the rounding to 8 bits shows at a = 3
    slope = np.polyfit(np.log(radius[low]), np.log(periodogram[low]), 1)[0]
    assert abs(slope + EXPONENTS[label]) < 0.02
    assert periodogram[0, 0] < 0.01 * periodogram[0, 1]


@pytest.mark.parametrize("label", range(3))
def test_samples_have_the_spectrum_in_space_and_colour(fields, label):
    """Cross-spectra of all channels over the exact ones: 1 at each of 8,064 frequencies that are independent.

    About 70 images: within 5.5 standard errors of 0.12 for a frequency, and within 4 of 0.001 for their mean.
    """
    images = fields[0][fields[1] == label]
    spectrum = torch.fft.rfft2(images)[:, :, :, 1:-1] / FIELD_SIDE
    shape = FIELD_SIDE**2 * power(EXPONENTS[label])[:, 1 : FIELD_SIDE // 2]
    for c, d in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (0, 2)):
        variance = colour_covariance()[c, d] * shape + QUANTISATION * (c == d)
        deviation = (spectrum[:, c] * spectrum[:, d].conj()).real / variance - 1
        # for one frequency, by Isserlis' theorem
        error = ((1 + (colour_covariance()[0, 0] / colour_covariance()[c, d]) ** 2) / 2 / len(images)) ** 0.5
        assert deviation.mean(0).abs().max() < 5.5 * error
        assert deviation.mean().abs() < 4 * error / deviation[0].numel() ** 0.5


def test_rounding_is_white_noise_of_the_variance_that_is_told():
    noise = torch.randn(40, 3, FIELD_SIDE, FIELD_SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for exponent in EXPONENTS:
        exact = torch.stack([STD * colour(image, exponent) + MEAN for image in noise])
        rounded = (exact * 255).round() / 255
        residue = torch.fft.fft2(rounded - exact).abs().square().mean((0, 1)) / FIELD_SIDE**2
        rings = [residue[r:, r:].mean() for r in (0, FIELD_SIDE // 4)]
        assert all(abs(ring / QUANTISATION - 1) < 0.01 for ring in rings)


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_autocovariance_is_the_sum_of_cosines_weighted_by_power(exponent):
    """The definition, for some pairs of pixels of an oblong window."""
    pixels = torch.cartesian_prod(torch.arange(3), torch.arange(5))
    row, column = ((pixels[:, None] - pixels) % FIELD_SIDE).unbind(-1)
    whole = autocovariance(exponent)[row, column]
    assert whole.shape == (15, 15) and whole.dtype == torch.float64
    frequency = np.fft.fftfreq(FIELD_SIDE) * FIELD_SIDE
    radius = np.hypot(frequency[:, None], frequency)
    weights = np.where(radius > 0, np.maximum(radius, 1) ** -float(exponent), 0)
    for i, j in ((0, 0), (0, 1), (0, 5), (3, 9), (14, 0)):
        lag = (np.array(divmod(i, 5)) - divmod(j, 5)) / FIELD_SIDE
        wave = np.cos(2 * np.pi * (frequency[:, None] * lag[0] + frequency * lag[1]))
        np.testing.assert_allclose(whole[i, j], (weights * wave).sum() / weights.sum(), atol=1e-12)
    assert torch.linalg.eigvalsh(whole).min() > 0 and torch.equal(whole.diagonal(), torch.ones(15).double())


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_the_law_is_the_same_mirrored_and_turned(exponent):
    lag = autocovariance(exponent)
    for other in (lag.flip(1).roll(1, 1), lag.T):
        torch.testing.assert_close(other, lag, rtol=0, atol=1e-12)
    assert power(exponent).sum().item() == pytest.approx(1, abs=1e-12)


def test_colour_of_white_noise_is_the_colour_covariance():
    """An image of noise in one channel after the other gives the square root's columns."""
    impulse = torch.zeros(3, 3, FIELD_SIDE, FIELD_SIDE, dtype=torch.float64)
    impulse[range(3), range(3), 0, 0] = 1
    roots = torch.stack([colour(image, 2)[:, 0, 0] for image in impulse])
    roots = roots / torch.linalg.vector_norm(roots, dim=1, keepdim=True)
    torch.testing.assert_close(STD**2 * roots @ roots.T, colour_covariance(), rtol=0, atol=1e-12)


def test_mean_std_and_clipping_are_as_told(fields, train):
    images = fields[0]
    assert train.mean == (0.5,) * 3 and train.std == (0.12,) * 3
    assert images.mean((2, 3)).abs().max() < 2e-3  # every torus has the mean itself, but for clipping
    variance = images.square().mean((2, 3))
    assert ((variance.mean(0) - STD**2).abs() < 4 * variance.std(0) / IMAGES**0.5).all()
    clipped = (images.abs() >= 0.5 - 1e-9).double().mean().item()
    assert 1e-5 < clipped < 1e-4


# ---- crops


def samples(source, size, count):
    batches = training_batches(source, image_size=size, batch=count, start=0, seed=0, workers=0, masking=masking)
    return next(batches)


def windows_of(image, size):
    """Every window of an image, and of its mirror image, as bytes."""
    pixels = np.asarray(image)
    height, width = size
    return {
        bytes(np.ascontiguousarray(p[i : i + height, j : j + width]))
        for p in (pixels, pixels[:, ::-1])
        for i in range(FIELD_SIDE - height + 1)
        for j in range(FIELD_SIDE - width + 1)
    }


def test_training_crops_are_windows_of_the_field_as_it_is(train):
    batch = samples(train, (120, 96), 4)
    for k in range(4):
        source = train.read(int(permutation(len(train), 0, 0)[k]))
        crop = batch.images[k].movedim(0, -1).contiguous().numpy()
        assert crop.tobytes() in windows_of(source[0], (120, 96)) and batch.labels[k] == source[1]


def test_held_out_images_are_the_middle_of_the_field():
    val = create_dataset("gaussian_field", "val")
    images, _, names = held_out_images(val, (64, 32), 3, 0, masking)
    for image, name in zip(images, names, strict=True):
        whole = np.asarray(val.read(int(name.split("/")[-1]))[0])
        assert np.array_equal((image * 255).round().byte().movedim(0, -1).numpy(), whole[32:96, 48:80])


def test_a_window_may_be_the_whole_torus_but_not_more(train):
    assert samples(train, (FIELD_SIDE, FIELD_SIDE), 1).images.shape == (1, 3, FIELD_SIDE, FIELD_SIDE)
    for size in ((64, 129), (129, 64)):
        for read in (samples, lambda *arguments: held_out_images(*arguments, 0, masking)):
            with pytest.raises(InvalidSetting, match=r"data\.image_size=\[.*129.*\].*at most \[128,128\]") as error:
                read(train, size, 1)
            assert "\n" not in str(error.value)
