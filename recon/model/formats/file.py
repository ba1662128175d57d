"""Reads the bytes of a checkpoint without running anything that stands in it."""

import hashlib
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from losses import InvalidSetting

LEGACY_PICKLES = 4  # a file of torch before 1.6: magic number, protocol, system, and then the object


@dataclass(frozen=True)
class Stored:
    """`content`: nested as in the file. `metadata`: of safetensors. `sha256`: of the file."""

    content: dict[str, Any]
    metadata: dict[str, str]
    sha256: str


class Inert:
    """Stands for an object of any class: keeps its plain values, runs nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def load(path: Path) -> Stored:
    """A safetensors file, or one of `torch.save`.

    Of a pickle, tensors and plain values are read; every other class or function is replaced by `Inert`, so nothing
    is imported or called.

    Raises:
        InvalidSetting: there is no such file, it is cut short or damaged, or it is neither of the two.
    """
    try:
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        content, metadata = _safetensors(path) if path.suffix == ".safetensors" else (_pickle(path), {})
    except FileNotFoundError as error:
        raise InvalidSetting(f"there is no file {path}") from error
    except Exception as error:  # a torn or hostile file fails in zipfile, pickle or torch: no common base
        reason = (str(error).strip().splitlines() or [""])[0][:160]
        raise InvalidSetting(
            f"{path} cannot be read as a checkpoint, it is cut short, damaged or of another kind "
            f"({type(error).__name__}: {reason}); fetch it again"
        ) from error
    if not isinstance(content, dict):
        raise InvalidSetting(f"{path} holds no tensors by name; give a checkpoint of a masked autoencoder")
    return Stored(content, metadata, checksum)


def tensors(content: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors among the values, in memory of their own."""
    return {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        try:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(str(error)) from error


def _pickle(path: Path) -> Any:
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            if (member := archive.testzip()) is not None:  # torch.load checks no checksums
                raise ValueError(f"{member} has changed")
            named = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            with archive.open(named[0]) as file:
                foreign = _globals(file, pickles=1)
    else:
        with path.open("rb") as file:
            foreign = _globals(file, pickles=LEGACY_PICKLES)
    with torch.serialization.safe_globals([(Inert, name) for name in foreign]):
        # Mapped where that is possible: an optimiser's state, twice the model, is never read.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def _globals(file: BinaryIO, pickles: int) -> set[str]:
    """Every class and function that the pickles name; torch's own, which it admits itself, come first with it."""
    found = set()
    for _ in range(pickles):
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "GLOBAL":
                module, _, name = argument.partition(" ")
                module = "builtins" if module == "__builtin__" else module
                if not module.startswith("torch"):
                    found.add(f"{module}.{name}")
    return found
