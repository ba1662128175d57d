"""A disk that is full, and a folder that is gone or in use: one line, and the last checkpoint stands."""

import contextlib
import errno
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import torch

from losses import InvalidSetting
from recon.folder_lock import locked
from recon.run_folder import CHECKPOINT, MODEL, WriteError, load_checkpoint, save_checkpoint, write_bytes
from recon.training import train_logger
from tests.recon.training.conftest import SMALL, contents, pretrain, resumed

WORDS = [*SMALL, "loss=mse", "train.steps=4", "train.checkpoint_every=2", "name=x"]


@contextlib.contextmanager
def full_disk(size: int = 1000) -> Iterator[None]:
    """No file can grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("written", [CHECKPOINT, MODEL, "reconstructions.png", "metrics.jsonl"])
def test_a_full_disk_ends_a_run_in_one_line_and_the_last_checkpoint_stands(tmp_path, pictures, monkeypatch, written):
    """At step 2, while the given file is written."""
    name = {CHECKPOINT: "save_checkpoint", MODEL: "write_bytes", "reconstructions.png": "write_picture"}.get(written)
    real = getattr(train_logger, name) if name else train_logger.RunLog.log_metrics

    def writes(*arguments):
        run = tmp_path / "runs" / "x"
        begun = (run / CHECKPOINT).exists() and (run / MODEL).exists()
        with full_disk() if begun else contextlib.nullcontext():
            return real(*arguments)

    monkeypatch.setattr(train_logger if name else train_logger.RunLog, name or "log_metrics", writes)
    with pytest.raises(InvalidSetting) as error:
        pretrain(tmp_path, *WORDS, f"data.root={pictures}", "train.picture_every=2", "train.log_every=1")
    line = str(error.value)
    assert len(line.splitlines()) == 1 and f"runs/x/{written} cannot be written: File too large" in line, line
    assert "python -m recon.pretrain name=x resume=true" in line
    assert not list(tmp_path.rglob("*.tmp"))
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "runs" / "x")[1] == []
    assert load_checkpoint(resumed(tmp_path, "x"))[0]["step"] == 4


def test_a_folder_that_is_gone_during_training_is_named(tmp_path, pictures, monkeypatch):
    real = train_logger.save_checkpoint

    def saves(folder, state):
        if state["step"]:
            folder.rename("elsewhere")
        real(folder, state)

    monkeypatch.setattr(train_logger, "save_checkpoint", saves)
    with pytest.raises(InvalidSetting, match=r"^ended at step 2 of 4: runs/x/checkpoint.pt cannot be written: No such"):
        pretrain(tmp_path, *WORDS, f"data.root={pictures}")
    assert load_checkpoint(tmp_path / "elsewhere")[0]["step"] == 0


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(tmp_path):
    save_checkpoint(tmp_path, {"step": 1, "settings": {}})
    before = contents(tmp_path)
    for size in (0, 1000, 100_000):
        with pytest.raises(WriteError, match=r"checkpoint\.pt cannot be written: File too large$"), full_disk(size):
            save_checkpoint(tmp_path, {"step": 2, "settings": {}, "model": {"weight": torch.zeros(100_000)}})
        assert contents(tmp_path) == before


def test_where_a_folder_is_read_only_or_no_folder_the_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    for folder in ("missing", "file"):
        with pytest.raises(WriteError, match=rf"{folder}/x cannot be written: (No such file|Not a)") as error:
            write_bytes(tmp_path / folder / "x", b"")
        assert error.value.errno in (errno.ENOENT, errno.ENOTDIR)


def test_a_run_that_another_process_trains_is_refused(tmp_path, pictures):
    assert pretrain(tmp_path, *WORDS, f"data.root={pictures}") == 0
    before = contents(tmp_path)
    with locked(tmp_path / "runs" / "x"):
        for words in (["name=x", "resume=true"], [*WORDS, f"data.root={pictures}"]):
            with pytest.raises(InvalidSetting, match=r"^another process writes to runs/x; wait for its end"):
                pretrain(tmp_path, *words)
    assert contents(tmp_path) == before
    with ExitStack() as locks:
        locks.enter_context(locked(tmp_path / "runs" / "x"))


def test_a_worker_does_not_keep_the_lock_of_a_process_that_was_killed(tmp_path):
    with locked(tmp_path):
        reading, writing = os.pipe()
        if (worker := os.fork()) == 0:
            os.read(reading, 1)
            os._exit(0)
        lock = ExitStack()
        lock.enter_context(locked_by_another(tmp_path))
    with locked(tmp_path):  # though the worker lives
        pass
    os.write(writing, b".")
    os.waitpid(worker, 0)
    shutil.rmtree(tmp_path)


@contextlib.contextmanager
def locked_by_another(folder) -> Iterator[None]:
    with pytest.raises(InvalidSetting), locked(folder):
        pass
    yield
