"""The thesis, end to end: squared error predicts the mean of what could be there, so it has the least error and blurs;
a discriminator asks for detail, and gets it at the price of error."""

import pytest
import torch

from recon.data import create_dataset, held_out_images
from recon.loaded_run import load_run
from recon.metrics import METRICS, Pair
from recon.training.setup import masking_of
from tests.recon.training.conftest import pretrain

TINY = [
    *("data.name=dead_leaves", "data.image_size=16", "model.name=nano", "model.patch_size=4", "model.decoder_depth=1"),
    *("train.steps=150", "batch.size=16", "optim.base_lr=1.6e-2", "device=cpu", "precision=fp32"),
]
QUICK = ["losses.adversarial.generator_start=0", "losses.adversarial.generator_full=0.1", "losses.adversarial.width=16"]


def measured(run) -> dict[str, float]:
    """Masked MSE, and the squared gradient inside hidden patches over the truth's."""
    model = run.model
    images, noise, _ = held_out_images(
        create_dataset("dead_leaves", "val"), (16, 16), 64, 0, masking_of(run.settings, model)
    )
    with torch.no_grad():
        r = model(images, noise=noise)
    pair, truth = Pair(r.composite, images, r.mask), Pair(images, images, r.mask)
    sharp = METRICS["tenengrad"].function
    return {
        "mse": METRICS["masked_mse"].function(pair).mean().item(),
        "detail": (sharp(pair).nanmean() / sharp(truth).nanmean()).item(),
    }


@pytest.mark.slow
def test_squared_error_blurs_and_a_discriminator_sharpens(tmp_path):
    found = {}
    for loss in ("mse", "adversarial+mse"):
        assert pretrain(tmp_path, *TINY, *QUICK, f"loss={loss}", f"name={loss}") == 0
        found[loss] = measured(load_run(tmp_path / "runs" / loss))

    assert found["mse"]["mse"] < found["adversarial+mse"]["mse"]
    assert found["adversarial+mse"]["detail"] > 3 * found["mse"]["detail"]
