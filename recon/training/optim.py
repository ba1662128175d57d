"""AdamW, groups of parameters, the learning rate's schedule, and a moving average of the weights."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from recon.model.layers import ViTEncoder


def adamw(model: nn.Module, *, weight_decay: float, betas: Sequence[float]) -> torch.optim.AdamW:
    """Fused AdamW with decay on `matrices` alone.

    Biases, norms and tokens are not decayed. (The official code decays its class and mask tokens, which are not
    matrices, only by the shape they are stored in.)
    """
    decayed = matrices(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p in decayed], "weight_decay": weight_decay},
        {"params": [p for p in trained if p not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(betas[0], betas[1]), fused=True)


def matrices(model: nn.Module) -> set[Tensor]:
    """Weights of linear, convolutional and transposed convolutional layers, which alone are decayed."""
    return {m.weight for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)}


def parameter_groups(model: nn.Module, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Groups the trained parameters of `model`, whose `encoder` is a ViTEncoder, by depth and weight decay.

    A group's `scale` is its factor of the learning rate: layer_decay to the power of the number of layers above it,
    where the layers are the embedding, each block, and all else, the encoder's norm too (Bao et al. 2021, BEiT).
    `always_adapt` is for LARS.
    """
    encoder, decayed = model.encoder, matrices(model)
    assert isinstance(encoder, ViTEncoder)
    layers = [[encoder.cls_token, *encoder.patch_embed.parameters()], *(list(b.parameters()) for b in encoder.blocks)]
    below = {parameter for layer in layers for parameter in layer}
    layers.append([parameter for parameter in model.parameters() if parameter not in below])
    groups = []
    for above, layer in enumerate(reversed(layers)):
        trained = [p for p in layer if p.requires_grad]
        for is_matrix in (True, False):
            if parameters := [p for p in trained if (p in decayed) == is_matrix]:
                decay = weight_decay if is_matrix else 0.0
                scale = layer_decay**above
                groups.append({"params": parameters, "weight_decay": decay, "scale": scale, "always_adapt": is_matrix})
    return groups


def learning_rate(step: int, *, steps: int, peak: float, warmup: float) -> float:
    """Linear from 0 over the first `warmup` of the run, then a half cosine to 0, at `step` in [0, steps)."""
    warm = warmup * steps
    if step < warm:
        return peak * (step + 1) / (warm + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


class WeightAverage:
    """Exponential moving average of a model's trained weights (for GANs: Yazıcı et al. 2018, arXiv 1806.04498).

    After step t, counted from 0, the average moves by 1 - d towards the weights, where d is the smaller of `decay`
    and (1 + t) / (10 + t), so that the first weights do not dominate the average of a short run.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int, finite: Tensor) -> None:
        """Moves the average; `finite`, a bool scalar on the device, says whether the step was taken."""
        rate = finite.to(torch.float32) * (1 - min(self.decay, (1 + step) / (10 + step)))
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
        """Continues from saved weights."""
        for name, tensor in weights.items():
            self.weights[name].copy_(tensor)

    @torch.no_grad()
    def _fill(self, model: nn.Module, weights: dict[str, Tensor]) -> None:
        for name, parameter in model.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])
