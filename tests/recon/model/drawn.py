"""Small models that predict distributions, and what they are asked about."""

from copy import deepcopy
from functools import cache
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from losses import FlowHead, MixtureHead
from losses.reconstruction import expand_to_pixels
from recon.model import MaskedAutoencoder, distributions
from tests.recon.model.conftest import small

SIDES, GRID, PATCH, PATCHES, VALUES = (16, 24), (4, 6), 4, 24, 48
HEADS = {
    "flow": FlowHead(steps=3),
    "flow-patch": FlowHead(network="patch", steps=3),
    "flow-noise": FlowHead(source="noise", steps=3),
    "mixture": MixtureHead(3, 10),
}
FLOWS = [name for name in HEADS if name.startswith("flow")]
RENDERINGS = [(name, rendering) for name, head in HEADS.items() for rendering in head.renderings]

every_kind = pytest.mark.parametrize("kind", HEADS)
every_flow = pytest.mark.parametrize("kind", FLOWS)


@cache
def original(kind: str, **overrides) -> MaskedAutoencoder:
    with patch.object(distributions, "WIDTHS", (16, 32, 64)), patch.object(distributions.PatchVelocity, "WIDTH", 64):
        return small(image_size=SIDES, patch_size=PATCH, head=HEADS[kind], **overrides).eval()


def made(kind: str, **overrides) -> MaskedAutoencoder:
    """A small model, no part of it silent, in double precision and in evaluation."""
    return deepcopy(original(kind, **overrides))  # a copy takes less time than weights that are drawn


def pictures(number: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    images = torch.rand(number, 3, *SIDES, generator=torch.Generator().manual_seed(seed))
    return images.to(dtype)  # the same numbers in every precision


def masks(number: int = 3, seed: int = 0) -> Tensor:
    noise = torch.rand(number, PATCHES, generator=torch.Generator().manual_seed(100 + seed))
    return noise.argsort(1).argsort(1) >= 9


def repainted(truth: Tensor, where: Tensor) -> Tensor:
    """Other pixels in the patches `where` (B, N)."""
    return torch.where(expand_to_pixels(where, GRID, PATCH), 1 - truth, truth)


def learning(model: MaskedAutoencoder, seed: int = 0, **arguments):
    """A training step's prediction, under the times and noise of a seed."""
    torch.manual_seed(seed)
    return model.train()(pictures(), **({"mask": masks()} | arguments))
