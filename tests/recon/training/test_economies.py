"""Settings that make a step cheaper: what they leave as it was, and where they are refused."""

from functools import partial

import pytest
import torch

from losses import InvalidSetting
from recon.config import check
from recon.run_folder import CHECKPOINT, read_checkpoint
from tests.recon.training.conftest import SMALL, differences, lines_of, pretrain, settings, small_run, state_of


@pytest.fixture(scope="module")
def plain(tmp_path_factory, pictures):
    return small_run(tmp_path_factory.mktemp("plain"), pictures, "plain", "loss=norm_mse", "train.steps=4")


def test_gradient_checkpointing_changes_no_bit(tmp_path, pictures, plain):
    words = ["loss=norm_mse", "train.steps=4", "model.gradient_checkpointing=true"]
    again = state_of(small_run(tmp_path, pictures, "again", *words))
    assert again["settings"].pop("model.gradient_checkpointing")
    before = state_of(plain)
    before["settings"].pop("model.gradient_checkpointing")
    assert differences(before, again) == []


def test_a_step_that_decodes_a_part_learns_from_that_part(tmp_path, pictures, plain, capsys):
    """Another gradient, but of the same expectation: the losses are near, and the weights are not the same."""
    words = ["loss=norm_mse", "train.steps=4", "masking.decoded=0.5"]
    part = small_run(tmp_path, pictures, "part", *words)
    assert "12 of 16 hidden (random), 50% of those decoded" in capsys.readouterr().out
    first = [next(line["loss"] for line in lines_of(folder) if "loss" in line) for folder in (plain, part)]
    assert first[0] == pytest.approx(first[1], rel=0.05) and first[0] != first[1]
    models = [read_checkpoint(folder / CHECKPOINT)["model"] for folder in (plain, part)]
    assert not torch.equal(*(model["decoder_pred.weight"] for model in models))


@pytest.mark.slow
def test_what_ran_before_in_one_process_does_not_change_what_is_compiled(tmp_path, pictures, monkeypatch):
    """A sweep's later runs are compiled for their own shapes, as each would be alone."""
    variable = []  # of each graph, whether any of its shapes is

    def backend(graph, examples):
        variable.append(any(isinstance(each, torch.SymInt) for each in examples))
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    for ratio in (0.5, 0.75):
        words = ["loss=mse", "compile=true", "train.steps=1", f"masking.ratio={ratio}"]
        small_run(tmp_path, pictures, f"{ratio}", *words)
        assert variable[0] is False  # the training step's; the picture's has other shapes
        variable.clear()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["masking.decoded=0"], "masking.decoded=0"),
        (["masking.decoded=1.5"], "masking.decoded=1.5 must be above 0 and at most 1"),
        (["masking.decoded=0.5", "losses.over=all"], "losses.over=all judges every patch"),
        (["masking.decoded=0.5", "masking.strategy=grid"], "masking.strategy=grid leaves the same patches out"),
        (["data.repeats=0"], "data.repeats=0 must be at least 1"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(words, said):
    with pytest.raises(InvalidSetting, match=said):
        check(settings("loss=mse", *words)[0])


@pytest.mark.parametrize("loss", ["perceptual+mse", "mse+10%adversarial"])
def test_a_term_that_looks_at_images_wants_them_whole(tmp_path, pictures, loss):
    with pytest.raises(
        InvalidSetting, match=r"^masking.decoded=0.5 leaves holes in the image, and \w+al looks at images"
    ):
        pretrain(tmp_path, *SMALL, f"data.root={pictures}", f"loss={loss}", "masking.decoded=0.5", "train.steps=4")
    assert list(tmp_path.iterdir()) == []
