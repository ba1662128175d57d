"""The masked autoencoders that this package carries; `python -m experiments.bundled_mae` makes their files."""

import hashlib
from dataclasses import replace
from pathlib import Path

from losses import InvalidSetting, tensor_files
from recon.model.formats import Checkpoint, read

BUNDLED, SHARPENED = "bundled", "bundled_sharp"  # in init= and run=
NAMES = (BUNDLED, SHARPENED)
FILE = Path(__file__).parent / "mae_nano8_64.safetensors"
REFINER = Path(__file__).parent / "refiner_nano8_64.safetensors"
BASE = "base"  # in the refiner's metadata: the SHA-256 of the file behind which it was trained


def bundled(name: str, target: str | None = None) -> Checkpoint:
    """The checkpoint of one of `NAMES`, in half precision.

    bundled: ViT-nano, 64 pixels, patches of 8, trained with plain mse on Imagenette. bundled_sharp: the same to the
    bit, and behind it a refiner that was trained alone to draw sharply; its sha256 is that of both files' own.
    `target`: as of `read`.

    Raises:
        InvalidSetting: this installation lacks it, or its files do not belong together.
    """
    for file in (FILE,) if name == BUNDLED else (FILE, REFINER):
        if not file.is_file():
            raise InvalidSetting(f"{name} is missing from this installation ({file.name}); reinstall")
    base = read(FILE, target)
    if name == BUNDLED:
        return base
    stored = tensor_files.read(REFINER)
    if stored.metadata.get(BASE) != base.sha256:
        raise InvalidSetting(f"{name}: {REFINER.name} was trained behind another {FILE.name}; reinstall")
    refiner = tensor_files.tensors(stored.content)
    both = hashlib.sha256((base.sha256 + stored.sha256).encode()).hexdigest()
    sizes = replace(base.architecture, refiner_width=len(refiner["refiner.inputs.bias"]))
    return replace(base, state=base.state | refiner, architecture=sizes, sha256=both)
