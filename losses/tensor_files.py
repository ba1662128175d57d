"""Files of tensors: safetensors, with a digest where this program wrote them, and pickles, of which nothing is run.

path.write_bytes(to_bytes({"weight": weight}, {"format": "pt"}))
read(path).content["weight"]
"""

import hashlib
import json
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch._utils import _rebuild_parameter, _rebuild_tensor_v2
from torch.serialization import safe_globals

from losses.options import InvalidSetting

DIGEST = "digest"  # in a safetensors file's metadata
DIGEST_START = "sha256 "  # of its value, by which it is found where a byte of the key has changed
# Classes in the arguments that MAE checkpoints carry beside their tensors; each is read as an `Inert`.
INERT_GLOBALS = ("argparse.Namespace", "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib._local.PosixPath")
ALLOWED_GLOBALS = {
    f"{value.__module__}.{value.__qualname__}": value
    for value in (
        *(OrderedDict, set, frozenset, bytearray, complex, torch.Size, torch.device),
        *(_rebuild_tensor_v2, _rebuild_parameter),
    )
} | {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
# What a file is that is no file of tensors, by its first bytes, and the remedy.
OTHER_KINDS = {
    b"version https://git-lfs": "it is git-lfs' pointer to a file; fetch the file itself, by git lfs pull",
    b"<": "it is a web page, which a download gives that wants a login or another link; fetch the file itself",
}


@dataclass(frozen=True)
class TensorFile:
    """`content`: tensors by name, nested as in the file, and plain values. `metadata`: of safetensors, without the
    digest. `sha256`: of the file. `verified`: whether the file has a digest, or checksums, that its content fits."""

    content: dict[str, Any]
    metadata: dict[str, str]
    sha256: str
    verified: bool


class Inert(dict):
    """Replaces an object of any class: keeps its items and plain attributes, executes nothing."""

    dump_patches = False  # torch asks a pickled module's class

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()

    def __hash__(self) -> int:  # it may be a key
        return id(self)

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):  # attributes, and those in slots
            if isinstance(part, dict):
                self.__dict__.update(part)

    def extend(self, items: Any) -> None:
        """Items of a list or a queue are not kept."""

    append = add = extend


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file, with a digest in its metadata that `read` checks; the same bytes for the same tensors."""
    contiguous, metadata = {name: tensor.contiguous() for name, tensor in tensors.items()}, dict(metadata or {})
    content = save(contiguous, metadata | {DIGEST: digest(contiguous, metadata)})
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))  # which `save` writes in any order
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 over the metadata and over name, type, shape and bytes of every tensor, in the order of the names."""
    found = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(json.dumps([name, str(tensor.dtype), tensor.shape]).encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return DIGEST_START + found.hexdigest()


def from_bytes(content: bytes) -> TensorFile:
    """A safetensors file from memory.

    Raises:
        SafetensorError or ValueError: it is damaged.
    """
    length = int.from_bytes(content[:8], "little")
    tensors, header = load(content), json.loads(content[8 : 8 + length])
    metadata = header.get("__metadata__", {})
    said = {key: value for key, value in metadata.items() if key == DIGEST or value.startswith(DIGEST_START)}
    rest = {key: value for key, value in metadata.items() if key not in said}
    if said and list(said.values()) != [digest(tensors, rest)]:
        raise ValueError("its content does not fit its digest")
    return TensorFile(tensors, rest, hashlib.sha256(content).hexdigest(), bool(said))


def read(path: Path, what: str = "a checkpoint") -> TensorFile:
    """A safetensors file, or one of `torch.save`, told apart by their first bytes.

    A pickle gives tensors and plain values; objects of every other class become `Inert`.

    Args:
        what: the file should be, for messages.

    Raises:
        InvalidSetting: there is no such file, it is cut short or damaged, or it is neither of the two.
    """
    if not path.is_file():
        raise InvalidSetting(f"{path} is no regular file" if path.exists() else f"there is no file {path}")
    try:
        with path.open("rb") as file:
            head = file.read(64)
            file.seek(0)
            if head[8:9] == b"{":
                return from_bytes(file.read())
            for start, said in OTHER_KINDS.items():
                if head.lstrip().startswith(start):
                    raise InvalidSetting(f"{path} cannot be read as {what}: {said}")
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
            zipped = zipfile.is_zipfile(file)
            content = _load_pickle(path, zipped, what)
    except InvalidSetting:
        raise
    except Exception as error:  # a torn or hostile file fails in zipfile, pickle or torch: no common base
        reason = (str(error).strip().splitlines() or [""])[0][:160]
        raise InvalidSetting(
            f"{path} cannot be read as {what}, it is cut short, damaged or of another kind "
            f"({type(error).__name__}: {reason}); fetch it again"
        ) from error
    if not isinstance(content, dict):
        raise InvalidSetting(f"{path} holds no tensors by name; give {what}")
    return TensorFile(content, {}, checksum, zipped)


def tensors(content: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors among the values, or those of a whole module; copied out of the file's memory."""
    return {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in (_of_module(content) if isinstance(content, Inert) else content).items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def _of_module(module: Inert, prefix: str = "") -> dict[str, Any]:
    """What a pickled module's `state_dict` would hold; the items of an object of another class."""
    parts = vars(module)
    own = {**(parts.get("_parameters") or {}), **(parts.get("_buffers") or {})}
    skipped = parts.get("_non_persistent_buffers_set") or ()
    state = {prefix + name: value for name, value in own.items() if name not in skipped}
    for name, child in (parts.get("_modules") or {}).items():
        if isinstance(child, Inert):
            state |= _of_module(child, f"{prefix}{name}.")
    return state or dict(module)


def _load_pickle(path: Path, zipped: bool, what: str) -> Any:
    if zipped:
        with zipfile.ZipFile(path) as archive:
            if (member := archive.testzip()) is not None:  # torch.load checks no checksums
                raise ValueError(f"{member} has changed")
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise InvalidSetting(
                    f"{path} cannot be read as {what}: it is a TorchScript program; save its state_dict()"
                )
    with safe_globals([(Inert, name) for name in INERT_GLOBALS]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what cannot be read is an error
        try:
            return _load(path, zipped, weights_only=True)
        except pickle.UnpicklingError:  # another class is named, or a newer protocol is used
            # With this in place of pickle, torch runs nothing, either.
            names = {"__name__": __name__, "Unpickler": _Unpickler, "load": lambda *a, **k: _Unpickler(*a, **k).load()}
            return _load(path, zipped, weights_only=False, pickle_module=SimpleNamespace(**names))


def _load(path: Path, zipped: bool, **options: Any) -> Any:
    if path.suffix == ".safetensors":  # torch would go by the name
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", **options)
    # Memory-mapped where possible: the optimiser's state, twice the model, is never read.
    return torch.load(path, map_location="cpu", mmap=zipped, **options)


class _Unpickler(pickle.Unpickler):
    """Finds no class or function but those of `ALLOWED_GLOBALS`; every other one is `Inert`."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        name = f"{module_name}.{global_name}".replace("__builtin__.", "builtins.")  # as Python 2 called it
        return ALLOWED_GLOBALS.get(name, Inert)
