"""Options of the tests, and fixtures that every test may ask for."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="the tests marked slow, too")
    parser.addoption("--device", help="device of the tests marked gpu; by default cuda, where there is one")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--all"):
        skip = pytest.mark.skip(reason="slow: run by --all")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """What is compared with the CPU: a CUDA device, which multiplies in full float32; skips where there is none.

    `--device cpu` compares the CPU with itself, so that such a test can be tried where there is no other.
    """
    asked = request.config.getoption("--device")
    if asked is None and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic=true, before the first product
    precision = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield torch.device(asked or "cuda")
    torch.set_float32_matmul_precision(precision[0])
    torch.backends.cudnn.allow_tf32 = precision[1]
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights that is not part of the project; skips where it is missing."""
    root = Path(__file__).parents[1]
    folder = Path(os.environ.get("RECON_SHARED", root.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"real images and weights are not at {folder} (set RECON_SHARED)")
    return folder
