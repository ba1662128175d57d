"""The run whose evaluation is tested."""

from pathlib import Path

import pytest

from recon.loaded_run import LoadedRun, open_run


@pytest.fixture(scope="session")
def run(norm_mse_run) -> Path:
    """A run under norm_mse: it has an honest and an oracle row."""
    return norm_mse_run


@pytest.fixture(scope="session")
def loaded(run) -> LoadedRun:
    return open_run(run)
