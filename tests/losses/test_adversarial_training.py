"""The discriminator's training: its updates, when the term counts, and how a saved gan_loss goes on."""

import io

import pytest
import torch

from losses.gan import GAN_LOSSES
from tests.losses.scenes import adversarial, equal, gradient_of, logits_of, parameters_of, replaced, scene, weights_of


def part(r, images: slice):
    return replaced(r, prediction=r.prediction[images], image=r.image[images], mask=r.mask[images])


# Updates


def test_update_changes_every_weight(gan_loss):
    term, r = adversarial(gan_loss=gan_loss), scene()
    before = [p.detach().clone() for p in weights_of(term)]
    term.learn(r)
    assert equal(weights_of(term), before)  # not before `update`
    term.update(0)
    assert all(not torch.equal(a, b) for a, b in zip(weights_of(term), before, strict=True))
    assert all(p.grad is None or not p.grad.any() for p in term.discriminator.parameters())


def test_an_update_with_nothing_gathered_changes_nothing():
    term = adversarial()
    before = parameters_of(term)
    term.update(0)
    assert equal(parameters_of(term), before) and int(term.skipped) == 0


def test_thirty_updates_tell_an_easy_pair_apart(gan_loss):
    term, r = adversarial(gan_loss=gan_loss, lr=1e-3, penalty=0.01), scene(4, shift=(0.0, 0.0))
    losses, accuracies = [], []
    for step in range(31):
        real, fake = logits_of(term, r)
        losses.append(float(GAN_LOSSES[gan_loss].discriminator(real, fake)))
        accuracies.append(float(GAN_LOSSES[gan_loss].accuracy(real, fake)))
        term.learn(r)
        term.update(step)
    assert losses[-1] < 0.5 * losses[0]
    assert accuracies[-1] > 0.9


def test_following_the_gradient_makes_the_composite_look_more_real(gan_loss):
    term, r = adversarial(gan_loss=gan_loss), scene(shift=(0.2, 0.2))
    gradient = gradient_of(term, r)
    better = replaced(r, prediction=r.prediction - 1e-2 * gradient / gradient.norm())
    assert logits_of(term, better)[1].mean() > logits_of(term, r)[1].mean()


def test_two_half_batches_are_one_whole_batch(gan_loss):
    r = scene(4, shift=(0.4, 0.4))
    whole, halves = adversarial(gan_loss=gan_loss), adversarial(gan_loss=gan_loss)
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


def test_logs_are_the_mean_logits_and_a_smoothed_accuracy(gan_loss):
    term, r = adversarial(gan_loss=gan_loss), scene(shift=(0.1, 0.1))
    real, fake = logits_of(term, r)
    term.learn(r)
    logs = term.logs()
    assert float(logs["real"]) == pytest.approx(float(real.mean()), rel=1e-4, abs=1e-5)
    assert float(logs["fake"]) == pytest.approx(float(fake.mean()), rel=1e-4, abs=1e-5)
    accuracy = float(GAN_LOSSES[gan_loss].accuracy(real, fake))
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


@pytest.mark.parametrize("penalty_every", [1, 4])
def test_a_saved_game_goes_on_bit_for_bit(gan_loss, penalty_every):
    def play(term, steps):
        for step in steps:
            term.learn(scene(2, seed=step, shift=(0.5, 0.5)))
            term.update(step)

    whole, first = (adversarial(gan_loss=gan_loss, penalty_every=penalty_every) for _ in range(2))
    play(whole, range(6))
    play(first, range(3))
    file = io.BytesIO()
    torch.save(first.state(), file)
    file.seek(0)
    second = adversarial(gan_loss=gan_loss, penalty_every=penalty_every, seed=1)
    assert not equal(parameters_of(first), parameters_of(second))
    second.load_state(torch.load(file, weights_only=True))
    play(second, range(3, 6))
    assert equal(parameters_of(second), parameters_of(whole))
    assert all(torch.equal(a, whole.logs()[key]) for key, a in second.logs().items())
    assert equal(list(second.buffers()), list(whole.buffers()))
