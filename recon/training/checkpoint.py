"""A checkpoint is one file of tensors and plain values, written whole or not at all; the one before it is kept."""

import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from losses import InvalidSetting

FORMAT = "recon checkpoint 1"
NAME = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Writes `state` to a temporary name, then renames; at every moment one whole checkpoint has its name."""
    temporary = folder / (NAME + ".tmp")
    with temporary.open("wb") as file:
        torch.save({"format": FORMAT, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    if (folder / NAME).exists():
        os.replace(folder / NAME, folder / PREVIOUS)
    os.replace(temporary, folder / NAME)


def load(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The newest readable checkpoint of a run, and one line for each that was refused.

    Nothing is unpickled but tensors and plain values.

    Raises:
        InvalidSetting: there is none.
    """
    refused = []
    for path in (folder / NAME, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            state = read(path)
            if refused:  # or the next save would keep the damaged one as the one before
                os.replace(folder / NAME, folder / (NAME + ".refused"))
            return state, refused
        except InvalidSetting as error:
            refused.append(str(error))
    reason = "; ".join(refused) or f"it has no {NAME}"
    raise InvalidSetting(f"cannot resume {folder}: {reason}; start anew under another name=")


def read(path: Path) -> dict[str, Any]:
    """One checkpoint.

    Raises:
        InvalidSetting: the file is cut short, has a changed byte, holds objects, or is no checkpoint of this program.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if (member := archive.testzip()) is not None:  # torch.load checks no checksums
                raise zipfile.BadZipFile(member)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn or hostile file fails in zipfile, pickle or torch: no common base
        raise InvalidSetting(f"{path} is cut short or damaged ({type(error).__name__})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or "step" not in state or "settings" not in state:
        raise InvalidSetting(f"{path} is no checkpoint of this program ('{FORMAT}')")
    return state


def random_states() -> dict[str, Any]:
    """The random generators of every device in use."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():  # a run may go on with fewer devices, or more
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])
