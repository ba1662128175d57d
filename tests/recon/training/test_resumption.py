"""A run that was killed and resumed ends at the same bits as one that never was."""

import random

import numpy as np
import pytest
import torch

from losses import InvalidSetting
from recon.run_folder import CHECKPOINT, PREVIOUS, read_checkpoint
from tests.recon.training.conftest import (
    as_killed_after_its_first_checkpoint,
    contents,
    differences,
    lines_of,
    resumed,
    save_picture,
    save_pictures,
    small_run,
    state_of,
    timeless,
)

RUNS = {
    "mse": ["loss=mse", "precision=bf16"],
    "norm_mse": ["loss=norm_mse+10%l1", "optim.clip=0.5", "precision=bf16"],
    "perceptual": ["loss=perceptual+mse", "masking.strategy=block"],
    "adversarial": ["loss=mse+50%adversarial", "losses.adversarial.generator_full=0.9"],
    "accumulated": ["loss=l1+adversarial", "losses.adversarial.gan_loss=relativistic", "batch.per_device=4"],
    "looking less": [
        "loss=mse+10%perceptual+adversarial",
        *("losses.perceptual.every=2", "losses.perceptual.crop=8", "losses.perceptual.images=0.5"),
        *(
            "losses.adversarial.every=3",
            "losses.adversarial.gan_loss=relativistic",
            "losses.adversarial.penalty_every=2",
        ),
    ],
    "flow": ["loss=mse+flow", "precision=bf16", "train.ema=0.5", "losses.flow.steps=2"],
    "mixture": ["loss=mixture", "losses.mixture.gaussians=2"],
    "pca": ["loss=20%l1+pca", "losses.pca.components=5"],
    "hog": ["loss=hog", "data.augment=device"],
    "features": ["loss=features", "losses.features.weights=random", "train.ema=0.5"],
    "tokens": ["loss=tokens+10%mse", "losses.tokens.codes=16", "precision=bf16"],
    "noise": ["loss=norm_mse", "masking.strategy=noise", "masking.noise=0.1", "precision=bf16"],
    "components": ["loss=perceptual+mse", "masking.strategy=components", "masking.ratio=0.2", "precision=bf16"],
    "workers": ["loss=mse", "data.workers=2"],
    "crops resized on the device": ["loss=mse", "data.augment=device"],
}


@pytest.fixture(scope="module", params=RUNS)
def straight_and_resumed(request, tmp_path_factory, pictures):
    """Two runs of eight steps; the second was killed after its fourth, between two lines of the log."""
    place = tmp_path_factory.mktemp(request.param)
    straight = small_run(
        place,
        pictures,
        "straight",
        *RUNS[request.param],
        "train.steps=8",
        "train.checkpoint_every=4",
        "train.log_every=3",
    )
    killed = as_killed_after_its_first_checkpoint(straight, "killed")
    assert read_checkpoint(killed / CHECKPOINT)["step"] == 4
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    return straight, resumed(place, "killed")


def test_resumption_is_exact(straight_and_resumed):
    straight, again = straight_and_resumed
    assert differences(state_of(straight), state_of(again)) == []
    assert (straight / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()


def test_metrics_go_on_as_if_nothing_had_happened(straight_and_resumed):
    straight, again = straight_and_resumed
    assert timeless(lines_of(straight)) == timeless(lines_of(again))


def test_the_picture_is_the_same(straight_and_resumed):
    pictures = [list(folder.glob("reconstructions.png")) for folder in straight_and_resumed]
    assert len({len(found) for found in pictures}) == 1  # none where there are no pixels
    for one, other in zip(*pictures, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_every_step_matters(straight_and_resumed):
    """Were training to stand still, all laws above would hold of it."""
    straight, _ = straight_and_resumed
    before, after = (read_checkpoint(straight / name) for name in (PREVIOUS, CHECKPOINT))
    assert (before["step"], after["step"]) == (4, 8)
    for part in ("model", "optimizer", "random"):
        assert differences(before[part], after[part])
    assert bool(before["objective"]) == bool(differences(before["objective"], after["objective"]))


@pytest.fixture(scope="module")
def seeds(tmp_path_factory, pictures):
    """The last states of three runs: of one seed, of the same, of another."""
    place = tmp_path_factory.mktemp("seeds")
    words = ["loss=perceptual+mse", "train.steps=2"]
    return [
        state_of(small_run(place, pictures, name, *words, f"seed={seed}"))
        for name, seed in (("one", 7), ("same", 7), ("other", 8))
    ]


def test_the_same_settings_give_the_same_bits(seeds):
    assert differences(seeds[0], seeds[1]) == []


def test_another_seed_gives_other_weights(seeds):
    assert "/cls_token" in differences(seeds[0]["model"], seeds[2]["model"])


def test_a_finished_run_resumed_changes_nothing(tmp_path, pictures, capsys):
    folder = small_run(tmp_path, pictures, "done", "loss=mse", "train.steps=3")
    state, metrics = state_of(folder), (folder / "metrics.jsonl").read_text()
    capsys.readouterr()
    resumed(tmp_path, "done")
    assert "3 steps" in capsys.readouterr().out
    assert differences(state, state_of(folder)) == []
    assert (folder / "metrics.jsonl").read_text() == metrics


def test_a_torn_checkpoint_is_refused_by_name_and_the_one_before_it_used(tmp_path, pictures, capsys):
    straight = small_run(tmp_path, pictures, "straight", "loss=mse", "train.steps=4", "train.checkpoint_every=2")
    finished = state_of(straight)
    newest = straight / CHECKPOINT
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    capsys.readouterr()
    resumed(tmp_path, "straight")
    out = capsys.readouterr().out
    assert "runs/straight/checkpoint.pt" in out and "from step 2" in out
    assert differences(finished, state_of(straight)) == []


def test_a_run_does_not_go_on_with_another_number_of_images(tmp_path, pictures):
    """data.root may change, as where the same files are; other files would be another run, of another length."""
    straight = small_run(tmp_path, pictures, "straight", "loss=mse", "train.epochs=3.2", "train.checkpoint_every=2")
    killed = as_killed_after_its_first_checkpoint(straight, "killed")
    before = contents(killed)
    more = save_pictures(tmp_path / "more")
    save_picture(more / "train" / "another.png", seed=99)
    with pytest.raises(InvalidSetting, match="11"):
        resumed(tmp_path, "killed", f"data.root={more}")
    assert contents(killed) == before
