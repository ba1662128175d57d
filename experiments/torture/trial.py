"""What a trial is, and how a command or a function is asked."""

import hashlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from losses import InvalidSetting
from recon.data.source import UnreadableImage

ROOT = Path(__file__).parents[2]
SERVER = multiprocessing.get_context("forkserver")

# A model that trains in seconds, on photographs that come with the packages.
TINY = [
    *("data=photos", "data.image_size=16", "model=nano", "model.patch_size=4", "model.decoder_depth=1"),
    *("model.decoder_width=32", "batch.size=8", "init=none", "loss=mse", "device=cpu", "precision=fp32"),
]


@dataclass(frozen=True)
class Trial:
    """`case` says what was tried; `fault` what went wrong, None where it held."""

    case: str
    fault: str | None = None


def recon(place: Path, command: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`python -m recon.COMMAND WORDS` in the folder `place`, forked from a process that has imported torch already."""
    SERVER.set_forkserver_preload(["recon.training.pretraining", "recon.comparison.compare_runs", "hydra"])
    with tempfile.TemporaryDirectory() as folder:
        process = SERVER.Process(target=_run, args=(place, folder, command, words))
        process.start()
        process.join()
        out, err = ((Path(folder) / name).read_text(errors="replace") for name in ("out", "err"))
    assert process.exitcode is not None
    return subprocess.CompletedProcess(words, process.exitcode, out, err)


def _run(place: Path, folder: str, command: str, words: tuple[str, ...]) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(folder) / name, os.O_CREAT | os.O_WRONLY), number)
    os.chdir(place)
    sys.argv = [command, *words]
    runpy.run_module(f"recon.{command}", run_name="__main__", alter_sys=True)


def environment() -> dict[str, str]:
    """Of a process that finds this checkout from any folder."""
    return os.environ | {"PYTHONPATH": str(ROOT)}


def fault_of(done: subprocess.CompletedProcess[str]) -> str | None:
    """A command ends with 0, or with 2 and one line; it prints no control characters."""
    last = (done.stderr.strip().splitlines() or [""])[-1]
    if "Traceback" in done.stderr or done.returncode not in (0, 2):
        return f"exit status {done.returncode}: {last}"
    if done.returncode == 2 and len(done.stderr.strip().splitlines()) != 1:
        return f"{len(done.stderr.strip().splitlines())} lines on standard error: {last}"
    if "\x1b" in done.stdout + done.stderr:
        return "an escape sequence reached the terminal"
    return None


def ask(function: Callable[[], Any]) -> tuple[Any, str | None]:
    """(result, fault): None and no fault where `function` refuses in one line."""
    try:
        return function(), None
    except (InvalidSetting, UnreadableImage) as refusal:
        line = str(refusal)
        return None, None if len(line.splitlines()) == 1 else f"not one line: {line[:200]!r}"
    except Exception as error:  # whatever else comes out is what we look for
        return None, f"{type(error).__name__}: {str(error)[:200]}"


def digest(value: Any) -> str:
    """The same for equal values: tensors, dataclasses, mappings, sequences, and what has a `repr`."""
    state = hashlib.sha256()

    def take(x: Any) -> None:
        if isinstance(x, Tensor):
            state.update(f"{x.dtype}{tuple(x.shape)}".encode() + x.detach().contiguous().numpy().tobytes())
        elif isinstance(x, dict):
            for key, item in x.items():
                state.update(repr(key).encode())
                take(item)
        elif is_dataclass(x) and not isinstance(x, type):
            take({f.name: getattr(x, f.name) for f in fields(x)})
        elif isinstance(x, list | tuple):
            for item in x:
                take(item)
        elif hasattr(x, "state_dict"):
            take(dict(x.state_dict()))
        elif hasattr(x, "__iter__") and not isinstance(x, str | bytes | Path):
            take(list(x))
        else:
            state.update(repr(x).encode())

    take(value)
    return state.hexdigest()
