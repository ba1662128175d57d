"""Settings of runs from before a default changed mean on resumption what they meant then."""

import pytest

from recon.config import Settings
from recon.saved_settings import flat, resumed_settings
from tests.recon.training.conftest import settings


def older(loss: str, gan_loss: str) -> dict:
    """Settings as they were saved when `gan_loss` was called `game`, and two settings did not exist."""
    saved = flat(settings(f"loss={loss}", "name=mine")[0])
    del saved["losses.adversarial.mask_aware"], saved["losses.feature_matching.pool"]
    del saved["losses.adversarial.gan_loss"], saved["losses.feature_matching.gan_loss"]
    return saved | {"losses.adversarial.game": gan_loss, "losses.adversarial.penalty": 1.0}


@pytest.mark.parametrize(
    ("loss", "meant"),
    [
        ("adversarial+mse", "0.01*adversarial + mse"),
        ("mse + adversarial", "mse + 0.01*adversarial"),
        ("80%adversarial + mse", "80%adversarial + mse"),
        ("1e+1*mse + adversarial", "10*mse + 0.01*adversarial"),
        ("0.5*adversarial+l1", "0.5*adversarial+l1"),
        ("adversarial", "0.01*adversarial"),
    ],
)
def test_a_bare_adversarial_had_a_hundredth_of_its_value(loss, meant):
    now = settings("name=mine", "resume=true")[0]
    assert resumed_settings(older(loss, "hinge"), now, frozenset())["loss"] == meant


@pytest.mark.parametrize(("gan_loss", "penalty"), [("hinge", 0.0), ("nonsaturating", 0.0), ("relativistic", 1.0)])
def test_only_the_relativistic_loss_was_penalised_and_no_discriminator_was_told_of_the_mask(gan_loss, penalty):
    found = resumed_settings(older("adversarial+mse", gan_loss), settings("name=mine", "resume=true")[0], frozenset())
    assert found["losses.adversarial.penalty"] == penalty and found["losses.adversarial.mask_aware"] is False
    assert found["losses.adversarial.gan_loss"] == gan_loss


@pytest.mark.parametrize(
    ("loss", "meant"),
    [
        ("perceptual+mse", "0.01*perceptual + mse"),
        ("10%perceptual+mse", "10%perceptual+mse"),
        ("norm_mse", "norm_mse"),
        ("mse+perceptual + adversarial", "mse + 0.01*perceptual + 0.01*adversarial"),
        ("feature_matching+mse", "200%feature_matching + mse"),
    ],
)
@pytest.mark.parametrize("pool", [None, 4])
def test_features_were_compared_position_by_position_with_other_weights(loss, meant, pool):
    """Squares could be asked for shortly before they became the default."""
    saved = older(loss, "hinge") | {"losses.perceptual.pool": pool}
    if pool is None:
        del saved["losses.perceptual.pool"]
    found = resumed_settings(saved, settings("name=mine", "resume=true")[0], frozenset())
    assert found["loss"] == meant
    assert (found["losses.perceptual.pool"], found["losses.feature_matching.pool"]) == (pool or 1, 1)


@pytest.mark.parametrize("loss", ["adversarial+mse", "perceptual+mse", "feature_matching+mse"])
def test_a_run_of_today_is_left_as_it_is(loss):
    saved = flat(settings(f"loss={loss}", "name=mine")[0])
    assert resumed_settings(saved, settings("name=mine", "resume=true")[0], frozenset()) == saved


def test_a_setting_that_was_renamed_since_is_read_under_its_new_name():
    saved = {("batch.global" if key == "batch.size" else key): value for key, value in flat(Settings()).items()}
    assert resumed_settings(saved, Settings(), frozenset()) == flat(Settings())
