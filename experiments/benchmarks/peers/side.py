"""What is trained, and by whom: one model, one batch, one step."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from losses.reconstruction import IMAGENET_MEAN, IMAGENET_STD
from recon.model import DECODER_HEAD_WIDTH, SIZES
from recon.model.masking import visible_count

LEARNING_RATE, WEIGHT_DECAY, BETAS = 1e-4, 0.05, (0.9, 0.95)


@dataclass(frozen=True)
class Task:
    """One size of model and one batch, for every side alike.

    `low`: matrix products in bfloat16 under autocast, else float32.
    """

    model: str
    image_size: int
    patch_size: int
    batch: int
    device: torch.device
    low: bool
    mask_ratio: float = 0.75

    @property
    def sizes(self) -> dict[str, int]:
        """width, depth, heads and decoder_width, decoder_depth, as `recon.model.SIZES` has them, and decoder_heads."""
        sizes = SIZES[self.model]
        return sizes | {"decoder_heads": sizes["decoder_width"] // DECODER_HEAD_WIDTH}

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def visible(self) -> int:
        return visible_count(self.patches, self.mask_ratio)

    @cached_property
    def images(self) -> Tensor:
        """(B, 3, H, W) in [0, 1]."""
        generator = torch.Generator().manual_seed(0)
        return torch.rand(self.batch, 3, self.image_size, self.image_size, generator=generator).to(self.device)

    @cached_property
    def standardised(self) -> Tensor:
        """The same as others' loaders hand them over; ours standardises them on the device, in its own time."""
        mean, std = (torch.tensor(v, device=self.device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        return (self.images - mean) / std

    def noise(self) -> Tensor:
        """(B, N): what torch draws first after `manual_seed(0)`, so that a side which draws for itself has it too."""
        torch.manual_seed(0)
        return torch.rand(self.batch, self.patches, device=self.device)


class Side:
    """Somebody's model and the step that his own code takes with it.

    Args:
        model: with `weights` in it, on the task's device.
        run: what is called in the model's place: itself, or itself compiled.
    """

    name: str

    def __init__(self, task: Task, model: nn.Module):
        self.task, self.model = task, model.train()
        self.run: Callable = self.model

    def compiled(self, mode: str = "default") -> Side:
        """The same model and optimiser, compiled as torch compiles by default, or in another of its modes."""
        other = copy(self)
        other.name = f"{self.name}, {'compiled' if mode == 'default' else mode}"
        other.run = torch.compile(self.run, mode=mode)
        return other

    def loss(self, noise: Tensor | None = None) -> Tensor:
        """The mean-squared error of normalised hidden patches, a scalar; the mask is drawn, or of `task.noise()`."""
        raise NotImplementedError

    def step(self) -> None:
        """As a plain loop has it."""
        with self.autocast():
            loss = self.loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.task.device.type, torch.bfloat16, enabled=self.task.low)

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW as torch has it by default, all parameters alike."""
        return torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, betas=BETAS)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)
