"""How much memory tensors take: exact, the same on every device and every run. And what a process had at most."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from experiments.benchmarks.step import Bench

MIB = 2**20


def kept_for_backward(bench: Bench) -> int:
    """Bytes that a forward pass keeps for its backward, the parameters not counted; every storage once.

    Of a compiled model nothing is seen but what its graph keeps as a whole.
    """
    own = {_key(p) for p in (*bench.model.parameters(), *bench.model.buffers())}
    kept: dict[int, Tensor] = {}  # held until all are counted, or an address could be taken twice

    def keep(tensor: Tensor) -> Tensor:
        if _key(tensor) not in own:
            kept[_key(tensor)] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        bench.forward()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


class Live(TorchDispatchMode):
    """Follows every storage from the operation that made it to its end.

    `peak`: the most bytes that lived at once while the mode was on, `present` tensors included. What a kernel takes for
    itself meanwhile is not seen, nor is a backward pass on a GPU, which runs in a thread of its own: there
    `torch.cuda.max_memory_allocated` tells.
    """

    def __init__(self, present: Iterable[Tensor]):
        super().__init__()
        self.now = self.peak = 0
        self.known: dict[int, weakref.ref] = {}
        for tensor in present:
            self._follow(tensor)

    def __torch_dispatch__(self, function: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for each in tree_iter(found):
            if isinstance(each, Tensor):
                self._follow(each)
        return found

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self.known:
            return

        def end(_: weakref.ref) -> None:
            del self.known[key]
            self.now -= size

        self.known[key] = weakref.ref(storage, end)
        self.now += size
        self.peak = max(self.peak, self.now)


def peak_of_step(bench: Bench) -> int:
    """Most bytes that live at once in a training step: parameters, gradients, optimiser, batch and all between."""
    bench.ours()  # the optimiser's state is there from now on
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        bench.ours()
        return torch.cuda.max_memory_allocated()
    state = [t for of in bench.optimizer.state.values() for t in of.values() if isinstance(t, Tensor)]
    with Live([*bench.parameters, *bench.model.buffers(), *state, bench.images, bench.noise]) as live:
        bench.ours()
    return live.peak


@contextmanager
def of_batch(bench: Bench, batch: int):
    """The bench with the first `batch` of its images, each image again and again where it has fewer."""
    before = bench.images, bench.noise
    index = torch.arange(batch, device=bench.device) % len(bench.images)
    bench.images, bench.noise = bench.images[index], bench.noise[index]
    try:
        yield
    finally:
        bench.images, bench.noise = before


def reset_peak(device: torch.device) -> None:
    """From now on `peak_mib` counts anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib(device: torch.device) -> float:
    """Peak memory since `reset_peak`: the device's allocations, or the process's resident set on Linux."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), float("nan"))


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
