"""A checkpoint is written whole or not at all, and read only if it is one."""

import errno
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from losses import InvalidSetting
from recon.run_folder import CHECKPOINT, CHECKPOINT_FORMAT, PREVIOUS, load_checkpoint, read_checkpoint, save_checkpoint
from recon.training.state import random_states, set_random_states
from tests.recon.training.conftest import differences


def state(step: int) -> dict:
    return {
        "step": step,
        "model": {"weight": torch.arange(1000.0) + step, "half": torch.ones(3, dtype=torch.bfloat16)},
        "settings": {"loss": "mse", "name": None, "optim.betas": [0.9, 0.95], "optim.base_lr": 1e-3, "resume": False},
    }


def with_format(of: dict) -> dict:
    return {"format": CHECKPOINT_FORMAT, **of}


def test_what_was_saved_comes_back(tmp_path):
    save_checkpoint(tmp_path, state(3))
    loaded, refused = load_checkpoint(tmp_path)
    assert differences(loaded, with_format(state(3))) == [] and refused == []


def test_the_newest_is_read_and_the_one_before_it_kept(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, state(step))
    assert load_checkpoint(tmp_path)[0]["step"] == 3
    assert read_checkpoint(tmp_path / PREVIOUS)["step"] == 2
    assert {path.name for path in tmp_path.iterdir()} == {CHECKPOINT, PREVIOUS}


def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, state(1))

    def full_disk(value, file):
        file.write(b"half a checkpoint")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full_disk)
        with pytest.raises(OSError):
            save_checkpoint(tmp_path, state(2))
    assert differences(load_checkpoint(tmp_path)[0], with_format(state(1))) == []
    save_checkpoint(tmp_path, state(3))
    assert load_checkpoint(tmp_path)[0]["step"] == 3


@pytest.mark.parametrize("torn", [False, True], ids=["newest whole", "newest torn"])
@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_at_every_moment_one_whole_checkpoint_has_its_name(tmp_path, monkeypatch, renamed, torn):
    """Killed before any of the renames of a save, also of the first save after a torn checkpoint was refused."""
    save_checkpoint(tmp_path, state(1))
    save_checkpoint(tmp_path, state(2))
    if torn:
        (tmp_path / CHECKPOINT).write_bytes(b"torn")
        assert load_checkpoint(tmp_path)[0]["step"] == 1
    calls = 0
    rename = os.replace

    def killed(*arguments):
        nonlocal calls
        if calls == renamed:
            raise KeyboardInterrupt
        calls += 1
        rename(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        try:
            save_checkpoint(tmp_path, state(3))
        except KeyboardInterrupt:
            assert calls == renamed
    assert load_checkpoint(tmp_path)[0]["step"] in (1, 2, 3)


def test_a_file_cut_short_anywhere_is_refused_by_name_and_the_one_before_it_used(tmp_path):
    save_checkpoint(tmp_path, state(1))
    save_checkpoint(tmp_path, state(2))
    newest = tmp_path / CHECKPOINT
    whole = newest.read_bytes()
    for length in [0, 1, *range(50, len(whole), 250), len(whole) - 1]:
        newest.write_bytes(whole[:length])
        loaded, refused = load_checkpoint(tmp_path)
        assert loaded["step"] == 1
        assert len(refused) == 1 and str(newest) in refused[0] and len(refused[0].splitlines()) == 1


def test_a_changed_byte_in_a_tensor_is_refused_and_the_one_before_it_used(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, {**state(step), "weights": torch.full((1000,), 7.0)})
    newest = tmp_path / CHECKPOINT
    whole = newest.read_bytes()
    at = whole.index(torch.full((100,), 7.0).numpy().tobytes()) + 200
    newest.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    loaded, refused = load_checkpoint(tmp_path)
    assert loaded["step"] == 1
    assert len(refused) == 1 and str(newest) in refused[0]


class Bomb:
    """What a hostile pickle would do."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write_foreign(kind: str, path, marker) -> None:
    if kind == "text":
        path.write_text("Dear colleague,")
    elif kind == "safetensors":
        save_file({"weight": torch.ones(3)}, path)
    elif kind == "another program's":
        torch.save({"model": {"weight": torch.ones(3)}, "epoch": 3}, path)
    elif kind == "a list":
        torch.save([1, 2], path)
    elif kind == "another format":
        torch.save({**state(2), "format": CHECKPOINT_FORMAT + "0"}, path)
    elif kind == "an object":
        torch.save(with_format(state(2) | {"tally": Bomb(marker)}), path)
    elif kind == "a plain pickle":
        path.write_bytes(pickle.dumps(with_format({"step": Bomb(marker)}), protocol=2))


KINDS = ["text", "safetensors", "another program's", "a list", "another format", "an object", "a plain pickle"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_foreign_file_is_refused_by_name_and_runs_no_code(tmp_path, kind):
    save_checkpoint(tmp_path, state(1))
    save_checkpoint(tmp_path, state(2))
    newest, marker = tmp_path / CHECKPOINT, tmp_path / "marker"
    newest.unlink()
    write_foreign(kind, newest, marker)
    loaded, refused = load_checkpoint(tmp_path)
    assert loaded["step"] == 1
    assert len(refused) == 1 and str(newest) in refused[0] and len(refused[0].splitlines()) == 1
    assert not marker.exists()


def test_the_bomb_is_one(tmp_path):
    """Ordinary unpickling would have run the code."""
    write_foreign("an object", tmp_path / "bomb", tmp_path / "marker")
    torch.load(tmp_path / "bomb", weights_only=False)
    assert (tmp_path / "marker").exists()


def test_where_no_checkpoint_can_be_read_one_line_names_them_all(tmp_path):
    with pytest.raises(InvalidSetting, match=CHECKPOINT):
        load_checkpoint(tmp_path)
    for name in (CHECKPOINT, PREVIOUS):
        (tmp_path / name).write_text("torn")
    with pytest.raises(InvalidSetting) as error:
        load_checkpoint(tmp_path)
    assert len(str(error.value).splitlines()) == 1
    assert all(str(tmp_path / name) in str(error.value) for name in (CHECKPOINT, PREVIOUS))


def test_random_states_bring_the_same_numbers_back(seeded):
    states = random_states()
    first = torch.rand(5)
    torch.rand(3)
    set_random_states(states)
    assert torch.equal(torch.rand(5), first)
