"""The masked autoencoders that this package carries; `python -m experiments.bundled_mae` makes their files."""

from dataclasses import replace
from pathlib import Path

from losses import InvalidSetting
from recon.model.checkpoints import Checkpoint, read
from recon.model.checkpoints.file import load, tensors

BUNDLED, SHARPENED = "bundled", "bundled_sharp"  # in init= and run=
NAMES = (BUNDLED, SHARPENED)
FILE = Path(__file__).parent / "mae_nano8_64.safetensors"
REFINER = Path(__file__).parent / "refiner_nano8_64.safetensors"


def bundled(name: str, target: str | None = None) -> Checkpoint:
    """The checkpoint of one of `NAMES`, in half precision.

    bundled: ViT-nano, 64 pixels, patches of 8, trained with plain mse on Imagenette. bundled_sharp: the same to the
    bit, and behind it a refiner that was trained alone to draw sharply. `target`: as of `read`.

    Raises:
        InvalidSetting: this installation lacks it.
    """
    for file in (FILE,) if name == BUNDLED else (FILE, REFINER):
        if not file.is_file():
            raise InvalidSetting(f"{name} is missing from this installation ({file.name}); reinstall")
    base = read(FILE, target)
    if name == BUNDLED:
        return base
    stored = load(REFINER)
    refiner = tensors(stored.content)
    sizes = replace(base.architecture, refiner_width=len(refiner["refiner.inputs.bias"]))
    return replace(base, state=base.state | refiner, architecture=sizes, sha256=stored.sha256)
