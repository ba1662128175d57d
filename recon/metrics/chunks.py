"""Working through a batch a few images at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

from losses.features.distance import CHUNK_PIXELS


def a_few_at_a_time(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """`function` of batches, its values joined; on a CPU so few images together that their maps stay in cache."""
    first = tensors[0]
    few = max(1, CHUNK_PIXELS // first[0, 0].numel()) if first.device.type == "cpu" else len(first)
    return torch.cat([function(*part) for part in zip(*(x.split(few) for x in tensors), strict=True)])
