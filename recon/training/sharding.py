"""FSDP2: each process keeps its share of the model's parameters, of their gradients and of the optimiser's state.

The shares are DTensors. What is saved is whole, so a checkpoint says nothing of how many processes wrote it.
"""

from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from recon.model import MaskedAutoencoder


def strategy(processes: int) -> ModelParallelStrategy:
    """For a model that is sharded over all processes, before Fabric is given it: the optimiser is made of shares."""
    return ModelParallelStrategy(lambda model, _: model, data_parallel_size=processes, tensor_parallel_size=1)


def shard(model: MaskedAutoencoder, fabric: Fabric) -> None:
    """Leaves this process its share of every parameter, on its device.

    A unit, gathered for its forward and again for its backward, is one transformer block; what is outside of them is
    gathered with the model. Under bfloat16 a block's matrices are gathered as what autocast would make of them, half
    as many bytes; its norms, which autocast leaves alone, belong to the model.
    """
    low = fabric._precision.precision == "bf16-mixed"
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False) if low else None
    mesh = fabric.strategy.device_mesh["data_parallel"]
    for block in (*model.blocks, *model.decoder_blocks):
        fully_shard([block.attn, block.mlp], mesh=mesh, mp_policy=policy or MixedPrecisionPolicy())
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "render")


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor of which each process has its share, or its part of the sum; all of them call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole(state: Any) -> Any:
    """A state dict with its shares put together, on the host of the first process; None for each in the others.

    All processes call it.
    """
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    if not isinstance(state, DTensor):
        return state
    tensor = full(state)
    return tensor.cpu() if state.device_mesh.get_rank() == 0 else None


def load_model(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Takes up a `whole` state, of which every process has all."""
    mine = model.state_dict()
    model.load_state_dict({name: _share(tensor, mine.get(name)) for name, tensor in state.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Takes up a `whole` state, of which every process has all."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]  # the state has them by number
    moments = {
        i: {key: _share(tensor, parameters[i]) for key, tensor in of.items()} for i, of in state["state"].items()
    }
    optimizer.load_state_dict(state | {"state": moments})


def _share(tensor: Tensor, like: Tensor | None) -> Tensor:
    """This process's part of a tensor, where `like` is sharded."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:  # Adam's count of steps is whole everywhere
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
