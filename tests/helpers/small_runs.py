"""Runs of three steps on the embedded photographs at 16 pixels, and how they are evaluated."""

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest

from recon.study_config import EvaluateSettings
from tests.recon.training.conftest import SMALL, pretrain

PHOTOS = [*(word for word in SMALL if not word.startswith("data.name")), "data.name=photos"]


def trained(place: Path, name: str, *words: str) -> Path:
    """Trains a run for three steps; returns its folder, `place`/runs/`name`."""
    assert pretrain(place, *PHOTOS, "train.steps=3", f"name={name}", *words) == 0
    return place / "runs" / name


def measuring(**changes) -> EvaluateSettings:
    """Few images, few training images, no curve against the ratio, features that need no file."""
    quick = {"device": "cpu", "images": 12, "batch": 5, "training_images": 64, "ratios": [], "pictures": 3}
    settings = EvaluateSettings(**quick | changes)
    if settings.lpips.weights is None:
        settings.lpips.weights = "nowhere.safetensors"  # LPIPS is not to be had, on any machine
    return settings


def once_for_all_workers(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first worker that asks for it fills by `make`; the other workers wait for it and use it too."""
    base = factory.getbasetemp()
    folder = (base if base.name.startswith("pytest-") else base.parent) / name
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            (making := folder.with_name(f"{name}.making")).mkdir()
            make(making)
            making.rename(folder)
    return folder
