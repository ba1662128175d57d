"""Runs to compare, and tensors of an evaluation made of numbers."""

import shutil
from pathlib import Path

import pytest
from torch import Tensor

from recon.study_config import CompareSettings
from tests.helpers.small_runs import measuring, trained


def comparing(*runs: Path, **changes) -> CompareSettings:
    quick = vars(measuring()) | changes
    quick.pop("run")
    return CompareSettings(**quick, runs=[str(run) for run in runs])


def made_of(rows: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows of per-image numbers as an evaluation's tensors."""
    return {f"{row}/{name}": values for row, numbers in rows.items() for name, values in numbers.items()}


@pytest.fixture(scope="session")
def place(tmp_path_factory, small_runs) -> Path:
    """A folder whose `runs` are copies of the small runs."""
    return shutil.copytree(small_runs, tmp_path_factory.mktemp("compared") / "runs").parent


@pytest.fixture(scope="session")
def one(mse_run) -> Path:
    return mse_run


@pytest.fixture(scope="session")
def two(norm_mse_run) -> Path:
    return norm_mse_run


@pytest.fixture(scope="session")
def wide(place) -> Path:
    return trained(place, "wide", "loss=mse", "data.image_size=24")
