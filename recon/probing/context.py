"""What is probed, and what stands beside it."""

from dataclasses import dataclass

import torch
from lightning_fabric import Fabric

from losses.features.weights import checksum
from recon.console import Progress
from recon.distributed import Ranks
from recon.model import MaskedAutoencoder
from recon.probing.labelled import Task


@dataclass(frozen=True)
class Contestant:
    """`key`: "run", "scratch", or a control: "untrained", "pixels", whose `model` is None: pixels have none."""

    key: str
    label: str
    model: MaskedAutoencoder | None

    @property
    def checksum(self) -> str:
        """SHA-256 of all that features depend on but the image: weights, standardisation, heads, norms."""
        model = self.model
        if model is None:
            return "none"
        state = {name: value for name, value in model.state_dict().items() if name.startswith(ENCODER)}
        state |= {"mean": model.mean, "std": model.std}
        block = model.blocks[0]
        state["built"] = torch.tensor([block.attn.num_heads, block.norm1.eps, model.norm.eps, model.patch_size])
        return checksum(state)


ENCODER = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.")  # of the state's names


def contestants(name: str, model: MaskedAutoencoder, seed: int, controls: bool) -> list[Contestant]:
    """A run's encoder; with `controls` the same encoder before any training, and the pixels themselves.

    The untrained encoder's frozen features are those of one initialisation, `seed`'s.
    """
    run = Contestant("run", name, model)
    if not controls:
        return [run]
    return [
        run,
        Contestant("untrained", "the same encoder, untrained", model.untrained(seed)),
        Contestant("pixels", "raw pixels", None),
    ]


@dataclass(frozen=True)
class Terms:
    """The data and the conditions.

    `image_size`: (H, W). `fractions`: of the training labels. `batch`: images at a time through a frozen encoder.
    `workers`: processes that read ahead. `ranks`: that share the work, `fabric` being this one's own.
    """

    task: Task
    image_size: tuple[int, int]
    fractions: list[float]
    seeds: list[int]
    fabric: Fabric
    batch: int
    workers: int
    progress: Progress
    ranks: Ranks
