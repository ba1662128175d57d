"""A trained run, read back from its folder."""

from pathlib import Path

import yaml
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from losses import InvalidSetting, NormalisedPixelHead, PixelHead
from recon.config import Settings
from recon.model import MaskedAutoencoder
from recon.training.pretraining import from_values, make_model
from recon.training.run_folder import values_of

HEADS = {head.name: head for head in (PixelHead(), NormalisedPixelHead())}


def load_run(folder: Path) -> tuple[Settings, MaskedAutoencoder]:
    """Settings and trained model (on the CPU, in evaluation) of a run, finished or saved on the way.

    Raises:
        InvalidSetting: the folder holds no trained model, or one that cannot be read.
    """
    if not (folder / "config.yaml").is_file() or not (folder / "model.safetensors").is_file():
        raise InvalidSetting(f"{folder} holds no trained model (config.yaml and model.safetensors)")
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        found = config.pop("resolved")
        settings = from_values(values_of(config))
    except (yaml.YAMLError, OmegaConfBaseException, AttributeError, KeyError, TypeError) as error:
        raise InvalidSetting(f"{folder}/config.yaml is damaged, or of another version of this program") from error
    settings.compile = False
    model = make_model(settings, HEADS[found["head"]], found["mean"], found["std"])
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InvalidSetting(f"{folder}/model.safetensors cannot be read ({reason})") from error
    return settings, model.eval()


def trained_steps(folder: Path) -> int | None:
    """Optimiser steps of the model in a run's folder; None where the file does not say."""
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        steps = (file.metadata() or {}).get("step")
    return None if steps is None else int(steps)
