"""An exponential moving average of a model's weights (of a GAN's generator: Yazıcı et al. 2018, arXiv 1806.04498)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Follows a model's trained weights.

    After step t, counted from 0, the average moves by 1 - d towards the weights, d the smaller of `decay` and
    (1 + t) / (10 + t): so a short run is no average of its first weights.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int, good: Tensor) -> None:
        """Moves; `good`, a bool scalar on the device, says whether the step was taken."""
        rate = good.to(torch.float32) * (1 - min(self.decay, (1 + step) / (10 + step)))
        towards = torch._foreach_sub(
            [parameter for name, parameter in model.named_parameters() if name in self.weights],
            list(self.weights.values()),
        )
        torch._foreach_mul_(towards, rate)
        torch._foreach_add_(list(self.weights.values()), towards)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model with the averaged weights; afterwards it has its own again, to the bit."""
        own = {name: p.detach().clone() for name, p in model.named_parameters() if name in self.weights}
        self._fill(model, self.weights)
        try:
            yield
        finally:
            self._fill(model, own)

    def load(self, weights: dict[str, Tensor]) -> None:
        """Takes up saved ones."""
        for name, tensor in weights.items():
            self.weights[name].copy_(tensor)

    @torch.no_grad()
    def _fill(self, model: nn.Module, weights: dict[str, Tensor]) -> None:
        for name, parameter in model.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])
