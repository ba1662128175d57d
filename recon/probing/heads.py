"""LARS, for linear probes with large batches."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn

from recon.model.layers import LayerNorm

HEAD_WIDTH = 64  # of the attentive head's attention heads, as of every ViT from tiny to large


class Head(nn.Module):
    """Tokens (B, 1 + N, D), the class token first, to logits (B, C).

    `own_norm`: the head has a norm behind its pooling, and reads the last block's tokens without the encoder's norm.
    """

    own_norm: ClassVar[bool] = False

    def __init__(self, width: int, classes: int, std: float):
        super().__init__()
        self.linear = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.linear.weight, std=std)
        nn.init.zeros_(self.linear.bias)


class BatchNormLinear(Head):
    """The class token, standardised over the batch without scale and shift, then linear.

    Still a linear classifier: in evaluation the norm is a fixed affine map. It sets the scale of the features, so that
    one learning rate serves all objectives. He et al. 2021, A.1.
    """

    def __init__(self, width: int, classes: int):
        super().__init__(width, classes, std=0.01)
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(self.norm(tokens[:, 0]))


class PooledLinear(Head):
    """The mean of the patch tokens, layer norm, then linear: how the official code fine-tunes.

    The weights begin so near 0 (2e-5) that the first predictions are uniform.
    """

    own_norm = True

    def __init__(self, width: int, classes: int):
        super().__init__(width, classes, std=2e-5)
        self.norm = LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(self.norm(tokens[:, 1:].mean(1)))


class AttentiveLinear(Head):
    """A learnt query attends to all tokens (timm's `AttentionPoolLatent`: attention, MLP with residual), then linear.

    The order of the tokens means nothing to it. Bardes et al. 2024 (V-JEPA, arXiv 2404.08471), section 4.
    """

    def __init__(self, width: int, classes: int):
        super().__init__(width, classes, std=0.02)
        self.pool = AttentionPoolLatent(width, num_heads=max(1, width // HEAD_WIDTH), norm_layer=LayerNorm)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(self.pool(tokens))


class LARS(torch.optim.Optimizer):
    """SGD with momentum, where each matrix's update is scaled to a fixed share of the matrix's own norm.

    With u = g + weight_decay w:  v <- momentum v + trust (||w|| / ||u||) u,  w <- w - lr v.
    Parameters of one dimension (biases) are neither scaled nor decayed: u = g. Where a norm is 0, nothing is scaled.

    You et al. 2017 (arXiv 1708.03888), as MoCo v3 and MAE use it. The paper multiplies by lr before the momentum and
    divides by ||g|| + weight_decay ||w||: the same at a constant rate without decay.

    Args:
        params: parameters or groups.
        lr, momentum, weight_decay: as of `torch.optim.SGD`.
        trust: the paper's eta.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 0.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update of every parameter that has a gradient; returns what `closure`, where given, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        update = parameter.grad
        if parameter.ndim > 1:
            update = update + group["weight_decay"] * parameter
            update = update * trust_ratio(parameter, update, group["trust"])
        state = self.state[parameter]
        if not state:
            state["velocity"] = torch.zeros_like(parameter)
        state["velocity"].mul_(group["momentum"]).add_(update)
        parameter.sub_(state["velocity"], alpha=group["lr"])


def trust_ratio(parameter: Tensor, update: Tensor, trust: float) -> Tensor:
    """trust ||parameter|| / ||update||, or 1 where either is 0; a scalar that stays on the device."""
    own, other = parameter.norm(), update.norm()
    return torch.where((own > 0) & (other > 0), trust * own / other, 1.0)
