"""Small runs that have been trained for a few steps, and their evaluations."""

from pathlib import Path

import pytest

from recon.evaluation.evaluation_pass import evaluate
from recon.evaluation.results import Evaluation
from recon.evaluation.suite import load_suite
from recon.loaded_run import LoadedRun, open_run
from recon.study_config import EvaluateSettings
from tests.recon.training.conftest import SMALL, pretrain

PHOTOS = [*(word for word in SMALL if not word.startswith("data.name")), "data.name=photos"]


def measuring(**changes) -> EvaluateSettings:
    """Few images, few training images, no curve against the ratio, features that need no file."""
    quick = {"device": "cpu", "images": 12, "batch": 5, "training_images": 64, "ratios": [], "pictures": 3}
    settings = EvaluateSettings(**quick | changes)
    if settings.lpips.weights is None:
        settings.lpips.weights = "nowhere.safetensors"  # LPIPS is not to be had, on any machine
    return settings


def trained(place: Path, name: str, *words: str) -> Path:
    assert pretrain(place, *PHOTOS, "train.steps=3", f"name={name}", *words) == 0
    return place / "runs" / name


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """A run under norm_mse: it has an honest and an oracle row."""
    return trained(tmp_path_factory.mktemp("evaluated"), "plain", "loss=norm_mse")


@pytest.fixture(scope="session")
def loaded(run) -> LoadedRun:
    return open_run(run)


@pytest.fixture(scope="session")
def evaluation(loaded) -> Evaluation:
    return evaluate(loaded, measuring(), load_suite(measuring()))
