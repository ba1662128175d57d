"""A trained model, read back: a run from its folder, or a checkpoint of others."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import yaml
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError

from losses import TERMS, InvalidSetting, NormalisedPixelHead, PixelHead
from recon.config import Settings, Train
from recon.model import MaskedAutoencoder
from recon.model.checkpoints import Checkpoint
from recon.model.checkpoints.checkpoint import WORDS
from recon.training.pretraining import from_values, make_model
from recon.training.run_folder import in_todays_words, values_of

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
        "objective": f"a checkpoint of {WORDS[checkpoint.format]}",
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
        model = make_model(settings, head_named(facts["head"], settings.losses), facts["mean"], facts["std"])
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


def head_named(name: str, losses: Any) -> PixelHead:
    """What `resolved.head` of a run names; a distribution's has the options of the term that it is named after."""
    known = {head.name: head for head in (PixelHead(), NormalisedPixelHead())}
    return known[name] if name in known else TERMS[name].head_of(getattr(losses, name))


def _metadata(content: bytes) -> dict[str, str]:
    """Of a safetensors file: its header is a length in 8 bytes, then JSON."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]).get("__metadata__", {})
