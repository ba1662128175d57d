"""Pixel terms against the official formulas, and what minimises them."""

import pytest
import torch

from losses import Reconstruction
from tests.losses.scenes import VALUES, gradient_of, norm_scene, replaced, scene, term_of


def official_loss(image, prediction, mask, norm: bool):
    """He et al. 2021, models_mae.py `forward_loss`, on an image standardised by the data loader."""
    dtype = image.dtype
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=dtype)[None, :, None, None]
    std = torch.tensor([0.229, 0.224, 0.225], dtype=dtype)[None, :, None, None]
    imgs = (image - mean) / std
    p = 8
    n, _, height, width = imgs.shape
    x = imgs.reshape(n, 3, height // p, p, width // p, p)
    target = torch.einsum("nchpwq->nhwpqc", x).reshape(n, (height // p) * (width // p), p**2 * 3)
    if norm:
        mean = target.mean(dim=-1, keepdim=True)
        var = target.var(dim=-1, keepdim=True)
        target = (target - mean) / (var + 1.0e-6) ** 0.5
    loss = (prediction - target) ** 2
    loss = loss.mean(dim=-1)
    mask = mask.to(dtype)
    return (loss * mask).sum() / mask.sum()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "norm"), [("mse", False), ("norm_mse", True)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_equals_the_official_loss(name, norm, dtype, tolerance, seed):
    r = scene(3, seed=seed, dtype=dtype)
    expected = official_loss(r.image, r.prediction, r.mask, norm)
    assert float(term_of(name).value(r)) == pytest.approx(float(expected), rel=tolerance)


@pytest.mark.parametrize(("name", "norm"), [("mse", False), ("norm_mse", True)])
def test_judged_over_all_patches_equals_the_official_loss_with_a_full_mask(name, norm):
    r = scene(3, dtype=torch.float64)
    expected = official_loss(r.image, r.prediction, torch.ones_like(r.mask), norm)
    assert float(term_of(name).value(r.at(r.prediction, "all"))) == pytest.approx(float(expected), rel=1e-12)


def test_norm_mse_of_a_head_with_statistics_ignores_them():
    r = norm_scene(dtype=torch.float64)
    expected = official_loss(r.image, r.prediction[..., :VALUES], r.mask, norm=True)
    assert float(term_of("norm_mse").value(r)) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("over", ["hidden", "all"])
def test_l1_is_the_mean_absolute_error(over):
    r = scene(3, dtype=torch.float64)
    error = (r.prediction - r.true_pixels).abs()
    expected = error[r.mask].mean() if over == "hidden" else error.mean()
    assert float(term_of("l1").value(r.at(r.prediction, over))) == pytest.approx(float(expected), rel=1e-13)


def test_predicting_nothing_scores_p_minus_one_over_p():
    r = scene(dtype=torch.float64)
    nothing = replaced(r, prediction=torch.zeros_like(r.prediction))
    # epsilon = 1e-6 takes var / (var + epsilon) off it; these patches have a variance above one.
    assert r.true_pixels.var(-1).min() > 1
    expected = (VALUES - 1) / VALUES
    assert expected * (1 - 1e-6) < float(term_of("norm_mse").value(nothing)) < expected


def test_norm_mse_forgives_a_patchs_brightness_and_contrast():
    r = scene(dtype=torch.float64, mean=(0.4,) * 3, std=(0.2,) * 3)
    changed = replaced(r, image=r.image * 0.5 + 0.2)
    assert float(term_of("norm_mse").value(changed)) == pytest.approx(float(term_of("norm_mse").value(r)), rel=1e-5)


@pytest.mark.parametrize(("name", "power"), [("mse", 2), ("l1", 1)])
def test_an_error_twice_as_large_costs_as_much_as_the_power_says(name, power):
    r = scene(dtype=torch.float64)
    once, twice = (replaced(r, prediction=r.true_pixels + k * r.prediction) for k in (1, 2))
    assert float(term_of(name).value(twice)) == pytest.approx(2**power * float(term_of(name).value(once)), rel=1e-12)


@pytest.mark.parametrize("name", ["mse", "norm_mse", "l1"])
def test_the_order_of_patches_does_not_matter(name):
    r = scene(dtype=torch.float64)
    order = torch.randperm(r.mask.shape[1], generator=torch.Generator().manual_seed(1))
    shuffled_image = replaced(r, prediction=r.true_pixels[:, order]).predicted_image
    shuffled = replaced(r, prediction=r.prediction[:, order], image=shuffled_image, mask=r.mask[:, order])
    assert not torch.equal(shuffled.image, r.image)
    assert float(term_of(name).value(shuffled)) == pytest.approx(float(term_of(name).value(r)), rel=1e-12)


@pytest.mark.parametrize(("name", "gradient"), [("mse", lambda d: 2 * d), ("l1", torch.sign)])
def test_gradient_in_closed_form(name, gradient):
    r = scene(dtype=torch.float64)
    difference = r.prediction - r.true_pixels
    expected = gradient(difference) * r.mask[..., None] / (r.mask.sum() * VALUES)
    torch.testing.assert_close(gradient_of(term_of(name), r), expected, rtol=1e-13, atol=0)


def descend(name, truths, rates):
    """Gradient descent of one prediction against equally likely truths, (K, 3, H, W) in [0, 1]."""
    count, _, height, width = truths.shape
    mask = torch.ones(count, (height // 2) * (width // 2), dtype=torch.bool)
    prediction = torch.zeros(1, mask.shape[1], 12, dtype=torch.float64, requires_grad=True)
    term = term_of(name)
    for rate in rates:
        r = Reconstruction(prediction.expand(count, -1, -1), truths, mask)
        (gradient,) = torch.autograd.grad(term.value(r), prediction)
        prediction = (prediction - rate * prediction.numel() * gradient).detach().requires_grad_()
    return prediction[0], r.true_pixels


def test_the_minimiser_of_mse_is_the_mean():
    truths = torch.rand(7, 3, 4, 6, dtype=torch.float64) ** 3
    found, pixels = descend("mse", truths, [0.25] * 60)
    torch.testing.assert_close(found, pixels.mean(0), rtol=0, atol=1e-12)


def test_the_minimiser_of_l1_is_the_median():
    truths = torch.rand(7, 3, 4, 6, dtype=torch.float64) ** 3  # an odd number, so that the median is one
    found, pixels = descend("l1", truths, [2 * 0.98**i for i in range(700)])
    torch.testing.assert_close(found, pixels.median(0).values, rtol=0, atol=1e-3)
    assert (pixels.mean(0) - pixels.median(0).values).abs().max() > 0.1  # the two can be told apart
