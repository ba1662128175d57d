"""Typing a command, for the tests of the command line."""

import sys

import pytest
from hydra.core.global_hydra import GlobalHydra

from recon import cli as command
from recon.config import Settings
from recon.training.pretraining import pretrain


@pytest.fixture
def type_in(tmp_path, monkeypatch, capfd):
    """Types a command in an empty folder: arguments -> exit status, stdout, stderr. `task` stands in for training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def typed(*arguments: str, task=pretrain) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pretrain.py", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            about = "Trains a masked autoencoder."
            command.run(task, command.Command("pretrain", about, less_memory="lower batch.per_device"))
        GlobalHydra.instance().clear()
        out, err = capfd.readouterr()
        return end.value.code or 0, out, err

    return typed


@pytest.fixture
def settings_of(type_in):
    """Arguments -> the settings and the given keys that training would be handed, one pair per run of a sweep."""

    def understood(*arguments: str) -> list[tuple[Settings, frozenset[str]]]:
        found = []
        status, _, err = type_in(*arguments, task=lambda settings, given: found.append((settings, given)))
        assert status == 0, err
        return found

    return understood
