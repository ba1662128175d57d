"""LARS, for linear probes with large batches."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


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
