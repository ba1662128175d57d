"""Runs to compare, and tensors of an evaluation made of numbers."""

from pathlib import Path

import pytest
from torch import Tensor

from recon.study_config import CompareSettings
from tests.recon.evaluation.conftest import measuring, trained


def comparing(*runs: Path, **changes) -> CompareSettings:
    quick = vars(measuring()) | changes
    quick.pop("run")
    return CompareSettings(**quick, runs=[str(run) for run in runs])


def made_of(rows: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows of per-image numbers as an evaluation's tensors."""
    return {f"{row}/{name}": values for row, numbers in rows.items() for name, values in numbers.items()}


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("compared")


@pytest.fixture(scope="session")
def one(place) -> Path:
    return trained(place, "one", "loss=mse")


@pytest.fixture(scope="session")
def two(place) -> Path:
    return trained(place, "<script>two", "loss=norm_mse", "seed=1")


@pytest.fixture(scope="session")
def wide(place) -> Path:
    return trained(place, "wide", "loss=mse", "data.image_size=24")
