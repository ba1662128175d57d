"""Features on disk, in a format that holds nothing but numbers, under a key of everything they depend on."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from losses import InvalidSetting
from recon.training.ranks import ALONE, Ranks


def cached(
    folder: Path, facts: dict[str, Any], make: Callable[[], dict[str, Tensor]], ranks: Ranks = ALONE
) -> dict[str, Tensor]:
    """The features that `facts` describe: read from `folder`, or made and kept there.

    Args:
        make: called by all of the `ranks` or by none; the first alone keeps what comes back.
        facts: plain values: checksums of network and images, sizes, layers, precision. They are the key, and are
            written into the file.

    Raises:
        InvalidSetting: the file of that key is damaged, or holds the features of another; it is left as it is. Or the
            folder cannot be written to.
    """
    key = key_of(facts)
    path = folder / f"{key[:16]}.safetensors"
    if ranks.from_first(path.exists()):
        with ranks.one_voice():
            return read(path, key)
    features = make()
    ranks.by_first(lambda: keep(features, facts, path))
    return features


def keep(features: dict[str, Tensor], facts: dict[str, Any], path: Path) -> None:
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # another process may be making the same
        save_file(features, temporary, metadata={"facts": json.dumps(facts, sort_keys=True)})
        temporary.chmod(0o644)  # safetensors gives its files to their owner alone
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise InvalidSetting(f"features cannot be kept in {folder}: {error}") from error


def key_of(facts: dict[str, Any]) -> str:
    """SHA-256 of the facts, in hexadecimal."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read(path: Path, key: str) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "null"))
            features = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InvalidSetting(f"{path} is damaged; delete it to make the features anew") from error
    if key_of(facts) != key:
        raise InvalidSetting(f"{path} holds the features of another network or data; delete it to make them anew")
    return features
