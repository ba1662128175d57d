"""What is evaluated: a run, read back from its folder."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from losses import InvalidSetting
from recon.config import Settings
from recon.model import MaskedAutoencoder
from recon.training.trained import load_run, trained_steps


@dataclass
class Subject:
    """A trained model and how it was made.

    `resolved` is what config.yaml says was found: objective, weights, data. `step` counts its optimiser steps of
    `resolved["steps"]`; None where the file does not say.
    """

    folder: Path
    settings: Settings
    model: MaskedAutoencoder
    resolved: dict[str, Any]
    step: int | None
    sha256: str

    @property
    def unfinished(self) -> str | None:
        """How far an unfinished run has come."""
        if self.step is None or self.step >= self.resolved["steps"]:
            return None
        return f"unfinished: {self.step} of {self.resolved['steps']} steps"


def open_run(folder: Path) -> Subject:
    """A run as it stands on disk, finished or not.

    Raises:
        InvalidSetting: there is no such run, or it holds no model that can be read.
    """
    if not folder.is_dir():
        raise InvalidSetting(f"there is no run {folder}{_others(folder.parent)}")
    settings, model = load_run(folder)
    weights = folder / "model.safetensors"
    resolved = yaml.safe_load((folder / "config.yaml").read_text())["resolved"]
    return Subject(folder, settings, model, resolved, trained_steps(folder), checksum(weights))


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def curves(folder: Path) -> dict[str, list[float | None]]:
    """metrics.jsonl by name; None where a line lacks that number. Torn lines are left out."""
    path, lines = folder / "metrics.jsonl", []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:  # the half line of a killed process
            continue
    names = dict.fromkeys(name for line in lines for name in line)
    return {name: [line.get(name) for line in lines] for name in names}


def _others(parent: Path) -> str:
    there = sorted(path.parent.name for path in parent.glob("*/config.yaml"))
    return f" ({parent}/ has {', '.join(there)})" if there else ""
