"""What is evaluated: a run, read back from its folder."""

import json
from dataclasses import dataclass
from pathlib import Path

from losses import InvalidSetting
from recon.training.trained import Trained, load_run


@dataclass(frozen=True)
class Subject:
    """A run's folder, and what was trained there."""

    folder: Path
    trained: Trained

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def unfinished(self) -> str | None:
        """How far an unfinished run has come."""
        step, steps = self.trained.step, self.trained.resolved["steps"]
        return None if step is None or step >= steps else f"unfinished: {step} of {steps} steps"


def open_run(folder: Path) -> Subject:
    """A run as it stands on disk, finished or not.

    Raises:
        InvalidSetting: there is no such run, or it holds no model that can be read.
    """
    if not folder.is_dir():
        raise InvalidSetting(f"there is no run {folder}{_others(folder.parent)}")
    return Subject(folder, load_run(folder))


def curves(folder: Path) -> dict[str, list[float | None]]:
    """metrics.jsonl by name; None where a line lacks that number. Torn lines are left out."""
    path, lines = folder / "metrics.jsonl", []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:  # the half line of a killed process
            continue
    names = dict.fromkeys(name for line in lines for name in line)
    return {name: [line.get(name) for line in lines] for name in names}


def _others(parent: Path) -> str:
    there = sorted(path.parent.name for path in parent.glob("*/config.yaml"))
    return f" ({parent}/ has {', '.join(there)})" if there else ""
