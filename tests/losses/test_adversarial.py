"""The adversarial term: who learns from what, when, and what it says when the game goes wrong."""

import io

import pytest
import torch
from torch import nn

from losses import InvalidSetting, Surroundings
from losses.adversarial import Adversarial
from losses.games import GAMES
from tests.losses.scenes import SIZE, gradient_of, one_line, replaced, scene


def adversarial(seed=0, steps=None, critic=torch.float32, **options) -> Adversarial:
    torch.manual_seed(seed)
    options = {"width": 8} | options
    return Adversarial(Adversarial.Options(**options), Surroundings(SIZE, steps, critic))


@pytest.fixture(params=sorted(GAMES))
def game(request):
    return request.param


def parameters_of(term):
    return [p.detach().clone() for p in term.discriminator.parameters()]


def equal(left, right) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def weights_of(term):
    """The discriminator's weights; the relativistic game cannot see the bias of the logits."""
    return [p for p in term.discriminator.parameters() if p.ndim > 1]


def part(r, images: slice):
    return replaced(r, prediction=r.prediction[images], image=r.image[images], mask=r.mask[images])


def judgements(term, r):
    """The discriminator's logits of truth and composite, seen as the term shows them."""
    with torch.no_grad():
        return tuple(
            term.discriminator(r.shifted(image, term.discriminator.stride) * 2 - 1) for image in (r.image, r.composite)
        )


# Who learns from what


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
    assert all(p.grad is None and p.requires_grad for p in term.discriminator.parameters())


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
    assert all(p.grad is not None for p in term.discriminator.parameters())


def test_learn_gathers_the_gradient_of_the_discriminators_loss():
    for name in ("hinge", "nonsaturating"):
        term, r = adversarial(game=name), scene(shift=(0.5, 0.1))
        term.learn(r)
        images = [r.shifted(image, term.discriminator.stride) * 2 - 1 for image in (r.image, r.composite)]
        loss = GAMES[name].discriminator(*map(term.discriminator, images))
        expected = torch.autograd.grad(loss, list(term.discriminator.parameters()))
        for p, gradient in zip(term.discriminator.parameters(), expected, strict=True):
            torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-6)


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
    assert len(seen) == 3
    for images in seen:
        assert images.min() >= -1 - 1e-6 and images.max() <= 1 + 1e-6
        assert images.min() < -0.9 and images.max() > 0.9


# Updates


def test_update_changes_every_weight(game):
    term, r = adversarial(game=game), scene()
    before = [p.detach().clone() for p in weights_of(term)]
    term.learn(r)
    assert equal(weights_of(term), before)  # not before it is told to
    term.update(0)
    assert all(not torch.equal(a, b) for a, b in zip(weights_of(term), before, strict=True))
    assert all(p.grad is None or not p.grad.any() for p in term.discriminator.parameters())


def test_an_update_with_nothing_gathered_changes_nothing():
    term = adversarial()
    before = parameters_of(term)
    term.update(0)
    assert equal(parameters_of(term), before) and int(term.skipped) == 0


def test_thirty_updates_tell_an_easy_pair_apart(game):
    term, r = adversarial(game=game, lr=1e-3, penalty=0.01), scene(4, shift=(0.0, 0.0))
    losses, accuracies = [], []
    for step in range(31):
        real, fake = judgements(term, r)
        losses.append(float(GAMES[game].discriminator(real, fake)))
        accuracies.append(float(GAMES[game].accuracy(real, fake)))
        term.learn(r)
        term.update(step)
    assert losses[-1] < 0.5 * losses[0]
    assert accuracies[-1] > 0.9


def test_following_the_gradient_makes_the_composite_look_more_real(game):
    term, r = adversarial(game=game), scene(shift=(0.2, 0.2))
    gradient = gradient_of(term, r)
    better = replaced(r, prediction=r.prediction - 1e-2 * gradient / gradient.norm())
    assert judgements(term, better)[1].mean() > judgements(term, r)[1].mean()


def test_two_half_batches_are_one_whole_batch(game):
    r = scene(4, shift=(0.4, 0.4))
    whole, halves = adversarial(game=game), adversarial(game=game)
    start = [p.detach().clone() for p in weights_of(whole)]
    for term in (whole, halves):
        term.optimizer.param_groups[0]["eps"] = 1.0  # else Adam's first step is the sign of the gradient
    whole.learn(r)
    for half in (slice(0, 2), slice(2, 4)):
        halves.learn(part(r, half))
    for term in (whole, halves):
        term.update(0)
    for a, b, s in zip(weights_of(whole), weights_of(halves), start, strict=True):
        a, b = (p.detach() - s for p in (a, b))
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-7)
        assert a.abs().max() > 2e-6


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(value):
    term, r = adversarial(), scene()
    term.learn(r)
    term.update(0)
    before = parameters_of(term)
    term.learn(replaced(r, prediction=torch.full_like(r.prediction, value)))
    term.update(1)
    assert equal(parameters_of(term), before)
    assert int(term.logs()["skipped"]) == 1
    term.learn(r)
    term.update(2)
    assert not equal(parameters_of(term), before)
    assert int(term.logs()["skipped"]) == 1
    assert all(p.isfinite().all() for p in term.discriminator.parameters())


