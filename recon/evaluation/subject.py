"""What is evaluated: a run, read back from its folder, or a checkpoint of others."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from losses import InvalidSetting
from recon.model.bundled import NAMES, bundled
from recon.model.checkpoints import read
from recon.model.checkpoints.hugging_face import WEIGHTS
from recon.training.run_folder import RUNS
from recon.training.trained import Trained, from_checkpoint, load_run

RESULTS = "-results"  # behind a file's name: the folder of what is found out about it


@dataclass(frozen=True)
class Subject:
    """What was trained, and the folder of its results: a run's own, or of a checkpoint's file one beside it.

    `path`: what opens it again; `open_run(path)`.
    """

    folder: Path
    trained: Trained
    path: Path

    @property
    def name(self) -> str:
        if self.trained.origin is not None:
            return self.path.stem if self.path.is_file() else self.path.resolve().name
        return self.folder.resolve().name

    @property
    def unfinished(self) -> str | None:
        """How far an unfinished run has come."""
        step, steps = self.trained.step, self.trained.resolved["steps"]
        return None if step is None or step >= steps else f"unfinished: {step} of {steps} steps"

    @property
    def undrawable(self) -> str | None:
        """Why there is nothing to draw, and what to do; None where there is."""
        origin = self.trained.origin
        if origin is None:
            return None
        if not origin.has_decoder:
            probe = f"python -m recon.probe run={shlex.quote(str(self.path))}"
            return f"{self.path} holds no decoder, so there is nothing to draw; it can be probed: {probe}"
        if origin.target is None:
            return f"{self.path} does not say what its decoder was trained for; give target=pixels or target=normalised"
        return None

    def make_folder(self) -> None:
        """Creates the folder of its results, where a checkpoint's file has none yet."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidSetting(f"cannot make {self.folder} for the results: {error.strerror}") from error


def open_run(path: Path, target: str | None = None) -> Subject:
    """A run as it stands on disk, finished or not; or a checkpoint of others, a file or a folder.

    `bundled` and `bundled_sharp` are the masked autoencoders that this package carries; the results of one go to
    runs/bundled-results/. Those of a file, mae.pth, go to mae.pth-results/ beside it. Such a folder is made when they
    are written.

    Args:
        target: "pixels" or "normalised", where a checkpoint of others cannot tell; a run knows.

    Raises:
        InvalidSetting: there is nothing of that name, or it holds no model that can be read.
    """
    if (name := str(path)) in NAMES and not path.exists():
        return Subject(RUNS / (name + RESULTS), from_checkpoint(bundled(name, target)), path)
    if path.is_dir():
        if (path / "config.yaml").is_file() or not any((path / name).is_file() for name in WEIGHTS):
            return Subject(path, load_run(path), path)
        return Subject(path, from_checkpoint(read(path, target)), path)
    if not path.is_file():
        raise InvalidSetting(f"there is no run {path}{_others(path.parent)}")
    if path.name in WEIGHTS and (path.parent / "config.yaml").is_file():
        raise InvalidSetting(f"{path} is the model of the run {path.parent}; give the run")
    if path.name in WEIGHTS and (path.parent / "config.json").is_file():
        return open_run(path.parent, target)
    return Subject(path.with_name(path.name + RESULTS), from_checkpoint(read(path, target)), path)


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
