"""The adversarial term: which images the discriminator is shown, and who learns from what."""

import pytest
import torch
from torch import nn

from losses import adversarial as adversarial_module
from losses.games import GAMES
from tests.losses.scenes import SIZE, adversarial, equal, gradient_of, judgements, replaced, scene, weights_of


def test_value_is_the_generators_loss_on_the_composite(game):
    term, r = adversarial(game=game), scene(shift=(0.3, 0.6))
    real, fake = judgements(term, r)
    torch.testing.assert_close(term.value(r), GAMES[game].generator(fake, real), rtol=1e-5, atol=1e-6)


def test_gradient_is_that_of_the_generators_loss(game):
    term, r = adversarial(game=game), scene(shift=(0.3, 0.6))
    leaf = r.prediction.clone().requires_grad_()
    real, fake = (
        term.discriminator(r.shifted(image, term.discriminator.stride) * 2 - 1)
        for image in (r.image, r.at(leaf, "hidden").composite)
    )
    (expected,) = torch.autograd.grad(GAMES[game].generator(fake, real), leaf)
    torch.testing.assert_close(gradient_of(term, r), expected, rtol=1e-4, atol=1e-8)


def test_value_sends_no_gradient_to_the_discriminator(game):
    term, r = adversarial(game=game), scene()
    assert gradient_of(term, r).any()
    assert all(p.grad is None for p in term.discriminator.parameters())
    assert all(p.requires_grad for p in weights_of(term))


def test_learn_sends_no_gradient_to_the_prediction(game):
    term, r = adversarial(game=game), scene()
    leaf = r.prediction.clone().requires_grad_()
    term.learn(r.at(leaf, "hidden"))
    assert leaf.grad is None
    assert all(p.grad.any() for p in weights_of(term))


def test_learn_works_where_gradients_are_off(game):
    term, r = adversarial(game=game), scene()
    with torch.no_grad():
        term.learn(r)
    assert all(p.grad is not None for p in weights_of(term))


def test_the_bias_of_the_logits_stays_where_the_game_cannot_see_it(game):
    """Its gradient there is nothing but rounding, which Adam would make steps of."""
    term = adversarial(game=game)
    for step in range(3):
        term.learn(scene(3, seed=step))
        term.update(step)
    assert bool(term.discriminator.layers[-1].bias.detach().any()) != GAMES[game].relative


def in_two_passes(term, r, penalty: float = 0.0) -> list[torch.Tensor]:
    """The gradient of the discriminator's loss at its parameters, truth and composite judged one after the other."""
    images = [
        (r.shifted(image, term.discriminator.stride) * 2 - 1).requires_grad_() for image in (r.image, r.composite)
    ]
    real, fake = map(term.discriminator, images)
    loss = term.game.discriminator(real, fake)
    for logits, seen in ((real, images[0]), (fake, images[1])):  # R1, R2
        (slope,) = torch.autograd.grad(logits.mean((1, 2, 3)).sum(), seen, create_graph=True)
        loss = loss + penalty / 2 * slope.square().sum((1, 2, 3)).mean()
    # The relativistic game cannot see the bias of the logits: a gradient of nothing but rounding.
    return torch.autograd.grad(loss, weights_of(term))


