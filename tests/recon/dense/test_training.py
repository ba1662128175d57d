"""A training that is stopped goes on to the same bits; what it cannot go on with is one line."""

import os
import signal

import pytest
import torch

from losses import InvalidSetting
from recon.console import no_progress_bar
from recon.dense.encoder import DenseEncoder
from recon.dense.leaves import LeafScenes
from recon.dense.segmentation import LinearSegmenter
from recon.dense.training import fit
from recon.dense.transfer_recipes import TransferRecipe
from recon.dense.views import View, Views
from recon.distributed import ALONE
from recon.training.device import make_fabric
from tests.recon.dense.small_encoders import model_of

RECIPE = TransferRecipe("linear", 0.02, 4, 1e-3, 0.05, 0.1, layer_decay=0.8, drop_path=0.1, clip=1.0, scale=(0.8, 1.2))
STEPS = RECIPE.steps(2000)


def model() -> LinearSegmenter:
    torch.manual_seed(0)
    return LinearSegmenter(DenseEncoder(model_of(depth=2), drop_path=0.2), 3)


def trained(segmenter, folder, facts=None, progress=no_progress_bar, seed=0):
    views = Views(LeafScenes("train"), View(24, RECIPE.scale, instances=False), seed)
    fabric = make_fabric("cpu", "fp32")
    return fit(segmenter, RECIPE, views, folder, facts or {"a": 1}, fabric, ALONE, 0, progress)


def stopping_after(steps: int):
    def progress(things, *_):
        for number, thing in enumerate(things):
            if number == steps:
                os.kill(os.getpid(), signal.SIGTERM)
            yield thing

    return progress


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path):
    assert STEPS == 10
    whole, parted = model(), model()
    assert trained(whole, tmp_path / "whole") is None
    assert trained(parted, tmp_path / "parted", progress=stopping_after(4)) == signal.SIGTERM
    other = model()
    other.linear.weight.data.zero_()  # what it begins with does not matter
    torch.manual_seed(99)
    assert trained(other, tmp_path / "parted") is None
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), other.state_dict().values(), strict=True))
    assert not torch.equal(whole.linear.weight, model().linear.weight)


def test_a_finished_training_is_not_repeated(tmp_path):
    first, second = model(), model()
    trained(first, tmp_path)
    asked = []
    trained(second, tmp_path, progress=lambda things, *_: asked.extend(things) or [])
    assert asked == [] and torch.equal(first.linear.weight, second.linear.weight)


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    trained(model(), tmp_path, {"size": 24, "recipe": "a"})
    with pytest.raises(InvalidSetting, match="another size; again=true") as error:
        trained(model(), tmp_path, {"size": 32, "recipe": "a"})
    assert "\n" not in str(error.value)


def test_a_diverged_training_is_one_line(tmp_path):
    broken = model()
    broken.linear.weight.data.fill_(float("nan"))
    with pytest.raises(InvalidSetting, match="diverged"):
        trained(broken, tmp_path)
