"""Files that cannot be read."""

import pytest
import torch

from losses import InvalidSetting
from recon.run_folder import CHECKPOINT, load_checkpoint, read_checkpoint
from tests.recon.training.conftest import SMALL, as_killed_after_its_first_checkpoint, pretrain, resumed, save_picture


@pytest.fixture(scope="module")
def half_torn(tmp_path_factory):
    """An image folder: 10 pictures to train on, 3 of them cut short, and one held out."""
    root = tmp_path_factory.mktemp("half_torn")
    for i in range(10):
        save_picture(root / "train" / f"{i}.png", seed=i)
    for i in (2, 5, 7):
        whole = (root / "train" / f"{i}.png").read_bytes()
        (root / "train" / f"{i}.png").write_bytes(whole[: len(whole) // 2])
    save_picture(root / "val" / "0.png", seed=99)
    return root


def words(root, share: float, *more: str) -> list[str]:
    return [*SMALL, f"data.root={root}", f"data.max_unreadable={share}", "loss=mse", "train.steps=6", *more]


def test_unreadable_files_are_named_once_counted_and_passed_over_also_after_a_resumption(tmp_path, half_torn, capsys):
    assert pretrain(tmp_path, *words(half_torn, 0.3, "name=tolerant", "train.checkpoint_every=3")) == 0
    straight = capsys.readouterr().out
    state = read_checkpoint(tmp_path / "runs" / "tolerant" / CHECKPOINT)
    assert state["step"] == 6 and len(state["unreadable"]) == 3
    as_killed_after_its_first_checkpoint(tmp_path / "runs" / "tolerant", "killed")
    resumed(tmp_path, "killed")
    again = capsys.readouterr().out
    assert "3 files" in straight and "3 files" in again
    for i in (2, 5, 7):
        assert straight.count(f"{half_torn}/train/{i}.png") == 1
        assert f"{half_torn}/train/{i}.png" not in again


def test_more_than_the_set_share_ends_the_run_in_one_line_and_leaves_the_checkpoint(tmp_path, half_torn):
    with pytest.raises(InvalidSetting) as error:
        pretrain(tmp_path, *words(half_torn, 0.2, "name=strict", "train.checkpoint_every=1", "batch.size=2"))
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert "3 of 10" in message and "data.max_unreadable=0.2" in message and f"{half_torn}/train/" in message
    state, refused = load_checkpoint(tmp_path / "runs" / "strict")
    assert refused == [] and 1 <= state["step"] < 6 and torch.isfinite(state["model"]["cls_token"]).all()
    folder = resumed(tmp_path, "strict", "data.max_unreadable=0.3")  # harmless, so the run may go on
    assert read_checkpoint(folder / CHECKPOINT)["step"] == 6
