"""A run's folder: what its files are called, how they are written whole or not at all, and whether a run can go on."""

import json
import math
import os
import platform
import re
import secrets
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import yaml
from omegaconf.errors import OmegaConfBaseException

from losses import InvalidSetting
from recon.config import BUNDLED, Settings
from recon.folder_lock import locked
from recon.saved_settings import MAX_YAML, as_yaml, from_yaml

if TYPE_CHECKING:
    import torch

RUNS = Path("runs")
CONFIG, ENVIRONMENT, METRICS = "config.yaml", "environment.json", "metrics.jsonl"
CHECKPOINT, PREVIOUS, MODEL = "checkpoint.pt", "checkpoint.previous.pt", "model.safetensors"
PICTURE, TENSORBOARD = "reconstructions.png", "tensorboard"
DIVERGED = "diverged.txt"  # why the run has ended, in one line
CHECKPOINT_FORMAT = "recon checkpoint 1"
CHECKPOINT_TYPES = {
    **dict.fromkeys(("step", "images"), int),
    **dict.fromkeys(
        ("settings", "seen", "stream", "model", "average", "optimizer", "objective", "tally", "random", "online_probe"),
        dict,
    ),
    "unreadable": list,
}
UNREADABLE = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
UNREADABLE += (OmegaConfBaseException, yaml.YAMLError)


def create(settings: Settings, locks: ExitStack) -> Path:
    """A new run folder, runs/NAME, or one named after loss, data and date; `locks` holds its lock (see `locked`).

    A run that was ended before its first checkpoint is begun again in its folder. Raises InvalidSetting where there is
    a run, or another process has the lock.
    """
    if settings.name is not None:
        if not re.fullmatch(r"[^/\\\0]+", settings.name) or settings.name in (".", ".."):
            raise InvalidSetting(f"name={settings.name} is not a valid folder name")
        folder = RUNS / settings.name
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            locks.enter_context(locked(folder))
            if holds_a_run(folder):
                raise InvalidSetting(f"{folder} exists; go on with it by resume=true, or choose another name=")
        return folder
    words = [settings.loss, settings.data.name, datetime.now().strftime("%Y%m%d-%H%M%S")]
    stem = re.sub(r"[^\w.+~-]", "", "-".join(words).replace("/", "~").replace("*", "x").replace("%", "pct")).lstrip(".")
    with writing(RUNS):
        RUNS.mkdir(exist_ok=True)
        for suffix in ["", *(f"-{i}" for i in range(2, 1000))]:
            folder = RUNS / f"{stem[:200]}{suffix}"
            with suppress(FileExistsError):  # another run of a sweep began in the same second
                folder.mkdir()
                locks.enter_context(locked(folder))
                return folder
    raise InvalidSetting(f"a thousand runs are called {RUNS / stem}; give name=")


def existing(settings: Settings) -> Path:
    """The folder of the run to go on with; InvalidSetting where no name was given, or there is no such run."""
    names = (CHECKPOINT, PREVIOUS)
    there = sorted({path.parent.name for name in names for path in RUNS.glob(f"*/{name}")})
    listed = f" (runs with a checkpoint: {', '.join(there)})" if there else f" ({RUNS}/ has no run with a checkpoint)"
    if settings.name is None:
        raise InvalidSetting(f"resume=true needs name=NAME of the run to go on with{listed}")
    folder = RUNS / settings.name
    if not holds_a_run(folder):
        ended = f"{folder} was ended before its first checkpoint; begin it again, without resume=true"
        raise InvalidSetting(ended if (folder / CONFIG).exists() else f"there is no run {folder} to resume{listed}")
    return folder


def missing(run: str) -> str | None:
    """Why there is nothing to open under that name; None where there is a run, a checkpoint or a bundled model."""
    path = Path(run)
    if run in BUNDLED or path.exists():
        return None
    others = sorted(other.parent.name for other in path.parent.glob(f"*/{CONFIG}"))
    return f"there is no run {path}" + (f" ({path.parent}/ has {', '.join(others)})" if others else "")


def holds_a_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in (CHECKPOINT, PREVIOUS, MODEL))


