"""Settings of runs from before a default changed mean on resumption what they meant then."""

import pytest

from recon.training.run_folder import flat, resumed_settings
from tests.recon.training.conftest import settings


def older(loss: str, game: str) -> dict:
    saved = flat(settings(f"loss={loss}", "name=mine")[0])
    del saved["losses.adversarial.mask_aware"]
    return saved | {"losses.adversarial.game": game, "losses.adversarial.penalty": 1.0}


@pytest.mark.parametrize(
    ("loss", "meant"),
    [
        ("adversarial+mse", "0.01*adversarial + mse"),
        ("mse + adversarial", "mse + 0.01*adversarial"),
        ("80%adversarial + mse", "80%adversarial + mse"),
        ("0.5*adversarial+l1", "0.5*adversarial+l1"),
        ("adversarial", "0.01*adversarial"),
    ],
)
def test_a_bare_adversarial_had_a_hundredth_of_its_value(loss, meant):
    now = settings("name=mine", "resume=true")[0]
    assert resumed_settings(older(loss, "hinge"), now, frozenset())["loss"] == meant


@pytest.mark.parametrize(("game", "penalty"), [("hinge", 0.0), ("nonsaturating", 0.0), ("relativistic", 1.0)])
def test_only_the_relativistic_game_was_penalised_and_no_discriminator_was_told_of_the_mask(game, penalty):
    found = resumed_settings(older("adversarial+mse", game), settings("name=mine", "resume=true")[0], frozenset())
    assert found["losses.adversarial.penalty"] == penalty and found["losses.adversarial.mask_aware"] is False


@pytest.mark.parametrize(
    ("loss", "meant"),
    [
        ("perceptual+mse", "0.01*perceptual + mse"),
        ("10%perceptual+mse", "10%perceptual+mse"),
        ("norm_mse", "norm_mse"),
        ("mse+perceptual + adversarial", "mse + 0.01*perceptual + 0.01*adversarial"),
    ],
)
def test_a_bare_perceptual_had_a_hundredth_of_its_value_position_by_position(loss, meant):
    saved = older(loss, "hinge")
    del saved["losses.perceptual.pool"]
    found = resumed_settings(saved, settings("name=mine", "resume=true")[0], frozenset())
    assert (found["loss"], found["losses.perceptual.pool"]) == (meant, 1)


@pytest.mark.parametrize("loss", ["adversarial+mse", "perceptual+mse"])
def test_a_run_of_today_is_left_as_it_is(loss):
    saved = flat(settings(f"loss={loss}", "name=mine")[0])
    assert resumed_settings(saved, settings("name=mine", "resume=true")[0], frozenset()) == saved
