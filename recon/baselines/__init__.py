"""Simple reconstructions that stand beside every learnt one.

Each maps the truth (B, 3, H, W) in [0, 1] and a mask (B, N) bool, True where a patch is hidden, to images
(B, 3, H, W) in [0, 1], float32 or wider. It reads visible pixels alone and returns them as they are. An image of
which nothing is visible comes back as NaN, and does not touch the others.
"""

from collections.abc import Callable

from torch import Tensor

from recon.baselines.ridge import Ridge
from recon.baselines.simple import biharmonic, mean, nearest_visible

__all__ = ["SIMPLE", "Ridge", "biharmonic", "mean", "nearest_visible"]

SIMPLE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": mean,
    "nearest": nearest_visible,
    "biharmonic": biharmonic,
}
