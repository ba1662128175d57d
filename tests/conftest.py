"""Fixtures that every test may ask for."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights that is not part of the project; skips where it is missing."""
    root = Path(__file__).parents[1]
    folder = Path(os.environ.get("RECON_SHARED", root.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"real images and weights are not at {folder} (set RECON_SHARED)")
    return folder
