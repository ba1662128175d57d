"""Heads: what the decoder puts out becomes pixels, honestly or by the oracle."""

import pytest
import torch

from losses import NormalisedPixelHead, PixelHead
from losses.heads import patch_statistics
from tests.losses.scenes import NAMES, gradient_of, norm_scene, perfect, replaced, scene, term_of


def with_true_statistics(r):
    mean, std = patch_statistics(r.true_pixels)
    return replaced(r, prediction=torch.cat([r.patches, mean, std.log()], -1))


def test_patch_statistics_are_those_of_the_official_code():
    patches = torch.randn(2, 5, 12, dtype=torch.float64) * 3 + 1
    mean, std = patch_statistics(patches)
    centred = patches - patches.sum(-1, keepdim=True) / 12
    assert torch.allclose(mean, patches.sum(-1, keepdim=True) / 12, rtol=1e-14)
    assert torch.allclose(std, (centred.square().sum(-1, keepdim=True) / 11 + 1e-6).sqrt(), rtol=1e-14)


def test_pixels_need_no_oracle():
    r = scene()
    assert torch.equal(r.pixels, r.prediction)
    assert torch.equal(r.oracle_pixels, r.prediction)
    assert torch.equal(r.target, r.true_pixels)
    assert r.head_loss is None and r.head.statistics == 0


def test_perfectly_predicted_statistics_render_as_the_oracle_does():
    r = with_true_statistics(norm_scene(dtype=torch.float64))
    torch.testing.assert_close(r.pixels, r.oracle_pixels, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(r.composite, r.oracle_composite, rtol=1e-13, atol=1e-13)


def test_perfectly_predicted_statistics_leave_the_head_nothing_to_learn():
    r = with_true_statistics(norm_scene(dtype=torch.float64))
    assert float(r.head_loss) == 0


def test_perfect_statistics_of_flat_patches_render_as_the_oracle_does():
    """A flat patch has the smallest log-std there is; the clamp must not touch it."""
    r = norm_scene(dtype=torch.float64)
    r = with_true_statistics(replaced(r, image=torch.full_like(r.image, 0.25)))
    torch.testing.assert_close(r.pixels, r.oracle_pixels, rtol=1e-13, atol=1e-13)


def test_perfect_statistics_of_the_starkest_patches_render_as_the_oracle_does():
    r = norm_scene(dtype=torch.float64)
    stark = (torch.arange(48) % 2).double().expand_as(r.image)
    r = with_true_statistics(replaced(r, image=stark))
    torch.testing.assert_close(r.pixels, r.oracle_pixels, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("wild", [1e4, -1e4])
def test_a_wild_log_std_stays_finite(wild):
    r = norm_scene()
    prediction = r.prediction.clone()
    prediction[..., -1] = wild
    assert replaced(r, prediction=prediction).pixels.isfinite().all()


def test_the_rendering_is_patches_times_std_plus_mean():
    r = norm_scene(dtype=torch.float64)
    mean, log_std = r.prediction[..., -2:-1], r.prediction[..., -1:]
    torch.testing.assert_close(r.pixels, r.prediction[..., :-2] * torch.exp(log_std) + mean, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("over", ["hidden", "all"])
def test_own_loss_is_the_squared_error_of_mean_and_log_std(over):
    r = norm_scene(dtype=torch.float64)
    flat = r.true_pixels
    truth = torch.stack([flat.mean(-1), (flat.var(-1) + 1e-6).sqrt().log()], -1)
    error = (r.prediction[..., -2:] - truth).square()
    expected = error[r.mask].mean() if over == "hidden" else error.mean()
    assert float(r.at(r.prediction, over).head_loss) == pytest.approx(float(expected), rel=1e-13)


@pytest.mark.parametrize("over", ["hidden", "all"])
def test_own_loss_teaches_the_statistics_alone(over):
    r = norm_scene()
    leaf = r.prediction.clone().requires_grad_()
    r.at(leaf, over).head_loss.backward()
    judged = r.mask if over == "hidden" else torch.ones_like(r.mask)
    assert not leaf.grad[..., :-2].any()
    assert leaf.grad[..., -2:].ne(0).all(-1)[judged].all()
    assert not leaf.grad[~judged].any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("over", ["hidden", "all"])
def test_no_term_teaches_the_statistics(name, over):
    r = norm_scene()
    gradient = gradient_of(term_of(name), r, over)
    assert not gradient[..., -2:].any()
    assert gradient[..., :-2].any()


@pytest.mark.parametrize("name", NAMES)
def test_every_term_reads_every_head(name):
    """Two heads that render the same pixels get the same value from a term on pixels, or on normalised patches."""
    pixels = scene(dtype=torch.float64, shift=(0.3, 0.6))
    mean, std = patch_statistics(pixels.true_pixels)
    normalised = torch.cat([(pixels.pixels - mean) / std, mean, std.log()], -1)
    other = replaced(pixels, prediction=normalised, head=NormalisedPixelHead())
    term = term_of(name, torch.float64)
    if name in ("norm_mse", "low_pass"):  # they read the model's own space
        pixels = replaced(pixels, prediction=(pixels.pixels - mean) / std)
    assert float(term.value(other)) == pytest.approx(float(term.value(pixels)), rel=1e-10)


def test_a_prediction_without_statistics_is_rendered_by_the_oracle():
    r = norm_scene(dtype=torch.float64)
    bare = replaced(r, prediction=perfect(r))
    torch.testing.assert_close(bare.oracle_pixels, r.true_pixels, rtol=1e-13, atol=1e-13)
    assert torch.equal(bare.patches, perfect(r))


@pytest.mark.parametrize("view", ["pixels", "predicted_image", "composite"])
def test_a_prediction_without_statistics_has_no_honest_rendering(view):
    r = norm_scene()
    bare = replaced(r, prediction=perfect(r))
    with pytest.raises(ValueError, match=r"no patch statistics.*oracle_pixels"):
        getattr(bare, view)


def test_a_prediction_without_statistics_has_nothing_of_its_own_to_learn():
    r = norm_scene()
    assert replaced(r, prediction=perfect(r), head=NormalisedPixelHead()).head_loss is None


def test_the_oracle_ignores_predicted_statistics():
    r = norm_scene()
    other = r.prediction.clone()
    other[..., -2:] = torch.randn_like(other[..., -2:])
    assert torch.equal(replaced(r, prediction=other).oracle_pixels, r.oracle_pixels)


def test_heads_have_names_of_their_own():
    assert PixelHead().name != NormalisedPixelHead().name
