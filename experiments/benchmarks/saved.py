"""Tables of benchmarks: printed, and saved with the command and the machine that made them."""

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from recon.console import aligned
from recon.run_folder import write_text

Rows = Sequence[Mapping[str, Any]]


def table(rows: Rows, columns: Mapping[str, tuple[str, str]]) -> str:
    """Rows as text. `columns`: key of a row -> (heading, format); a value that a row lacks is a dash."""
    lines = [[heading for heading, _ in columns.values()]]
    for row in rows:
        lines.append(["-" if row.get(key) is None else format(row[key], how) for key, (_, how) in columns.items()])
    return aligned(lines)


def take_out(parser: argparse.ArgumentParser) -> None:
    """Gives the command `--out`."""
    parser.add_argument("--out", type=Path, help="file the numbers are saved to, as JSON, with what they were made on")


def save(file: Path | None, module: str, device: torch.device, rows: Rows, packages: Sequence[str] = ()) -> None:
    """Writes `rows` to `file`, if there is one, and how they came about; `module` is what `python -m` was given."""
    if file is None:
        return
    page = {
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "environment": environment(device, packages),
        "rows": rows,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(page, indent=2) + "\n")
    print(f"\nsaved to {file}")


def environment(device: torch.device, packages: Sequence[str] = ()) -> dict[str, Any]:
    names = [name for name in ("torch", "timm", "lightning-fabric", "numpy", *packages) if _installed(name)]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in names},
        "device": described(device),
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def described(device: torch.device) -> str:
    """The device's name; of a CPU with the number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
