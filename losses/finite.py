"""Skipping a step whose gradients are not finite, without waiting for the device."""

from collections.abc import Iterable

import torch
from torch import Tensor


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """L2 norm over all gradients, a scalar on the device; not finite where any gradient is not."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def step_unless(optimizer: torch.optim.Optimizer, bad: Tensor) -> None:
    """One step of a fused optimiser, or none where `bad` (a bool scalar on the device) is true.

    Fused kernels take `found_inf`, as gradient scaling does, and leave parameters and state untouched.
    """
    optimizer.found_inf = bad.float()
    optimizer.step()
    del optimizer.found_inf  # or a later plain step would be skipped too
