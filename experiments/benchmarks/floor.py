"""The floor of a step: its floating-point operations over the rate of a large matrix product."""

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

SIDES = {"cpu": 4096, "cuda": 8192}  # of the product's square matrices


def operations(work: Callable[[], object]) -> int:
    """Floating-point operations of matrix products and convolutions, two per multiplication and addition.

    Attention's two products are among them; norms, softmax, activations and the optimiser are not. A compiled function
    is not to be counted: under torch 2.11 it is run uncompiled from then on.
    """
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


class Product:
    """A product of two large square matrices, in bfloat16 or float32."""

    def __init__(self, device: torch.device, low: bool):
        self.side = SIDES.get(device.type, 4096)
        dtype = torch.bfloat16 if low else torch.float32
        self.a, self.b = (torch.randn(self.side, self.side, device=device, dtype=dtype) for _ in range(2))
        self.operations = 2 * self.side**3

    def __call__(self) -> None:
        torch.mm(self.a, self.b)
