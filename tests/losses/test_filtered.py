"""Terms on filtered images, against the published package and closed forms."""

import math

import pytest
import torch
from focal_frequency_loss import FocalFrequencyLoss

from losses import NormalisedPixelHead, Reconstruction
from losses.filtered import Fourier, Gradient, LowPass
from losses.options import LowPassOptions
from losses.pixel import NormMSE
from losses.reconstruction import patchify
from tests.losses.scenes import gradient_of, photographs, scene

PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


def waves(frequency: float, size: int = 64) -> torch.Tensor:
    """Two images of a wave, across and down, of so many cycles per pixel: (2, 3, size, size)."""
    wave = 0.5 + 0.4 * torch.cos(2 * math.pi * frequency * torch.arange(size, dtype=torch.float64))
    across = wave.expand(3, size, size)
    return torch.stack([across, across.mT])


@pytest.mark.parametrize("over", ["hidden", "all"])
def test_fourier_is_the_published_package(over):
    r = scene(3, size=(32, 32), **PLAIN)
    leaf = r.prediction.clone().requires_grad_()
    seen = r.at(leaf, over)
    expected = FocalFrequencyLoss()(seen.judged_image, r.image)
    (theirs,) = torch.autograd.grad(expected, leaf)
    assert float(Fourier().value(r.at(r.prediction, over))) == pytest.approx(float(expected), rel=1e-5)
    torch.testing.assert_close(gradient_of(Fourier(), r, over), theirs, rtol=1e-4, atol=1e-9)


def test_fourier_of_one_wave_is_its_squared_error():
    """Of one frequency all weights are 1 or do not matter: Parseval's theorem."""
    truth = waves(8 / 64)
    r = Reconstruction(patchify(truth.flip(0), 8), truth, torch.ones(2, 64, dtype=torch.bool), **PLAIN)
    assert float(Fourier().value(r)) == pytest.approx(float((truth.flip(0) - truth).square().mean()), rel=1e-9)


def test_gradient_is_that_of_the_paper_by_loops():
    r = scene(1, size=(16, 16), **PLAIN)
    image, truth, hidden = r.composite[0], r.image[0], r.hidden_pixels[0, 0]
    errors = []
    for y in range(16):
        for x in range(16):
            for dy, dx in ((1, 0), (0, 1)):
                if y + dy < 16 and x + dx < 16 and (hidden[y, x] or hidden[y + dy, x + dx]):
                    of = ((i[:, y + dy, x + dx] - i[:, y, x]).abs() for i in (image, truth))
                    errors.append((next(of) - next(of)).abs().mean())
    assert float(Gradient().value(r)) == pytest.approx(float(torch.stack(errors).mean()), rel=1e-5)


def test_gradient_does_not_see_a_constant_or_a_negative():
    truth = photographs((32, 32)).double()
    everywhere = torch.ones(len(truth), 16, dtype=torch.bool)
    for other in (truth + 0.2, 1 - truth):
        assert float(Gradient().value(Reconstruction(patchify(other, 8), truth, everywhere, **PLAIN))) < 1e-12


def test_low_pass_keeps_low_waves_and_removes_high_ones():
    low, high, r = waves(4 / 64), waves(16 / 64), scene(2, size=(64, 64))
    term = LowPass(LowPassOptions(cutoff=0.1))
    torch.testing.assert_close(term.filtered(low + high - 0.5), low)
    target = NormalisedPixelHead().target(patchify(term.filtered(r.standardised_image), 8))
    assert float(term.value(r.at(target, "hidden"))) == 0


def test_low_pass_of_everything_is_norm_mse():
    """The corners of the spectrum lie at sqrt(1/2) cycles per pixel."""
    r = scene(2, head=NormalisedPixelHead())
    all_kept = LowPass(LowPassOptions(cutoff=0.71)).value(r)
    torch.testing.assert_close(all_kept, NormMSE().value(r), rtol=1e-4, atol=0)


def test_low_pass_rotates_with_the_image():
    """A circle of frequencies has no direction."""
    images, term = photographs((32, 32)).double(), LowPass()
    torch.testing.assert_close(term.filtered(images.rot90(1, (2, 3))), term.filtered(images).rot90(1, (2, 3)))
