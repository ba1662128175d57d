"""Options of the tests, and fixtures that every test may ask for."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Where Python is asked to write no bytecode, as in many containers, each process that a test starts would compile torch
# and all else anew, for half a minute. They share what the first one compiled.
if sys.dont_write_bytecode:
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.pycache_prefix = str(Path(__file__).parents[1] / ".pytest_cache/bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix

# Of several workers (`-n 2`) each has its part of the cores; read where torch begins.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(share))

import pytest
import torch

COMPILED = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Compiled code has a folder of these tests, for all workers: a compiler that was killed leaves half a file."""
    if "PYTEST_XDIST_WORKER" not in os.environ and "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = config.stash[COMPILED] = tempfile.mkdtemp(prefix="compiled-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if COMPILED in config.stash:
        shutil.rmtree(config.stash[COMPILED], ignore_errors=True)
        del os.environ["TORCHINDUCTOR_CACHE_DIR"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="every test and every case of it")
    parser.addoption("--device", help="device of the tests marked gpu; by default cuda, where there is one")


CASES = 3  # of a test with more, that are run where all tests are meant and `--all` is not given


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without `--all` no test marked slow, and of each law a few cases; with files named every case of theirs."""
    if config.getoption("--all"):
        return
    kept = [item for item in items if "slow" not in item.keywords]
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        cases: dict[tuple[str, str], list[pytest.Item]] = {}
        for item in kept:
            cases.setdefault((str(item.path), getattr(item, "originalname", item.name)), []).append(item)
        kept = [item for of in cases.values() for item in spread(of, CASES)]
    chosen = set(kept)
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Workers where all tests are meant; where files are named this process alone, which waits for nobody to start."""
    return (os.cpu_count() or 1) if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


def spread(things: list, count: int) -> list:
    """The first, the last, and what lies evenly between."""
    if len(things) <= count:
        return things
    return [things[round(i * (len(things) - 1) / (count - 1))] for i in range(count)]


def pytest_report_header(config: pytest.Config) -> str:
    return "all tests" if config.getoption("--all") else f"no slow tests, {CASES} cases of each (--all: everything)"


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
