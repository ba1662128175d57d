"""Mixture: a density that integrates to one, against torch's own; what is shown of it, and what is drawn."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from losses import InvalidSetting, MixtureHead, Reconstruction, head_of
from losses.posterior import MIN_STD, PrincipalComponents, bounded
from tests.losses.scenes import gradient_of, objective_of, one_line, photographs, replaced, scene, term_of

K, D, P = 3, 2, 3  # where a patch is one pixel


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def nll(head: MixtureHead, r: Reconstruction) -> Tensor:
    return head.negative_log_likelihood(r.prediction, r.true_pixels, r.std)


def sampled(r: Reconstruction, uniform: Tensor, normal: Tensor) -> Tensor:
    return r.head.sample_pixels(r.prediction, uniform, normal, r.std)


def generic_basis(values: int, seed: int = 0) -> PrincipalComponents:
    """Axes in no direction of a pixel's, and deviations that fall from 1.2 to 0.5."""
    square = torch.randn(values, values, generator=generator(seed), dtype=torch.float64)
    return PrincipalComponents(torch.linalg.qr(square).Q, torch.linspace(1.2, 0.5, values, dtype=torch.float64))


def generic_scene(gaussians=K, components=5, *args, **settings):
    """A scene of patches with 12 values, in a basis of its own."""
    head = MixtureHead(gaussians, components, generic_basis(12))
    settings = {"size": (6, 8), "patch": 2, "dtype": torch.float64} | settings
    return scene(*args, head=head, **settings)


def pixel_head(components=D):
    return MixtureHead(K, components, generic_basis(P))


def pixels_of(prediction, count, head, shown=None):
    """A row of `count` patches of one pixel, under one prediction (W,); their truth is `shown` (count, 3)."""
    shown = torch.zeros(count, P, dtype=torch.float64) if shown is None else shown
    image = shown.T.reshape(1, 3, 1, count)
    mask = torch.ones(1, count, dtype=torch.bool)
    return Reconstruction(prediction.expand(1, count, -1), image, mask, head, mean=(0.0,) * 3, std=(1.0,) * 3)


def raw(head, seed=0):
    """A generic prediction (W,) for one patch of one pixel, of widths that a grid can sum up."""
    prediction = torch.randn(head.width(P), generator=generator(seed), dtype=torch.float64)
    widths = prediction[P + K + K * head.component_count(P) :]
    widths.mul_(0.1).sub_(0.5)
    return prediction


def cube_around(prediction, spacing, reach=8.0):
    """A grid of pixels around the centre, (n, 3)."""
    line = torch.arange(-reach, reach, spacing, dtype=torch.float64)
    return torch.cartesian_prod(line, line, line) + prediction[:P]


def moments(head, prediction):
    """Mean (P,) and covariance (P, P) of the density, of pixels, in closed form."""
    r = pixels_of(prediction, 1, head)
    q = head.parameters(r.prediction, r.values, r.std)
    share, means, rest = q.log_weights[0, 0].exp(), q.means[0, 0], q.rest_log_std[0, 0]
    d = means.shape[1]
    mean = torch.zeros(P, dtype=torch.float64)
    mean[:d] = share @ means
    covariance = torch.diag(torch.cat([share @ (2 * q.log_std[0, 0]).exp(), (2 * rest).exp()]))
    covariance[:d, :d] += (means.T * share) @ means - torch.outer(mean[:d], mean[:d])
    out = head.basis.axes * head.basis.deviations
    return q.centre[0, 0] + out @ mean, out @ covariance @ out.T


def drawn(head, prediction, count, seed=0):
    r = pixels_of(prediction, count, head)
    uniform = torch.rand(1, count, generator=generator(seed), dtype=torch.float64)
    normal = torch.randn(1, count, P, generator=generator(seed + 1), dtype=torch.float64)
    return head.sample_pixels(r.prediction, uniform, normal, r.std)[0]


# The density


