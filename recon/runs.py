"""A run's folder: what its files are called, how they are written whole or not at all, and whether a run can go on."""

import json
import os
import platform
import re
import secrets
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import yaml

from losses import InvalidSetting
from recon.config import BUNDLED, Settings
from recon.saved_settings import flat, nested

if TYPE_CHECKING:
    import torch

RUNS = Path("runs")
CONFIG, ENVIRONMENT, METRICS = "config.yaml", "environment.json", "metrics.jsonl"
CHECKPOINT, PREVIOUS, MODEL = "checkpoint.pt", "checkpoint.previous.pt", "model.safetensors"
PICTURE, TENSORBOARD = "reconstructions.png", "tensorboard"
CHECKPOINT_FORMAT = "recon checkpoint 1"


def create(settings: Settings) -> Path:
    """A new run folder, runs/NAME, or one named after loss, data and date; InvalidSetting where there is a run."""
    if settings.name is not None:
        if not re.fullmatch(r"[^/\\\0]+", settings.name) or settings.name in (".", ".."):
            raise InvalidSetting(f"name={settings.name} is not a valid folder name")
        folder = RUNS / settings.name
        if holds_a_run(folder):
            raise InvalidSetting(f"{folder} exists; go on with it by resume=true, or choose another name=")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / CONFIG).touch(exist_ok=False)  # fails for the second of two that start at once
        except OSError as error:
            raise InvalidSetting(f"cannot make the folder {RUNS}/{settings.name[:40]}: {error.strerror}") from error
        return folder
    words = [settings.loss, settings.data.name, datetime.now().strftime("%Y%m%d-%H%M%S")]
    stem = re.sub(r"[^\w.+~-]", "", "-".join(words).replace("/", "~").replace("*", "x").replace("%", "pct")).lstrip(".")
    for suffix in ["", *(f"-{i}" for i in range(2, 1000))]:
        try:
            (RUNS / f"{stem}{suffix}").mkdir(parents=True)
            return RUNS / f"{stem}{suffix}"
        except FileExistsError:  # another run of a sweep began in the same second
            continue
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
        raise InvalidSetting(f"there is no run {folder} to resume{listed}")
    return folder


def missing(run: str) -> str | None:
    """Why there is nothing to open under that name; None where there is a run, a checkpoint or a bundled model."""
    path = Path(run)
    if run in BUNDLED or path.exists():
        return None
    others = sorted(other.parent.name for other in path.parent.glob(f"*/{CONFIG}"))
    return f"there is no run {path}" + (f" ({path.parent}/ has {', '.join(others)})" if others else "")


def holds_a_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in (CONFIG, CHECKPOINT, PREVIOUS))


@contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """Opens a new file beside `path`, which takes the name of `path` when the block ends, and is removed on an error.

    Readers, and other processes that write the same file, see a whole file at every moment.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    with write_atomically(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_config(folder: Path, settings: Settings, facts: dict[str, Any]) -> None:
    """config.yaml: all settings, and under `resolved` what they led to: objective, weights, data."""
    text = yaml.safe_dump({**nested(flat(settings)), "resolved": facts}, sort_keys=False, allow_unicode=True)
    write_text(folder / CONFIG, text)


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


def read_metrics(folder: Path) -> dict[str, list[float | None]]:
    """metrics.jsonl by name; None where a line lacks that number. Torn lines are left out."""
    path, lines = folder / METRICS, []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:  # the half line of a killed process
            continue
    names = dict.fromkeys(name for line in lines for name in line)
    return {name: [line.get(name) for line in lines] for name in names}


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
    if (
        not isinstance(state, dict)
        or state.get("format") != CHECKPOINT_FORMAT
        or not {"step", "settings"} <= state.keys()
    ):
        raise InvalidSetting(f"{path} is no checkpoint of this program ('{CHECKPOINT_FORMAT}')")
    return state
