"""Plain values beside tensors: JSON and YAML files that may be anything."""

import json
from pathlib import Path
from typing import Any

import yaml

from losses import InvalidSetting


def read_json(path: Path) -> dict[str, Any]:
    """The file's values; none where there is no file.

    Raises:
        InvalidSetting: it is no JSON of values by name.
    """
    return _read(path, json.loads) if path.is_file() else {}


def read_yaml(path: Path) -> dict[str, Any]:
    """As `read_json`."""
    return _read(path, yaml.safe_load) if path.is_file() else {}


def parsed(text: str, where: Path) -> dict[str, Any]:
    """JSON of values by name, as it stands within a checkpoint. Raises InvalidSetting as `read_json`."""
    return _values(lambda: json.loads(text), where)


def _read(path: Path, parse: Any) -> dict[str, Any]:
    return _values(lambda: parse(path.read_text()), path)


def _values(get: Any, where: Path) -> dict[str, Any]:
    try:
        values = get()
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InvalidSetting(f"{where} is damaged: {' '.join(str(error).split())[:120]}") from error
    if not isinstance(values, dict):
        raise InvalidSetting(f"{where} is damaged: it holds no values by name")
    return values