def test_nats_are_those_of_torch_s_distributions():
    r = generic_scene()
    head, basis, k, d, p = r.head, r.head.basis, K, 5, 12
    centre, logits, means, wide, rest = r.prediction.split([p, k, k * d, k * d, p - d], -1)
    floor = MIN_STD / (sum(r.std) / 3 * basis.deviations)
    deviation = floor[:d] + wide.unflatten(-1, (k, d)).clamp(max=3).exp()
    each = Independent(Normal(means.unflatten(-1, (k, d)), deviation), 1)
    mixed = MixtureSameFamily(Categorical(logits=logits), each)
    other = Independent(Normal(torch.zeros_like(rest), floor[d:] + rest.clamp(max=3).exp()), 1)
    out = basis.axes * basis.deviations  # coefficients to pixels
    found = torch.linalg.solve(out, (r.true_pixels - centre).unsqueeze(-1)).squeeze(-1)
    log_p = mixed.log_prob(found[..., :d]) + other.log_prob(found[..., d:]) - torch.linalg.slogdet(out).logabsdet
    torch.testing.assert_close(nll(head, r), -log_p, rtol=1e-11, atol=1e-11)
    expected = -log_p[r.mask].mean() / p
    assert float(term_of("mixture").value(r)) == pytest.approx(float(expected), rel=1e-11)


@pytest.mark.parametrize("components", [1, 2, 3])
def test_the_density_integrates_to_one(components):
    """A sum over a grid, whose error falls exponentially as its spacing becomes less than the least deviation."""
    head, spacing = pixel_head(components), 0.25
    cube = cube_around(prediction := raw(head), spacing)
    nats = nll(head, pixels_of(prediction, len(cube), head, cube))
    assert float((-nats).exp().sum()) * spacing**3 == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("axes", ["pixels", "generic"])
def test_one_gaussian_of_one_width_is_mse_at_its_centre(axes):
    """Slope and, but for a constant, value: |x - c|² / 2σ²."""
    basis = (
        PrincipalComponents.identity(12)
        if axes == "pixels"
        else PrincipalComponents(generic_basis(12).axes, torch.ones(12))
    )
    head, sigma = MixtureHead(1, 12, basis), 0.7
    r = scene(size=(6, 8), patch=2, dtype=torch.float64)
    floor = MIN_STD / (sum(r.std) / 3)
    constant = torch.zeros(*r.mask.shape, head.width(12) - 12, dtype=torch.float64)
    constant[..., 1 + 12 :] = math.log(sigma - floor)
    wide = replaced(r, prediction=torch.cat([r.prediction, constant], dim=-1), head=head)
    mse, mixture = term_of("mse"), term_of("mixture", torch.float64)
    slope = gradient_of(mse, r) / (2 * sigma**2)
    torch.testing.assert_close(gradient_of(mixture, wide)[..., :12], slope, rtol=1e-10, atol=1e-12)
    expected = float(mse.value(r)) / (2 * sigma**2) + math.log(sigma) + math.log(2 * math.pi) / 2
    assert float(mixture.value(wide)) == pytest.approx(expected, rel=1e-10)