def check_writable(folder: Path) -> None:
    """Raises InvalidSetting where this user may not write into `folder`, or into the one that it would be made in.

    To be asked before hours of work whose results go there.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not os.access(there, os.W_OK | os.X_OK, effective_ids=True):
        raise InvalidSetting(f"{folder} cannot be written: this user may not write into {there}")


class WriteError(OSError):
    """What cannot be written, and why: a full disk, a folder that is gone or read-only."""

    def __str__(self) -> str:
        return f"{self.filename} cannot be written: {self.strerror}"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within it, an OSError, and the RuntimeError that torch makes of one, becomes a WriteError that names `path`."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(reason := error if isinstance(error, OSError) else error.__context__, OSError):
            raise WriteError(reason.errno, reason.strerror, str(path)) from error
        raise


@contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """Opens a new file beside `path`, which takes the name of `path` when the block ends, and is removed on an error.

    Readers, and other processes that write the same file, see a whole file at every moment. Raises WriteError.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with writing(path):
            with temporary.open("xb") as file:
                yield file
            os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    with write_atomically(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_config(folder: Path, settings: Settings, facts: dict[str, Any]) -> None:
    """config.yaml: all settings, and under `resolved` what they led to: objective, weights, data; then a checksum."""
    write_text(folder / CONFIG, as_yaml(settings, facts))


def read_config(folder: Path) -> dict[str, Any]:
    """config.yaml as a tree of plain values; see `readable` for errors."""
    with (folder / CONFIG).open("rb") as file:
        return from_yaml(file.read(MAX_YAML + 1))


def write_environment(folder: Path, device: "torch.device", processes: int, sharded: bool) -> None:
    """environment.json: what the run ran on."""
    import torch

    packages = "torch torchvision timm lightning-fabric hydra-core numpy scikit-image safetensors"
    environment = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in packages.split()},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "processes": processes,
        "sharded": sharded,
        "cpus": os.cpu_count(),
    }
    write_text(folder / ENVIRONMENT, json.dumps(environment, indent=2) + "\n")


def metric_lines(folder: Path) -> list[dict[str, float | None]]:
    """The whole lines of metrics.jsonl; half ones, of a killed process, and damaged ones are left out."""
    path = folder / METRICS
    texts = path.read_text(errors="replace").splitlines() if path.is_file() else ()
    return [line for text in texts if (line := metric_line_of(text))]


def metric_line_of(text: str) -> dict[str, float | None] | None:
    """The numbers of one line of metrics.jsonl; None for a line that is not whole."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or not isinstance(line.get("step"), int):
        return None
    return {name: n for name, n in line.items() if n is None or isinstance(n, int | float)}


def metric_line(values: dict[str, float | None]) -> str:
    """One line of metrics.jsonl; a number that is not finite, which JSON does not know, is null."""
    known = {name: None if number is None or not math.isfinite(number) else number for name, number in values.items()}
    return json.dumps(known) + "\n"


def read_metrics(folder: Path) -> dict[str, list[float | None]]:
    """metrics.jsonl by name; None where a line lacks that number."""
    lines = metric_lines(folder)
    return {name: [line.get(name) for line in lines] for name in dict.fromkeys(name for line in lines for name in line)}


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Writes `state` as the newest checkpoint and keeps the one before it; a whole one exists at every moment."""
    import torch

    with write_atomically(folder / CHECKPOINT) as file:
        torch.save({"format": CHECKPOINT_FORMAT, **state}, file)
        file.flush()
        os.fsync(file.fileno())
        if (folder / CHECKPOINT).exists():
            os.replace(folder / CHECKPOINT, folder / PREVIOUS)


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The newest readable checkpoint of a run, and a line for each that was refused; InvalidSetting where all are."""
    refused = []
    for path in (folder / CHECKPOINT, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            state = read_checkpoint(path)
            if refused:  # or the next save would keep the damaged one as the one before
                os.replace(folder / CHECKPOINT, folder / (CHECKPOINT + ".refused"))
            return state, refused
        except InvalidSetting as error:
            refused.append(str(error))
    reason = "; ".join(refused) or f"it has no {CHECKPOINT}"
    raise InvalidSetting(f"cannot resume {folder}: {reason}; start anew under another name=")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """One checkpoint, of tensors and plain values alone.

    Raises InvalidSetting where the file is cut short, has a changed byte, holds objects, or is another program's.
    """
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            if (member := archive.testzip()) is not None:  # torch.load checks no checksums
                raise zipfile.BadZipFile(member)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn or hostile file fails in zipfile, pickle or torch: no common base
        raise InvalidSetting(f"{path} is cut short or damaged ({type(error).__name__})") from error
    known = isinstance(state, dict) and state.get("format") == CHECKPOINT_FORMAT
    if not known or not {"step", "settings"} <= state.keys():
        raise InvalidSetting(f"{path} is no checkpoint of this program ('{CHECKPOINT_FORMAT}')")
    for key, kind in CHECKPOINT_TYPES.items():
        if type(state.get(key, kind())) is not kind:
            raise InvalidSetting(f"{path} is damaged: its {key} is {type(state[key]).__name__}, not {kind.__name__}")
    return state


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Within it, whatever a file of another form makes fail becomes an InvalidSetting that names the file."""
    try:
        yield
    except UNREADABLE as error:
        if "memory" in str(error):
            raise
        kind = "" if isinstance(error, InvalidSetting) else f"{type(error).__name__}: "
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise InvalidSetting(f"{path} is damaged, or of another version of this program ({kind}{reason})") from error
