"""Reads the files of a checkpoint: tensors, and JSON or YAML beside them. Nothing in a file is ever executed."""

import hashlib
import json
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from losses import InvalidSetting

# Classes in the arguments that MAE checkpoints carry beside their tensors; each is read as an `Inert`.
INERT_GLOBALS = ("argparse.Namespace", "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib._local.PosixPath")
LEGACY_PICKLES = 4  # in a file of torch before 1.6: magic number, protocol, system, and then the object


@dataclass(frozen=True)
class Stored:
    """`content`: nested as in the file. `metadata`: of safetensors. `sha256`: of the file."""

    content: dict[str, Any]
    metadata: dict[str, str]
    sha256: str


class Inert:
    """Replaces an object of any class: keeps its plain values, executes nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def load(path: Path) -> Stored:
    """A safetensors file, or one of `torch.save`.

    A pickle gives tensors and plain values; objects of every other class become `Inert`.

    Raises:
        InvalidSetting: there is no such file, it is cut short or damaged, or it is neither of the two.
    """
    try:
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        content, metadata = _load_safetensors(path) if path.suffix == ".safetensors" else (_load_pickle(path), {})
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
    """The tensors among the values, copied out of the file's memory."""
    return {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def read_json(path: Path) -> dict[str, Any]:
    """The values in a JSON file; none where there is no file.

    Raises:
        InvalidSetting: the file does not hold values by name.
    """
    return parse(lambda: json.loads(path.read_text()), path) if path.is_file() else {}


def read_yaml(path: Path) -> dict[str, Any]:
    """As `read_json`."""
    return parse(lambda: yaml.safe_load(path.read_text()), path) if path.is_file() else {}


def parse(parser: Callable[[], Any], where: Path) -> dict[str, Any]:
    """What `parser` returns, which must be values by name. Raises InvalidSetting as `read_json`."""
    try:
        values = parser()
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InvalidSetting(f"{where} is damaged: {' '.join(str(error).split())[:120]}") from error
    if not isinstance(values, dict):
        raise InvalidSetting(f"{where} is damaged: it holds no values by name")
    return values


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        try:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(str(error)) from error


def _load_pickle(path: Path) -> Any:
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            if (member := archive.testzip()) is not None:  # torch.load checks no checksums
                raise ValueError(f"{member} has changed")
    try:
        return _load_inert(path, INERT_GLOBALS, zipped)
    except pickle.UnpicklingError:  # another class is named: read again with all of them replaced
        return _load_inert(path, (*INERT_GLOBALS, *_other_globals(path, zipped)), zipped)


def _load_inert(path: Path, names: Iterable[str], zipped: bool) -> Any:
    with safe_globals([(Inert, name) for name in names]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected pickle protocol")  # what cannot be read is an error
        # Memory-mapped where possible: the optimiser's state, twice the model, is never read.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def _other_globals(path: Path, zipped: bool) -> list[str]:
    """The classes and functions that a pickle names; torch's own safe ones take precedence over `Inert`."""
    if zipped:
        return get_unsafe_globals_in_checkpoint(path)
    with path.open("rb") as file:
        operations = [operation for _ in range(LEGACY_PICKLES) for operation in pickletools.genops(file)]
    names = [str(argument).replace(" ", ".", 1) for opcode, argument, _ in operations if opcode.name == "GLOBAL"]
    return [name.replace("__builtin__.", "builtins.") for name in names]
