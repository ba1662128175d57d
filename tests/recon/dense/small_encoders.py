"""Small encoders for dense prediction, and images of any size."""

import torch
from torch import Tensor

from recon.model import MaskedAutoencoder
from tests.recon.model.conftest import small


def model_of(depth: int = 8, **overrides) -> MaskedAutoencoder:
    """Of images of 12 x 20 in patches of 4."""
    return small(0, torch.float32, depth=depth, **overrides).eval()


def pictures(height: int, width: int, number: int = 2) -> Tensor:
    return torch.rand(number, 3, height, width, generator=torch.Generator().manual_seed(1))
