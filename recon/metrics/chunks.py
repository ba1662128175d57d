"""Working through a batch a few images at a time."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from losses.features.distance import CHUNK_PIXELS

VALUES = 3 * CHUNK_PIXELS  # of each tensor together: with what is made of them they stay in a CPU's cache


@torch.no_grad()
def a_few_at_a_time(function: Callable[..., Tensor], *tensors: Tensor, values: int = VALUES) -> Tensor:
    """`function` of batches, its values joined; without a gradient. On a CPU so few images together that they have at
    most `values` numbers in the first tensor."""
    first = tensors[0]
    few = max(1, values // first[0].numel()) if first.device.type == "cpu" else len(first)
    return torch.cat([function(*part) for part in zip(*(x.split(few) for x in tensors), strict=True)])


class Room:
    """Memory that is written to again and again: new pages from the system cost more than to fill them."""

    def __init__(self):
        self.memory = torch.empty(0, dtype=torch.float64)

    def of(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """A float64 tensor of that shape that holds anything, until somebody asks again."""
        count = math.prod(shape)
        if len(self.memory) < count or self.memory.device != device:
            self.memory = torch.empty(count, dtype=torch.float64, device=device)
        return self.memory[:count].view(shape)
