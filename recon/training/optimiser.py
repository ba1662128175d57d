"""AdamW as the MAE paper uses it, and its learning rate."""

import math
from collections.abc import Sequence

import torch
from torch import nn


def adamw(model: nn.Module, *, weight_decay: float, betas: Sequence[float]) -> torch.optim.AdamW:
    """Fused AdamW with decay on matrices alone: weights of linear and convolutional layers.

    Biases, norms and tokens are not decayed. (The official code decays its class and mask tokens, which are not
    matrices, only by the shape they are stored in.)
    """
    matrices = {m.weight for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p in matrices], "weight_decay": weight_decay},
        {"params": [p for p in trained if p not in matrices], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=tuple(betas), fused=True)


def learning_rate(step: int, *, steps: int, peak: float, warmup: float) -> float:
    """Linear from 0 over the first `warmup` of the run, then a half cosine to 0, at `step` in [0, steps)."""
    warm = warmup * steps
    if step < warm:
        return peak * (step + 1) / (warm + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
