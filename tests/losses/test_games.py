"""The games: closed forms, and which way each side is pushed."""

import math

import pytest
import torch

from losses.games import GAMES

POINTS = [(-2.0, -3.0), (-1.0, 0.5), (0.0, 0.0), (0.4, -0.2), (1.0, -1.0), (1.0, 1.0), (3.0, -2.0), (0.5, 2.5)]


def maps(real: float, fake: float):
    return torch.full((2, 1, 3, 4), real, dtype=torch.float64), torch.full((2, 1, 3, 4), fake, dtype=torch.float64)


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


DISCRIMINATOR = {
    "hinge": lambda real, fake: (max(0, 1 - real) + max(0, 1 + fake)) / 2,
    # -(log D(real) + log(1 - D(fake))) / 2 with D a sigmoid
    "nonsaturating": lambda real, fake: (
        -(math.log(1 / (1 + math.exp(-real))) + math.log(1 - 1 / (1 + math.exp(-fake)))) / 2
    ),
    "relativistic": lambda real, fake: softplus(fake - real),
}
GENERATOR = {
    "hinge": lambda real, fake: -fake,
    "nonsaturating": lambda real, fake: -math.log(1 / (1 + math.exp(-fake))),
    "relativistic": lambda real, fake: softplus(real - fake),
}


@pytest.fixture(params=sorted(GAMES))
def name(request):
    return request.param


def test_every_game_is_tested(name):
    assert name in DISCRIMINATOR and name in GENERATOR


@pytest.mark.parametrize(("real", "fake"), POINTS)
def test_discriminator_loss_in_closed_form(name, real, fake):
    assert float(GAMES[name].discriminator(*maps(real, fake))) == pytest.approx(DISCRIMINATOR[name](real, fake))


@pytest.mark.parametrize(("real", "fake"), POINTS)
def test_generator_loss_in_closed_form(name, real, fake):
    reals, fakes = maps(real, fake)
    assert float(GAMES[name].generator(fakes, reals)) == pytest.approx(GENERATOR[name](real, fake))


def test_losses_are_means_over_the_map(name):
    game, (reals, fakes) = GAMES[name], torch.randn(2, 3, 1, 4, 5, dtype=torch.float64)
    each = [(real, fake) for real, fake in zip(reals.flatten(), fakes.flatten(), strict=True)]
    assert float(game.discriminator(reals, fakes)) == pytest.approx(
        sum(DISCRIMINATOR[name](float(r), float(f)) for r, f in each) / len(each)
    )
    assert float(game.generator(fakes, reals)) == pytest.approx(
        sum(GENERATOR[name](float(r), float(f)) for r, f in each) / len(each)
    )


def test_the_generator_pushes_every_fake_logit_up(name):
    reals, fakes = torch.randn(2, 2, 1, 4, 4) * 2
    fakes.requires_grad_()
    GAMES[name].generator(fakes, reals).backward()
    assert (fakes.grad < 0).all()


def test_the_discriminator_pushes_the_two_apart(name):
    reals, fakes = (torch.rand(2, 2, 1, 4, 4) - 0.5).requires_grad_().unbind()
    real_gradient, fake_gradient = torch.autograd.grad(GAMES[name].discriminator(reals, fakes), (reals, fakes))
    assert (real_gradient < 0).all() and (fake_gradient > 0).all()


def test_a_confident_hinge_discriminator_rests():
    reals, fakes = maps(1.5, -1.5)
    reals.requires_grad_()
    loss = GAMES["hinge"].discriminator(reals, fakes)
    assert float(loss.detach()) == 0
    assert not torch.autograd.grad(loss, reals)[0].any()


@pytest.mark.parametrize("logit", [-500.0, 500.0])
def test_extreme_logits_stay_finite(name, logit):
    reals, fakes = maps(-logit, logit)
    assert GAMES[name].discriminator(reals, fakes).isfinite()
    assert GAMES[name].generator(fakes, reals).isfinite()


def test_a_relative_game_reads_the_truth_and_the_others_do_not(name):
    reals, fakes = maps(0.3, -0.2)
    value = GAMES[name].generator(fakes, reals)
    assert bool(value != GAMES[name].generator(fakes, reals + 1)) == GAMES[name].relative
    if not GAMES[name].relative:
        assert torch.equal(GAMES[name].generator(fakes, None), value)


@pytest.mark.parametrize(
    ("game", "real", "fake", "accuracy"),
    [
        ("hinge", [1.0, -1.0], [-1.0, -1.0], 0.75),
        ("hinge", [1.0, 1.0], [-1.0, -1.0], 1.0),
        ("hinge", [-1.0, -1.0], [1.0, 1.0], 0.0),
        ("nonsaturating", [2.0, 3.0], [1.0, 1.0], 0.5),
        ("relativistic", [2.0, 3.0], [1.0, 1.0], 1.0),
        ("relativistic", [2.0, 3.0], [1.0, 4.0], 0.5),
        ("relativistic", [-2.0, -3.0], [-1.0, -1.0], 0.0),
    ],
)
def test_accuracy_is_the_share_of_right_judgements(game, real, fake, accuracy):
    reals, fakes = (torch.tensor(logits).view(2, 1, 1, 1) for logits in (real, fake))
    assert float(GAMES[game].accuracy(reals, fakes)) == accuracy