def test_the_sign_of_a_principal_component_means_nothing():
    """Where its coefficients change theirs: one decomposition may give either."""
    r = generic_scene(components=12)
    sign = torch.tensor([1.0, -1.0] * 6, dtype=torch.float64)
    head = replace(r.head, basis=PrincipalComponents(r.head.basis.axes * sign, r.head.basis.deviations))
    prediction = r.prediction.clone()
    prediction[..., 12 + K : 12 + K + 12 * K] *= sign.repeat(K)
    other = replaced(r, head=head, prediction=prediction)
    torch.testing.assert_close(nll(head, other), nll(r.head, r), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(other.pixels, r.pixels, rtol=1e-12, atol=1e-12)
    assert (nll(r.head, replaced(r, prediction=prediction)) - nll(r.head, r)).abs().min() > 1e-3


def test_the_order_of_gaussians_means_nothing():
    r = generic_scene()
    centre, share, means, wide, rest = r.prediction.split([12, K, 5 * K, 5 * K, 7], -1)
    order = torch.tensor([2, 0, 1])
    means, wide = (x.unflatten(-1, (K, 5))[:, :, order].flatten(2) for x in (means, wide))
    other = replaced(r, prediction=torch.cat([centre, share[..., order], means, wide, rest], -1))
    torch.testing.assert_close(nll(r.head, other), nll(r.head, r), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(other.pixels, r.pixels, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        r.head.mode_pixels(other.prediction, other.values),
        r.head.mode_pixels(r.prediction, r.values),
        rtol=1e-12,
        atol=1e-12,
    )


def test_gradient_reaches_every_parameter_of_a_hidden_patch():
    r = generic_scene()
    r = replaced(r, prediction=0.1 * r.prediction)  # near the data, where no Gaussian's part is rounded to zero
    assert torch.equal(gradient_of(term_of("mixture"), r).ne(0), r.mask.unsqueeze(-1).expand_as(r.prediction))


def test_terms_that_read_pixels_read_the_distribution_s_mean():
    r = generic_scene(shift=(0.3, 0.6))
    for name in ("mse", "l1"):
        assert torch.equal(term_of(name).value(r), term_of(name).value(replaced(r, prediction=r.pixels, head=None)))
        gradient = gradient_of(term_of(name), r)
        assert gradient[..., : 12 + K + 5 * K][r.mask].all()  # centre, shares and means have a part in it
        assert not gradient[..., 12 + K + 5 * K :].any()  # widths have none


def test_without_a_basis_the_pixels_are_the_components():
    r = generic_scene()
    bare = replaced(r, head=MixtureHead(K, 5))
    pixels = replaced(r, head=MixtureHead(K, 5, PrincipalComponents.identity(12)))
    assert torch.equal(nll(bare.head, bare), nll(pixels.head, pixels))
    assert torch.equal(bare.pixels[..., 5:], bare.prediction[..., 5:12])


# Widths


def test_nothing_is_narrower_than_rounding_to_8_bits():
    """Whatever is predicted: a photograph's flat patches are no reason for a density without bound."""
    r = generic_scene()
    for wild in (-1e4, -10.0):
        q = r.head.parameters(torch.full_like(r.prediction, wild), r.values, r.std)
        log_std = torch.cat([q.log_std[..., 0, :], q.rest_log_std], dim=-1)
        intensities = log_std.exp() * r.head.basis.deviations * sum(r.std) / 3
        assert (intensities >= MIN_STD * (1 - 1e-9)).all()
    rounding = (photographs() * 255 - (photographs() * 255).round()) / 255
    assert float(rounding.std()) == pytest.approx(MIN_STD, rel=0.02)


def test_a_deviation_is_the_least_and_what_is_predicted_above_it():
    least, said = torch.tensor([-6.0, -1.0, 2.0]).double(), torch.linspace(-20, 3, 50).double()[:, None]
    torch.testing.assert_close(bounded(said, least).exp(), least.exp() + said.exp(), rtol=1e-12, atol=0)
    assert (bounded(said + 100, least).exp() <= least.exp() + math.exp(3) * (1 + 1e-12)).all()


def test_a_width_at_the_bound_still_learns():
    """In float32, 80 nats below it."""
    said = torch.linspace(-85, 2.9, 50, requires_grad=True)
    bounded(said, torch.tensor(-5.0)).sum().backward()
    assert (said.grad > 0).all()


@pytest.mark.parametrize("wild", [1e4, -1e4])
@pytest.mark.parametrize("of", ["shares", "means", "widths"])
def test_wild_predictions_have_a_finite_value_and_gradient(of, wild):
    r = generic_scene(dtype=torch.float32)
    where = {"shares": slice(12, 12 + 1), "means": slice(12 + K, 13 + K), "widths": slice(12 + K + 5 * K, None)}[of]
    prediction = r.prediction.clone()
    prediction[..., where] = wild
    r = replaced(r, prediction=prediction)
    assert term_of("mixture").value(r).isfinite()
    assert gradient_of(term_of("mixture"), r).isfinite().all()


# What is shown, and drawn


@pytest.mark.parametrize("components", [1, 2, 3])
def test_mean_and_covariance_of_draws_are_the_density_s(components):
    """Standard errors of 400,000 draws, 5 of them."""
    head, many = pixel_head(components), 400_000
    prediction = raw(head)
    mean, covariance = moments(head, prediction)
    draws = drawn(head, prediction, many)
    torch.testing.assert_close(pixels_of(prediction, 1, head).pixels[0, 0], mean, rtol=1e-12, atol=1e-12)
    error = (draws - draws.mean(0)).double()
    assert ((draws.mean(0) - mean).abs() < 5 * error.std(0) / many**0.5).all()
    products = error[:, :, None] * error[:, None, :]
    assert ((products.mean(0) - covariance).abs() < 5 * products.std(0) / many**0.5).all()


def test_draws_have_the_density_that_is_scored():
    """The mean of nats over draws is the entropy, which a grid sums up: 5 standard errors."""
    head, many, spacing = pixel_head(), 100_000, 0.25
    cube = cube_around(prediction := raw(head), spacing)
    nats = nll(head, pixels_of(prediction, len(cube), head, cube))
    entropy = float(((-nats).exp() * nats).sum()) * spacing**3
    scores = nll(head, pixels_of(prediction, many, head, drawn(head, prediction, many)))
    assert float(scores.mean()) == pytest.approx(entropy, abs=5 * float(scores.std()) / many**0.5)


def test_every_gaussian_is_drawn_by_its_share():
    """They stand far apart, and narrow, so that a draw tells whose it is. A binomial count, 5 standard deviations."""
    head, many = pixel_head(1), 100_000
    prediction = torch.zeros(head.width(P), dtype=torch.float64)
    prediction[P : P + K] = torch.tensor([0.3, -1.0, 1.0])
    prediction[P + K : P + 2 * K] = torch.tensor([-50.0, 0.0, 50.0])
    shares = prediction[P : P + K].softmax(0)
    found = drawn(head, prediction, many) @ head.basis.axes[:, 0] / head.basis.deviations[0]
    counts = torch.stack([((found - at).abs() < 10).sum() for at in (-50, 0, 50)])
    assert counts.sum() == many
    assert ((counts - many * shares).abs() < 5 * (many * shares * (1 - shares)).sqrt()).all()


def test_the_mode_is_the_gaussian_with_the_largest_share():
    r = generic_scene()
    q = r.head.parameters(r.prediction, r.values, r.std)
    out = r.head.basis.axes * r.head.basis.deviations
    for image, patch in ((0, 3), (1, 7), (1, 8)):
        largest = q.log_weights[image, patch].argmax()
        coefficients = torch.cat([q.means[image, patch, largest], torch.zeros(7, dtype=torch.float64)])
        expected = q.centre[image, patch] + out @ coefficients
        torch.testing.assert_close(
            r.head.mode_pixels(r.prediction, r.values)[image, patch], expected, rtol=1e-12, atol=1e-12
        )


def test_of_one_gaussian_mean_and_mode_are_the_same_and_a_draw_without_noise_too():
    r = generic_scene(gaussians=1)
    still = torch.zeros(*r.mask.shape, 12, dtype=torch.float64)
    torch.testing.assert_close(r.head.mode_pixels(r.prediction, r.values), r.pixels, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        r.head.sample_pixels(r.prediction, torch.full(r.mask.shape, 0.5), still, r.std), r.pixels
    )


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_the_ends_of_the_uniform_numbers_draw_the_first_and_the_last(uniform):
    """Shares that add up to less than one, rounded, too."""
    r = generic_scene(gaussians=7, dtype=torch.float32)
    still = torch.zeros(*r.mask.shape, 12)
    q = r.head.parameters(r.prediction, r.values, r.std)
    at = 0 if uniform == 0 else 6
    found = r.head.sample_pixels(r.prediction, torch.full(r.mask.shape, uniform), still, r.std)
    basis = r.head.basis_for(r.prediction, r.values)
    expected = q.centre + (q.means[:, :, at] * basis.deviations[:5]) @ basis.axes[:, :5].T
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# Settings


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"gaussians": 0}, ["losses.mixture.gaussians=0", "above 0"]),
        ({"components": 0}, ["losses.mixture.components=0", "above 0"]),
        ({"gaussian": 3}, ["losses.mixture.gaussian", "did you mean 'gaussians'"]),
    ],
    ids=str,
)
def test_what_cannot_be_set_is_named_in_one_line(options, parts):
    for build in (objective_of, head_of):
        with pytest.raises(InvalidSetting) as error:
            build("mixture", mixture=options)
        message = one_line(error)
        assert all(part in message for part in parts), message


def test_more_components_than_a_patch_has_values_are_refused_in_one_line():
    head = head_of("mixture", mixture={"components": 13})
    with pytest.raises(InvalidSetting) as error:
        head.width(12)
    assert "losses.mixture.components=13" in (message := one_line(error)) and "12 values" in message
    assert head.component_count(13) == 13


@pytest.mark.parametrize(("values", "mixed"), [(12, 12), (64, 64), (768, 64)])
def test_by_default_64_components_are_mixed_or_all(values, mixed):
    assert head_of("mixture").component_count(values) == mixed
    assert head_of("mixture").width(values) == 2 * values + 8 * (1 + 2 * mixed) - mixed


def test_options_reach_the_head_that_a_model_is_made_with():
    options = {"gaussians": 3, "components": 5}
    heads = [objective_of("mse + mixture", mixture=options).head, head_of("mse + mixture", mixture=options)]
    assert heads == [MixtureHead(3, 5)] * 2 != [head_of("mixture")] * 2
