"""Feature matching: the distance in a discriminator's features is the one its docstring says."""

import pytest
import torch

from losses import InvalidSetting, TermContext
from losses.adversarial import FeatureMatching
from tests.losses.scenes import SIZE, gradient_of, objective_of, one_line, perfect, replaced, scene


def matching(size=SIZE, **options) -> FeatureMatching:
    """The term with a small discriminator, the same at every call."""
    torch.manual_seed(0)
    return FeatureMatching(FeatureMatching.Options(**{"width": 8} | options), TermContext(size))


def naive(term, r, composite, pool) -> torch.Tensor:
    """Image by image and layer by layer, squares cut out one by one."""
    stride = term.discriminator.stride
    mask = r.shifted(r.hidden_pixels.float(), stride)
    truths, composites = (r.shifted(image, stride) * 2 - 1 for image in (r.image, composite))
    distances = []
    for truth, image, hidden in zip(truths, composites, mask, strict=True):
        a, b = torch.cat([image, hidden])[None], torch.cat([truth, hidden])[None]
        pixels = 1
        for layer in term.discriminator.layers[:-1]:
            a, b, pixels = layer(a), layer(b), pixels * getattr(layer, "stride", (1,))[0]
            if isinstance(layer, torch.nn.LeakyReLU):
                cell = max(1, pool // pixels)
                squares = (a - b).unfold(2, cell, max(1, cell // 2)).unfold(3, cell, max(1, cell // 2))
                distances.append(squares.mean((-1, -2)).abs().mean() / b.abs().mean())
    return torch.stack(distances).mean()


@pytest.mark.parametrize("pool", [1, 4, 8, 12])
def test_value_and_gradient_equal_the_naive_definition(pool):
    term, r = matching(pool=pool), scene(3, shift=(0.3, 0.6))
    leaf = r.prediction.clone().requires_grad_()
    expected = naive(term, r, r.at(leaf, "hidden").composite, pool)
    (gradient,) = torch.autograd.grad(expected, leaf)
    torch.testing.assert_close(term.value(r.at(r.prediction, "hidden")), expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradient_of(term, r), gradient, rtol=1e-4, atol=1e-8)


def test_the_truth_is_at_distance_zero_whatever_the_discriminator():
    r = scene()
    assert float(matching().value(replaced(r, prediction=perfect(r)))) < 1e-5 < float(matching().value(r))


def test_pooling_forgives_a_texture_that_falls_elsewhere_but_not_a_blur():
    """White noise against other noise of the same statistics, and against its mean, in all patches."""
    images = torch.rand(2, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    truth, other = images
    r = replaced(scene(4, size=(64, 64)), image=truth, mask=torch.ones(4, 64, dtype=torch.bool), over="all")

    def distance_to(image, pool):
        drawn = replaced(r, image=image)
        return float(matching((64, 64), pool=pool).value(r.at(perfect(drawn), "all")))

    def moved_over_blurred(pool):
        return distance_to(other, pool) / distance_to(truth.mean((2, 3), keepdim=True).expand_as(truth), pool)

    assert moved_over_blurred(32) < 0.75 * moved_over_blurred(1)


def test_the_composite_is_matched_and_not_judged():
    """Nothing rewards logits: another last layer of the discriminator changes no bit."""
    term, r = matching(), scene()
    before = gradient_of(term, r)
    torch.nn.init.normal_(term.discriminator.layers[-1].weight)
    assert torch.equal(gradient_of(term, r), before)


@pytest.mark.parametrize("pool", [0, -1, 58])
def test_squares_that_do_not_fit_are_an_error_of_one_line(pool):
    """The network reads 57 of 64 pixels; its grid moves by up to 7."""
    matching((64, 64), pool=57)
    with pytest.raises(InvalidSetting) as error:
        objective_of("mse + feature_matching", image_size=(64, 64), feature_matching={"width": 8, "pool": pool})
    assert f"losses.feature_matching.pool={pool}" in one_line(error)


@pytest.mark.parametrize("size", [(16, 16), (24, 32)])
def test_the_default_suits_small_images(size):
    term, r = matching(size), scene(size=size)
    assert gradient_of(term, r).isfinite().all() and gradient_of(term, r).any()
