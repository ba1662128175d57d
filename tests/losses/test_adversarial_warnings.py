"""What the adversarial term says when the gan_loss goes wrong, and of options that cannot be used."""

import pytest

from losses import InvalidSetting
from tests.losses.scenes import adversarial, objective_of, one_line

# Warnings


def updates(term, accuracy, times):
    for step in range(times):
        term.accuracy.fill_(accuracy)
        term.update(step)


@pytest.mark.parametrize(("steps", "allowed"), [(None, 500), (200, 50), (2000, 100), (10**6, 500)])
def test_a_certain_discriminator_is_reported_after_many_updates(steps, allowed):
    term = adversarial(steps=steps)
    updates(term, 0.99, allowed - 1)
    assert term.warning() is None
    updates(term, 0.99, 1)
    assert "certain" in term.warning() and str(allowed) in term.warning()
    assert "losses.adversarial.lr" in term.warning() and "\n" not in term.warning()


def test_a_blind_discriminator_is_reported_after_many_updates():
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
        ({"gan_loss": "hing"}, "did you mean 'hinge'"),
        ({"gan_loss": "wgan"}, "hinge or nonsaturating or relativistic"),
        ({"generator_start": 0.5, "generator_full": 0.2}, "generator_start"),
        ({"generator_start": -0.1}, "generator_start"),
        ({"generator_full": 1.5}, "generator_full"),
        ({"lr": -1.0}, "lr"),
        ({"width": 0}, "width"),
        ({"penalty": -1.0}, "penalty"),
        ({"penalty_every": 0}, "penalty_every"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_used_is_an_error_of_one_line(options, named):
    with pytest.raises(InvalidSetting) as error:
        objective_of("mse + adversarial", adversarial=options)
    message = one_line(error)
    assert "losses.adversarial" in message and named in message
