"""What a file of this program tells beside its tensors, as one line of JSON under the name "recon"."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from losses import InvalidSetting
from recon.model.formats.architecture import FORMATS, NORMALISED, PIXELS, Architecture, Checkpoint
from recon.model.formats.plain import parsed

KEY = "recon"
VERSION = 1


def written(c: Checkpoint, format: str) -> str:
    """Facts of a checkpoint that is stored as `format`."""
    architecture = asdict(c.architecture)
    if format != "recon":
        architecture |= {"refiner_width": 0, "distribution": None}  # the others have no place for them
    facts = {"version": VERSION, "format": format, "target": c.target, "mean": list(c.mean), "std": list(c.std)}
    return json.dumps(facts | {"architecture": architecture})


def read(text: Any, where: Path) -> dict[str, Any]:
    """Raises InvalidSetting where the facts are damaged or of another version."""
    facts = parsed(text, where) if isinstance(text, str) else {}
    architecture = facts.get("architecture")
    plausible = (
        facts.get("version") == VERSION
        and facts.get("format") in FORMATS
        and facts.get("target") in (None, PIXELS, NORMALISED)
        and isinstance(architecture, dict)
        and set(architecture) <= set(Architecture.__dataclass_fields__)
    )
    if not plausible:
        raise InvalidSetting(f"{where} is damaged, or of another version of this program; convert the original again")
    size = architecture.get("image_size")
    return facts | {"architecture": architecture | {"image_size": tuple(size) if isinstance(size, list) else None}}
