"""The device and precision of a run, and how batches are copied to it."""

import inspect
import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision, Precision
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from losses import InvalidSetting, nearest
from recon.distributed import ALONE, Ranks
from recon.model import MaskedAutoencoder

if TYPE_CHECKING:  # every command asks for a device, and not every one for data
    from recon.data import Batch


class MixedPrecisionKeepingInputs(MixedPrecision):
    """Mixed precision that does not cast the model's inputs.

    Fabric's rounds every floating input to bfloat16: the images, which are the target, and the noise of the masks.
    """

    def convert_input(self, data: Any) -> Any:
        return data


PRECISIONS: dict[str, Callable[[str], Precision]] = {
    "bf16": lambda kind: MixedPrecisionKeepingInputs("bf16-mixed", kind),
    "fp32": lambda kind: Precision(),
}


def make_fabric(device: str, precision: str, ranks: Ranks = ALONE, sharded: bool = False) -> Fabric:
    """Lightning Fabric for `auto`, `cpu`, `cuda`, `cuda:N` or `mps`, and `auto`, `bf16` or `fp32`.

    Each of several processes on a machine takes the device of its local rank; DDP averages their gradients, or FSDP2
    where the model is to be `sharded`. CUDA may use TF32 for products and convolutions in float32; evaluation turns
    that off. Raises InvalidSetting for an unknown name, or a device that is not there.
    """
    kind, index = resolve_device(device, ranks)
    if precision == "auto":
        precision = "bf16" if fast_bfloat16(kind) else "fp32"
    if precision not in PRECISIONS:
        raise InvalidSetting(
            f"unknown precision '{precision}'{nearest(precision, PRECISIONS)} (auto, {', '.join(PRECISIONS)})"
        )
    torch.set_float32_matmul_precision("high")
    # By name, or Fabric would take a lone process under Slurm or LSF for one of several.
    environment = LightningEnvironment() if ranks.count == 1 else TorchElasticEnvironment()
    plugins: list[Any] = [PRECISIONS[precision](kind), environment]
    if ranks.count == 1:
        return Fabric(accelerator=kind, devices=[int(index)] if index else 1, plugins=plugins)
    # The model's buffers are constants; broadcasting them would make rank zero's pictures wait for the other ranks.
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # torch 2.15
    constant: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    # FSDP2: the model is sharded before Fabric sets it up, because the optimiser is made of its shards.
    fsdp = ModelParallelStrategy(lambda model, _: model, data_parallel_size=ranks.count, tensor_parallel_size=1)
    strategy = fsdp if sharded else DDPStrategy(**constant)
    fabric = Fabric(accelerator=kind, devices=ranks.per_node, num_nodes=ranks.nodes, strategy=strategy, plugins=plugins)
    fabric.launch()
    return fabric


class Upload:
    """Copies batches to the device; to a CUDA device while it still computes the step before, in a stream of its own,
    with the augmentation on the device. The host waits for neither."""

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: "Batch") -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) in [0, 1], float32, and noise (B, N)."""
        with nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            found = batch.images_on(self.device), batch.noise.to(self.device, non_blocking=True)
        if self.stream is not None:
            training = torch.cuda.current_stream(self.device)
            training.wait_stream(self.stream)
            for tensor in found:
                tensor.record_stream(training)  # so that its memory is not reused while the step reads it
        return found


def own_fabric(device: str, precision: str, ranks: Ranks) -> Fabric:
    """The same for processes that share no model: each computes alone, on the device of its local rank."""
    if ranks.count == 1:
        return make_fabric(device, precision)
    kind, _ = resolve_device(device, ranks)
    number = ranks.rank % ranks.per_node
    fabric = make_fabric(f"cuda:{number}" if kind == "cuda" else kind, precision)
    fabric.launch()  # sets the current CUDA device
    return fabric


def resolve_device(device: str, ranks: Ranks) -> tuple[str, str]:
    """The kind of device, and its number where one was given; errors as `make_fabric`."""
    kind, _, index = (_best_device() if device == "auto" else device).partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and (kind != "cuda" or not index.isdigit())):
        raise InvalidSetting(
            f"unknown device '{device}'{nearest(kind, ('auto', 'cpu', 'cuda', 'mps'))} (auto, cpu, cuda, cuda:N, mps)"
        )
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind]
    if int(index or 0) >= there:
        have = f"this machine has {there}" if kind == "cuda" else "this machine has none"
        raise InvalidSetting(f"device={device} is not there ({have}); use device=auto or device=cpu")
    here = ranks.per_node
    if here > 1 and kind != "cpu" and (index or here > there):
        raise InvalidSetting(
            f"device={device} is too little for {here} processes on this machine ({kind} devices: {there}); "
            f"start as many as there are devices, or use device=cpu"
        )
    return kind, index


def set_deterministic(on: bool, device: torch.device) -> None:
    """Makes CUDA use kernels that give the same bits every time; an operation that has none raises a RuntimeError."""
    on = on and device.type == "cuda"
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first product
    torch.use_deterministic_algorithms(on)
    memory: Any = torch.utils.deterministic
    memory.fill_uninitialized_memory = False  # what nobody reads need not be filled


def without_deterministic_kernel(error: RuntimeError) -> str | None:
    """The operation that has no deterministic kernel, if that is the error."""
    found = re.match(r"(\w+) does not have a deterministic implementation", str(error))
    return found and found[1]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device's memory ran out, or the host's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error) or "out of memory" in str(error)  # of torch on CPUs, and on MPS


def fast_bfloat16(kind: str) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 there."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return False


def _best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def shard(model: MaskedAutoencoder, fabric: Fabric) -> None:
    """Leaves this rank its shard of every parameter, on its device (FSDP2); optimisers are made of shards, DTensors.

    A block's attention and MLP are gathered together, for the forward and again for the backward; the rest with the
    model. Under bfloat16 they are gathered in bfloat16, to which autocast would cast them: half the bytes. A block's
    norms, which autocast leaves in float32, belong to the model.
    """
    low = fabric._precision.precision == "bf16-mixed"
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False) if low else None
    assert isinstance(fabric.strategy, ModelParallelStrategy)
    mesh = fabric.strategy.device_mesh["data_parallel"]
    for block in (*model.blocks, *model.decoder_blocks):
        units = [block.get_submodule("attn"), block.get_submodule("mlp")]
        fully_shard(units, mesh=mesh, mp_policy=policy or MixedPrecisionPolicy())
    fully_shard(model, mesh=mesh)
    for method in ("render", "encode"):
        register_fsdp_forward_method(model, method)


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a DTensor, also of a partial sum; all ranks call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_part(tensor: Tensor) -> Tensor:
    """This rank's part of a DTensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_state(state: Any) -> Any:
    """A state dict with whole tensors on rank zero's host, and None in their place elsewhere; all ranks call it."""
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
