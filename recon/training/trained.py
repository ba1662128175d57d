"""A trained run, read back from its folder."""

from pathlib import Path

import yaml
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
        InvalidSetting: the folder holds no trained model.
    """
    if not (folder / "config.yaml").is_file() or not (folder / "model.safetensors").is_file():
        raise InvalidSetting(f"{folder} holds no trained model (config.yaml and model.safetensors)")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    found = config.pop("resolved")
    settings = from_values(values_of(config))
    settings.compile = False
    model = make_model(settings, HEADS[found["head"]], found["mean"], found["std"])
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return settings, model.eval()