def test_one_pass_over_truth_and_composite_learns_what_two_would(game):
    term, r = adversarial(game=game, penalty=3.0).double(), scene(3, dtype=torch.float64, shift=(0.5, 0.1))
    term.learn(r)
    expected = in_two_passes(term, r, penalty=3.0 * GAMES[game].penalised)
    for p, gradient in zip(weights_of(term), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_lazy_penalty_comes_with_every_kth_update_times_k(k):
    """Its mean over updates is that of a penalty in each of them."""
    term = adversarial(game="relativistic", penalty=0.5, penalty_every=k, lr=0.0).double()
    r = scene(3, dtype=torch.float64, shift=(0.5, 0.1))
    never, always = in_two_passes(term, r), in_two_passes(term, r, penalty=0.5)
    for step in range(2 * k):
        term.learn(r)
        for p, without, with_it in zip(weights_of(term), never, always, strict=True):
            expected = without + (with_it - without) * k * (step % k == 0)
            torch.testing.assert_close(p.grad, expected, rtol=1e-10, atol=1e-12)
        term.update(step)


def test_a_lazy_penalty_counts_updates_and_not_micro_batches():
    term = adversarial(game="relativistic", penalty=0.5, penalty_every=2, lr=0.0).double()
    r = scene(3, dtype=torch.float64, shift=(0.5, 0.1))
    never, always = in_two_passes(term, r), in_two_passes(term, r, penalty=0.5)
    for step in range(4):
        term.learn(r)
        term.learn(r)
        for p, without, with_it in zip(weights_of(term), never, always, strict=True):
            expected = 2 * (without + (with_it - without) * 2 * (step % 2 == 0))
            torch.testing.assert_close(p.grad, expected, rtol=1e-10, atol=1e-12)
        term.update(step)
        term.update(step)  # with nothing gathered it is no update


def test_between_penalties_nothing_is_differentiated_twice(monkeypatch):
    slopes = []
    plain = adversarial_module._squared_slope
    monkeypatch.setattr(adversarial_module, "_squared_slope", lambda *a: slopes.append(step) or plain(*a))
    term = adversarial(game="relativistic", penalty_every=3)
    for step in range(7):
        term.learn(scene())
        term.update(step)
    assert slopes == [0, 3, 6]


class Linear(nn.Module):
    """A discriminator whose slope is its weight everywhere."""

    stride = 1

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 3, *SIZE))

    def forward(self, images):
        return (images * self.weight).sum((1, 2, 3)).view(-1, 1, 1, 1)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 10.0])
def test_r1_and_r2_of_a_linear_discriminator_are_its_squared_norm(penalty):
    """penalty / 2 * (R1 + R2) = penalty * |w|^2, so its gradient is 2 * penalty * w; a perfect fake adds none."""
    term, r = adversarial(game="relativistic", penalty=penalty), scene(mean=(0.0,) * 3, std=(1.0,) * 3)
    term.discriminator = Linear()
    term.learn(replaced(r, prediction=r.true_pixels))
    torch.testing.assert_close(term.discriminator.weight.grad, 2 * penalty * term.discriminator.weight.detach())


def test_the_penalty_does_not_depend_on_the_size_of_the_map():
    """Each image's slope is that of its mean logit: saying the same thing in more places costs no more."""
    gradients = []
    for copies in (1, 4):
        term, r = adversarial(game="relativistic"), scene(mean=(0.0,) * 3, std=(1.0,) * 3)
        term.discriminator = Linear()
        plain = term.discriminator.forward
        term.discriminator.forward = lambda images, f=plain, n=copies: f(images).expand(-1, 1, n, n)
        term.learn(replaced(r, prediction=r.true_pixels))
        gradients.append(term.discriminator.weight.grad)
    torch.testing.assert_close(*gradients)


def test_only_the_relativistic_game_is_penalised():
    r = scene(mean=(0.0,) * 3, std=(1.0,) * 3)
    for name, penalised in (("hinge", False), ("nonsaturating", False), ("relativistic", True)):
        gradients = []
        for penalty in (1.0, 100.0):
            term = adversarial(game=name, penalty=penalty)
            term.learn(r)
            gradients.append([p.grad for p in term.discriminator.parameters()])
        assert equal(*gradients) != penalised


def test_the_discriminator_sees_images_in_minus_one_to_one():
    term, r, seen = adversarial(), scene(), []
    r = replaced(r, prediction=r.true_pixels)
    term.discriminator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    term.value(r)
    term.learn(r)
    assert [len(images) for images in seen] == [2, 4]
    for images in seen:
        assert images.min() >= -1 - 1e-6 and images.max() <= 1 + 1e-6
        assert images.min() < -0.9 and images.max() > 0.9
