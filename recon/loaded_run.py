"""A trained model with the folder of its results: a run of this project, or a checkpoint of other programs."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from losses import InvalidSetting, check_limits, tensor_files
from recon.config import Data, Model, Settings, Train
from recon.console import command_line
from recon.model import MaskedAutoencoder
from recon.model.bundled import NAMES, bundled
from recon.model.formats import FORMATS, Checkpoint, read
from recon.model.formats.architecture import head_named
from recon.model.formats.hugging_face import WEIGHTS
from recon.run_folder import CONFIG, MODEL, RUNS, missing, read_config, readable
from recon.saved_settings import flattened, settings_from, upgraded
from recon.training.initialisation import make_model

FACTS = ("objective", "head", "steps", "mean", "std", "weights")  # of config.yaml's `resolved`
RESULTS = "-results"  # ending of the folder of results of a checkpoint that is a file


@dataclass(frozen=True)
class LoadedRun:
    """A trained model, how it was made, and where its results belong."""

    path: Path  # what opens it again: `open_run(path)`
    folder: Path  # of its results: the run's own folder, or one beside a checkpoint's file
    settings: Settings  # `data.name` is None for a checkpoint of others, which has no data of its own
    model: MaskedAutoencoder  # on the CPU, in evaluation mode
    resolved: dict[str, Any]  # what config.yaml says under `resolved`: objective, weights, data
    step: int | None  # of `resolved["steps"]` optimiser steps; None where the file does not say
    sha256: str  # of the model's file
    origin: Checkpoint | None = None  # of a checkpoint of others, what it says of itself, without its tensors

    @property
    def name(self) -> str:
        """Of the run's folder, or of the checkpoint's file without its ending."""
        if self.origin is not None:
            return self.path.stem if self.path.is_file() else self.path.resolve().name
        return self.folder.resolve().name

    @property
    def unfinished(self) -> str | None:
        """How many of its steps a run has made, in words; None where it is finished, or does not say."""
        step, steps = self.step, self.resolved["steps"]
        return None if step is None or step >= steps else f"unfinished: {step} of {steps} steps"

    @property
    def undrawable(self) -> str | None:
        """Why the model draws nothing, and the remedy; None where it draws."""
        origin, head = self.origin, self.model.head
        probe = "it can be probed: " + command_line("probe", {"run": str(self.path)})
        if origin is not None and not origin.has_decoder:
            return f"{self.path} holds no decoder, so there is nothing to draw; {probe}"
        if not head.has_pixels:
            return f"{self.path} predicts {head.name}, of which there are no pictures; {probe}"
        if origin is not None and origin.target is None:
            return f"{self.path} does not say what its decoder was trained for; give target=pixels or target=normalised"
        return None

    def make_folder(self) -> None:
        """Creates the folder of its results, which a checkpoint's file does not have at first."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidSetting(f"cannot make {self.folder} for the results: {error.strerror}") from error


def open_run(path: Path, target: str | None = None) -> LoadedRun:
    """A run as it is on disk, finished or not, or a checkpoint of others, a file or a folder.

    `bundled` and `bundled_sharp` are the masked autoencoders that this package carries; their results go to
    runs/bundled-results/, those of a file mae.pth to mae.pth-results/ beside it. That folder is made with the results.
    `target`: "pixels" or "normalised", where a checkpoint of others cannot tell; a run knows.

    Raises InvalidSetting where there is nothing of that name, or it holds no model that can be read.
    """
    if (name := str(path)) in NAMES and not path.exists():
        return _of_checkpoint(path, RUNS / (name + RESULTS), bundled(name, target))
    if path.is_dir():
        if (path / CONFIG).is_file() or not any((path / name).is_file() for name in WEIGHTS):
            return load_run(path)
        return _of_checkpoint(path, path, read(path, target))
    if not path.is_file():
        raise InvalidSetting(missing(name) or f"{path} is no file that can be read")
    if path.name in WEIGHTS and (path.parent / CONFIG).is_file():
        raise InvalidSetting(f"{path} is the model of the run {path.parent}; give the run")
    if path.name in WEIGHTS and (path.parent / "config.json").is_file():
        return open_run(path.parent, target)
    return _of_checkpoint(path, path.with_name(path.name + RESULTS), read(path, target))


def load_run(folder: Path) -> LoadedRun:
    """A run of this project, finished or saved on the way; InvalidSetting where it holds no model that can be read."""
    if not (folder / CONFIG).is_file() or not (folder / MODEL).is_file():
        raise InvalidSetting(f"{folder} holds no trained model ({CONFIG} and {MODEL})")
    with readable(folder / CONFIG):
        config = read_config(folder)
        resolved = config.pop("resolved")
        settings = settings_from(upgraded(flattened(config)))
        settings.compile = False
        check_limits(settings)
        facts = {name: resolved[name] for name in FACTS}
        if not all(len(facts[name]) == 3 and all(map(math.isfinite, facts[name])) for name in ("mean", "std")):
            raise ValueError("mean and std are not of three channels")
        head = head_named(facts["head"], getattr(settings.losses, facts["head"], None))
        model = make_model(settings, head, facts["mean"], facts["std"])
    try:
        # Read once: a run that is still training may replace its model at any moment.
        stored = tensor_files.from_bytes((folder / MODEL).read_bytes())
        model.load_state_dict(stored.content)
        step = int(stored.metadata["step"]) if "step" in stored.metadata else None
        if step is not None and step < 0:
            raise ValueError(f"step {step}")
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InvalidSetting(f"{folder}/{MODEL} cannot be read ({reason})") from error
    return LoadedRun(folder, folder, settings, model.eval(), resolved, step, stored.sha256)


def _of_checkpoint(path: Path, folder: Path, checkpoint: Checkpoint) -> LoadedRun:
    """A checkpoint of others, as if it had been trained here with the paper's masks."""
    a = checkpoint.architecture
    names = ("patch_size", "decoder_width", "decoder_depth", "mask_tokens", "class_tokens")
    sizes = Model(a.name or checkpoint.format, **{name: getattr(a, name) for name in names})
    data = dataclasses.replace(Data(), name=None, image_size=list(a.image_size))
    settings = Settings(loss="mse", data=data, model=sizes, train=Train(epochs=None))
    resolved = {
        "objective": f"a checkpoint of {FORMATS[checkpoint.format]}",
        "head": checkpoint.target,
        "steps": None,
        "mean": list(checkpoint.mean),
        "std": list(checkpoint.std),
        "weights": {},
    }
    origin = dataclasses.replace(checkpoint, state={})
    return LoadedRun(path, folder, settings, checkpoint.model(), resolved, None, checkpoint.sha256, origin)
