"""What is probed, and what stands beside it."""

from dataclasses import dataclass

from losses.features.weights import checksum
from recon.model import MaskedAutoencoder


@dataclass(frozen=True)
class Contestant:
    """`key`: "run", "scratch", or a control: "untrained", "pixels", whose `model` is None: pixels have none."""

    key: str
    label: str
    model: MaskedAutoencoder | None

    @property
    def checksum(self) -> str:
        """SHA-256 of the encoder's weights."""
        if self.model is None:
            return "none"
        state = self.model.state_dict()
        return checksum({name: value for name, value in state.items() if name.startswith(ENCODER)})


ENCODER = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.")  # of the state's names


def contestants(name: str, model: MaskedAutoencoder, seed: int, controls: bool) -> list[Contestant]:
    """A run's encoder; with `controls` the same encoder before any training, and the pixels themselves."""
    run = Contestant("run", name, model)
    if not controls:
        return [run]
    return [
        run,
        Contestant("untrained", "the same encoder, untrained", model.untrained(seed)),
        Contestant("pixels", "raw pixels", None),
    ]
