"""Baseline reconstructions, which every evaluation shows beside the trained ones.

Each maps the truth (B, 3, H, W) in [0, 1] and a mask (B, N) bool, True where a patch is hidden, to images
(B, 3, H, W) in [0, 1], float32 or wider. It reads visible pixels alone and returns them unchanged. An image
without visible patches comes back as NaN and does not change the others.
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
