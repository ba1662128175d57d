"""A small model with generic weights, and the images it is asked about."""

from typing import Any

import torch
from torch import Tensor

from recon.model import MaskedAutoencoder, create_model

SMALL = dict(
    image_size=(12, 20), patch_size=4, width=48, depth=2, heads=3, decoder_width=32, decoder_depth=2, mask_ratio=0.6
)
PATCHES = 15


def small(seed: int = 0, dtype: torch.dtype = torch.float64, **overrides: Any) -> MaskedAutoencoder:
    """Biases, scales and tokens are drawn too, so that no part of the network is silent."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create_model("tiny", **SMALL | overrides).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=dtype) * 0.1)
    return model


def images(number: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(number, 3, 12, 20, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def noise(number: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(number, PATCHES, generator=torch.Generator().manual_seed(100 + seed))
