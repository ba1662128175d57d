"""FSDP2: each rank keeps a shard of the model's parameters, of their gradients and of the optimiser's state.

Shards are DTensors. What is saved is whole, so that a checkpoint does not depend on the number of ranks.
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
    """For a model that is sharded before Fabric sets it up, because the optimiser is made of its shards."""
    return ModelParallelStrategy(lambda model, _: model, data_parallel_size=processes, tensor_parallel_size=1)


def shard(model: MaskedAutoencoder, fabric: Fabric) -> None:
    """Leaves this rank its shard of every parameter, on its device.

    A block's attention and MLP are gathered together, for the forward and again for the backward; the rest
    is gathered with the model. Under bfloat16 they are gathered in bfloat16, to which autocast would cast them: half as
    many bytes. A block's norms, which autocast leaves in float32, belong to the model.
    """
    low = fabric._precision.precision == "bf16-mixed"
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False) if low else None
    mesh = fabric.strategy.device_mesh["data_parallel"]
    for block in (*model.blocks, *model.decoder_blocks):
        fully_shard([block.attn, block.mlp], mesh=mesh, mp_policy=policy or MixedPrecisionPolicy())
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "render")


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a DTensor, also of a partial sum; all ranks call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_state(state: Any) -> Any:
    """A state dict with whole tensors on rank zero's host; on the other ranks each sharded tensor is None.

    All ranks call it.
    """
    if isinstance(state, dict):
        return {key: full_state(value) for key, value in state.items()}
    if not isinstance(state, DTensor):
        return state
    tensor = full_tensor(state)
    return tensor.cpu() if state.device_mesh.get_rank() == 0 else None


def load_model(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Loads a `full_state` state, which every rank has."""
    mine = model.state_dict()
    model.load_state_dict({name: _shard(tensor, mine.get(name)) for name, tensor in state.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads a `full_state` state, which every rank has."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]  # the state has them by number
    moments = {
        i: {key: _shard(tensor, parameters[i]) for key, tensor in of.items()} for i, of in state["state"].items()
    }
    optimizer.load_state_dict(state | {"state": moments})


def _shard(tensor: Tensor, like: Tensor | None) -> Tensor:
    """This rank's shard of a tensor, where `like` is sharded."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:  # Adam's count of steps is not sharded
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
