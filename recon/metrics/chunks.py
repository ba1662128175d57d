"""Working through a batch a few images at a time."""

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from losses.features.distance import CHUNK_PIXELS


@torch.no_grad()
def a_few_at_a_time(function: Callable[..., Tensor], *tensors: Tensor, apart: bool = True) -> Tensor:
    """`function` of batches, its values joined; without a gradient.

    On a CPU so few images together that their maps stay in cache, and each of torch's threads works on images of its
    own: operations on so few numbers lose more than they gain when the threads share every one of them. Not `apart`
    they share them: better for a function of a handful of operations, or of large ones as a network's.
    """
    first = tensors[0]
    if first.device.type != "cpu":
        return function(*tensors)
    few = max(1, 3 * CHUNK_PIXELS // first[0].numel())
    parts = list(zip(*(x.split(few) for x in tensors), strict=True))
    threads = torch.get_num_threads()
    if not apart or min(threads, len(parts)) == 1:
        return torch.cat([function(*part) for part in parts])
    try:
        with ThreadPoolExecutor(threads, initializer=_alone) as pool:
            return torch.cat(list(pool.map(torch.no_grad()(lambda part: function(*part)), parts)))
    finally:
        torch.set_num_threads(threads)  # a thread's own number is also what torch gives to threads begun later


def _alone() -> None:
    torch.set_num_threads(1)


class Room(threading.local):
    """Memory that a thread writes to again and again: new pages from the system cost more than to fill them."""

    def __init__(self):
        self.memory = torch.empty(0, dtype=torch.float64)

    def of(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """A float64 tensor of that shape that holds anything, until the thread asks again."""
        count = math.prod(shape)
        if len(self.memory) < count or self.memory.device != device:
            self.memory = torch.empty(count, dtype=torch.float64, device=device)
        return self.memory[:count].view(shape)
