"""The masked autoencoder that this package carries; `python -m experiments.bundled_mae` makes it."""

from pathlib import Path

from losses import InvalidSetting

BUNDLED = "bundled"  # its name in init= and run=
FILE = Path(__file__).parent / "mae_nano8_64.safetensors"


def bundled() -> Path:
    """The file: ViT-nano, 64 pixels, patches of 8, trained with plain mse on Imagenette, in half precision.

    Raises:
        InvalidSetting: this installation lacks it.
    """
    if not FILE.is_file():
        raise InvalidSetting(
            f"the bundled masked autoencoder is missing from this installation ({FILE.name}); reinstall"
        )
    return FILE
