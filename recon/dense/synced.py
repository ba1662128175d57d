"""What the ranks of a training compute over a whole batch, of which each has a part: batch norms, and means."""

from typing import Any

import torch
from torch import Tensor, distributed, nn


def rank_mean(x: Tensor) -> Tensor:
    """The mean over all ranks, of tensors of one shape; a process alone gets `x` itself. Gradients pass through it."""
    return RankMean.apply(x) if distributed.is_available() and distributed.is_initialized() else x


class RankMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total / distributed.get_world_size()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return RankMean.forward(ctx, gradients[0])


class SyncedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the batches of all ranks, equally large, in training mode; torch's SyncBatchNorm refuses CPUs.

    The recipes of UPerNet (BEiT's, and so the MAE paper's) have it on all devices. (B, C, H, W) -> (B, C, H, W)
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.float()
        mean = rank_mean(x.mean((0, 2, 3), keepdim=True))
        variance = rank_mean((x - mean).square().mean((0, 2, 3), keepdim=True))
        self._update(mean.detach().flatten(), variance.detach().flatten(), x.numel() // x.shape[1])
        y = (x - mean) * (variance + self.eps).rsqrt()
        if self.affine:
            y = y * self.weight[:, None, None] + self.bias[:, None, None]
        return y.to(input.dtype)

    def _update(self, mean: Tensor, variance: Tensor, values: int) -> None:
        """Moves the running statistics as BatchNorm2d does; `values`: of a channel, on one rank."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        values *= distributed.get_world_size()
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (values / (values - 1)), self.momentum)
        self.num_batches_tracked.add_(1)


def sync_batch_norms(model: nn.Module) -> None:
    """Turns every BatchNorm2d of the model into a SyncedBatchNorm, with the same parameters, buffers and names."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm
