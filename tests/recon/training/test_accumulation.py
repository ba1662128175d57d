"""Micro-batches add up to one batch."""

import pytest
import torch

from recon.run_folder import CHECKPOINT, read_checkpoint
from tests.recon.training.conftest import lines_of, small_run


def test_micro_batches_give_the_gradient_of_the_large_batch(tmp_path, pictures):
    """The first step's momentum is a tenth of the gradient."""
    whole, parts = (
        small_run(tmp_path, pictures, name, "loss=norm_mse+0.3*l1", "train.steps=1", "train.log_every=1", words)
        for name, words in (("whole", "batch.per_device=8"), ("parts", "batch.per_device=2"))
    )
    states = [read_checkpoint(folder / CHECKPOINT)["optimizer"]["state"] for folder in (whole, parts)]
    gradients = [torch.cat([state["exp_avg"].flatten() for state in of.values()]).double() for of in states]
    assert (gradients[0] - gradients[1]).norm() < 3e-6 * gradients[0].norm() != 0
    means = [next(line for line in lines_of(folder) if "loss" in line) for folder in (whole, parts)]
    assert means[0]["loss"] == pytest.approx(means[1]["loss"], rel=1e-6)
    assert means[0]["gradient_norm"] == pytest.approx(means[1]["gradient_norm"], rel=3e-6)