def test_logs_are_the_mean_logits_and_a_smoothed_accuracy(game):
    term, r = adversarial(game=game), scene(shift=(0.1, 0.1))
    real, fake = judgements(term, r)
    term.learn(r)
    logs = term.logs()
    assert float(logs["real"]) == pytest.approx(float(real.mean()), rel=1e-4, abs=1e-5)
    assert float(logs["fake"]) == pytest.approx(float(fake.mean()), rel=1e-4, abs=1e-5)
    accuracy = float(GAMES[game].accuracy(real, fake))
    assert float(logs["accuracy"]) == pytest.approx(0.98 * 0.5 + 0.02 * accuracy, abs=1e-4)


# Schedule


@pytest.mark.parametrize("steps", [100, 7])
@pytest.mark.parametrize(("start", "full"), [(0.1, 0.2), (0.0, 1.0), (0.5, 0.6)])
def test_the_ramp_is_zero_then_linear_then_one(steps, start, full):
    term = adversarial(steps=steps, generator_start=start, generator_full=full)
    for step in range(steps + 3):
        expected = min(1.0, max(0.0, (step / steps - start) / (full - start)))
        assert term.ramp(step) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("at", [0.0, 0.3, 1.0])
def test_a_ramp_without_length_is_a_switch(at):
    term = adversarial(steps=10, generator_start=at, generator_full=at)
    assert [term.ramp(step) for step in range(12)] == [float(step >= 10 * at) for step in range(12)]


def test_a_run_of_unknown_length_has_no_ramp():
    term = adversarial(steps=None, generator_start=0.5, generator_full=0.9)
    assert [term.ramp(step) for step in (0, 1, 10**6)] == [1, 1, 1]


# Resumption


def test_a_saved_game_goes_on_bit_for_bit(game):
    def play(term, steps):
        for step in steps:
            term.learn(scene(2, seed=step, shift=(0.5, 0.5)))
            term.update(step)

    whole, first = adversarial(game=game), adversarial(game=game)
    play(whole, range(6))
    play(first, range(3))
    file = io.BytesIO()
    torch.save(first.state(), file)
    file.seek(0)
    second = adversarial(game=game, seed=1)
    assert not equal(parameters_of(first), parameters_of(second))
    second.load_state(torch.load(file, weights_only=True))
    play(second, range(3, 6))
    assert equal(parameters_of(second), parameters_of(whole))
    assert all(torch.equal(a, whole.logs()[key]) for key, a in second.logs().items())
    assert equal(list(second.buffers()), list(whole.buffers()))


# Warnings


def updates(term, accuracy, times):
    for step in range(times):
        term.accuracy.fill_(accuracy)
        term.update(step)


@pytest.mark.parametrize(("steps", "patience"), [(None, 500), (200, 50), (2000, 100), (10**6, 500)])
def test_a_certain_discriminator_is_reported_after_its_patience(steps, patience):
    term = adversarial(steps=steps)
    updates(term, 0.99, patience - 1)
    assert term.warning() is None
    updates(term, 0.99, 1)
    assert "certain" in term.warning() and str(patience) in term.warning()
    assert "losses.adversarial.lr" in term.warning() and "\n" not in term.warning()


def test_a_blind_discriminator_is_reported_after_its_patience():
    term = adversarial(steps=None)
    updates(term, 0.51, 499)
    assert term.warning() is None
    updates(term, 0.51, 1)
    assert "blind" in term.warning() and "losses.adversarial.lr" in term.warning()


def test_a_discriminator_may_be_blind_until_the_term_has_its_full_weight():
    term = adversarial(steps=200, generator_start=0.5, generator_full=0.6)
    updates(term, 0.5, 120)
    assert term.warning() is None
    for step in range(120, 170):
        term.update(step)
    assert "blind" in term.warning()


@pytest.mark.parametrize("state", [0.99, 0.5])
def test_one_good_update_ends_a_warning(state):
    term = adversarial(steps=None)
    updates(term, state, 500)
    assert term.warning()
    updates(term, 0.75, 1)
    assert term.warning() is None


# Options


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"game": "hing"}, "did you mean 'hinge'"),
        ({"game": "wgan"}, "hinge, nonsaturating, relativistic"),
        ({"generator_start": 0.5, "generator_full": 0.2}, "generator_start"),
        ({"generator_start": -0.1}, "generator_start"),
        ({"generator_full": 1.5}, "generator_full"),
        ({"lr": -1.0}, "lr"),
        ({"width": 0}, "width"),
        ({"penalty": -1.0}, "penalty"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_used_is_an_error_of_one_line(options, named):
    with pytest.raises(InvalidSetting) as error:
        adversarial(**options)
    message = one_line(error)
    assert "losses.adversarial" in message and named in message
