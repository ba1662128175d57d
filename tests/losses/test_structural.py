"""Structural terms against scikit-image on photographs, and what they do at the borders of hidden patches."""

import numpy as np
import pytest
import torch
from kornia.losses import MS_SSIMLoss
from skimage.metrics import structural_similarity

from losses import InvalidSetting, Reconstruction, TermContext
from losses.pixel import SSIM, MultiScaleSSIM
from losses.reconstruction import patchify
from tests.losses.scenes import one_line, photographs

ALL = TermContext((64, 64))


def blurred_photographs(kept: float = 0.3, side: int = 24) -> Reconstruction:
    """Photographs in double precision, of which the prediction has lost contrast; every patch is hidden."""
    image = photographs((side, side)).double()
    worse = kept * image + (1 - kept) * image.mean((2, 3), keepdim=True)
    mask = torch.ones(len(image), (side // 8) ** 2, dtype=torch.bool)
    return Reconstruction(patchify(worse, 8), image, mask, mean=(0.0,) * 3, std=(1.0,) * 3)


def test_ssim_is_scikit_images():
    """Both filter with a Gaussian of 1.5 pixels, cut at 11, and mirror at the borders."""
    r = blurred_photographs(side=64)
    expected = np.mean(
        [
            structural_similarity(
                image.permute(1, 2, 0).numpy(), truth.permute(1, 2, 0).numpy(), channel_axis=2, data_range=1.0,
                gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True,
            )[1].mean()
            for image, truth in zip(r.composite, r.image, strict=True)
        ]
    )  # fmt: skip
    assert float(SSIM(None, ALL).value(r)) == pytest.approx((1 - expected) / 2, abs=2e-4)


@pytest.mark.parametrize("size", [(64, 64), (24, 40)], ids=str)
def test_ms_ssim_is_kornias(size):
    truth = photographs(size).double()
    image = 0.7 * truth + 0.3 * truth.flip(-1)
    torch.set_default_dtype(torch.float64)  # of kornia's windows
    try:
        loss = MS_SSIMLoss(alpha=0.84, compensation=1.0, reduction="none")
    finally:
        torch.set_default_dtype(torch.float32)
    ours = MultiScaleSSIM(None, ALL).double().map(image, truth)[:, 0]
    assert torch.allclose(ours, loss(image, truth), rtol=0, atol=1e-11)


@pytest.mark.parametrize("term", [SSIM, MultiScaleSSIM])
def test_a_worse_picture_costs_more(term):
    values = [float(term(None, ALL).value(blurred_photographs(kept))) for kept in (0.9, 0.6, 0.3, 0.0)]
    assert values == sorted(values) and values[0] > 0


@pytest.mark.parametrize("term", [SSIM, MultiScaleSSIM])
def test_predictions_that_overshoot_have_a_gradient(term):
    r = blurred_photographs()
    over = (r.prediction * 3 + 1).requires_grad_()
    (gradient,) = torch.autograd.grad(term(None, ALL).value(r.at(over, "hidden")), over)
    assert gradient.isfinite().all() and gradient.ne(0).all(-1).float().mean() > 0.5


@pytest.mark.parametrize("term", [SSIM, MultiScaleSSIM])
def test_autocast_around_it_changes_no_bit(term):
    r = blurred_photographs()
    r = Reconstruction(r.prediction.float(), r.image.float(), r.mask, mean=(0.0,) * 3, std=(1.0,) * 3)
    alone = term(None, ALL).value(r)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(term(None, ALL).value(r), alone)


@pytest.mark.parametrize("term", [SSIM, MultiScaleSSIM])
def test_images_below_the_window_are_one_line(term):
    with pytest.raises(InvalidSetting) as error:
        term(None, TermContext((8, 64)))
    assert "data.image_size" in one_line(error)
