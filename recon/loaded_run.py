"""A trained model, read back: a run from its folder, or a checkpoint of others."""

import hashlib
import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import yaml
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError

from losses import InvalidSetting
from recon.config import Settings, Train
from recon.model import MaskedAutoencoder
from recon.model.bundled import NAMES, bundled
from recon.model.formats import FORMATS, Checkpoint, read
from recon.model.formats.architecture import head_named
from recon.model.formats.hugging_face import WEIGHTS
from recon.runs import RUNS, in_todays_words, values_of
from recon.training.setup import from_values, make_model

FACTS = ("objective", "head", "steps", "mean", "std", "weights")  # of config.yaml's `resolved`


@dataclass(frozen=True)
class Trained:
    """A model (on the CPU, in evaluation) and how it was made.

    `resolved`: what config.yaml says was found: objective, weights, data. `step`: the model's optimiser steps, of
    `resolved["steps"]`; None where the file does not say. `sha256`: of the model's file. `origin`: of a checkpoint
    that is no run, what it says of itself (without its tensors); there `settings.data.name` is None, for it has no
    data of its own.
    """

    settings: Settings
    model: MaskedAutoencoder
    resolved: dict[str, Any]
    step: int | None
    sha256: str
    origin: Checkpoint | None = None


def from_checkpoint(checkpoint: Checkpoint) -> Trained:
    """A checkpoint that is no run, as if it had been trained here with the paper's masks."""
    a = checkpoint.architecture
    settings = Settings(loss="mse", train=Train(epochs=None))
    settings.data.name, settings.data.image_size = None, list(a.image_size)
    settings.model.name, settings.model.patch_size = a.name or checkpoint.format, a.patch_size
    settings.model.decoder_width, settings.model.decoder_depth = a.decoder_width, a.decoder_depth
    settings.model.mask_tokens = a.mask_tokens
    resolved = {
        "objective": f"a checkpoint of {FORMATS[checkpoint.format]}",
        "head": checkpoint.target,
        "steps": None,
        "mean": list(checkpoint.mean),
        "std": list(checkpoint.std),
        "weights": {},
    }
    origin = replace(checkpoint, state={})
    return Trained(settings, checkpoint.model(), resolved, None, checkpoint.sha256, origin)


def load_run(folder: Path) -> Trained:
    """A run as it stands on disk, finished or saved on the way.

    Raises:
        InvalidSetting: the folder holds no trained model, or one that cannot be read.
    """
    if not (folder / "config.yaml").is_file() or not (folder / "model.safetensors").is_file():
        raise InvalidSetting(f"{folder} holds no trained model (config.yaml and model.safetensors)")
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        resolved = config.pop("resolved")
        settings = from_values(in_todays_words(values_of(config)))
        settings.compile = False
        facts = {name: resolved[name] for name in FACTS}
        head = head_named(facts["head"], getattr(settings.losses, facts["head"], None))
        model = make_model(settings, head, facts["mean"], facts["std"])
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise InvalidSetting(f"{folder}/config.yaml is damaged, or of another version of this program") from error
    try:
        # Read once: a run that is still training may put the next model in its place at any moment.
        content = (folder / "model.safetensors").read_bytes()
        model.load_state_dict(safetensors.torch.load(content))
        step = _metadata(content).get("step")
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InvalidSetting(f"{folder}/model.safetensors cannot be read ({reason})") from error
    checksum = hashlib.sha256(content).hexdigest()
    return Trained(settings, model.eval(), resolved, None if step is None else int(step), checksum)


def _metadata(content: bytes) -> dict[str, str]:
    """Of a safetensors file: its header is a length in 8 bytes, then JSON."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]).get("__metadata__", {})


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
