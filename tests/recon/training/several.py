"""Under torchrun: runs one after the other in the same processes, each watched.

    torchrun ... -m tests.recon.training.several '{"a": ["loss=mse", ...], ...}'

What process N held after the last step of a run, in bytes, and how many graphs it compiled is in runs/NAME/held.N.json.
In the run called `poisoned` the last process's share of one gradient is infinite in the third step.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from torch._dynamo.utils import counters

from losses import term
from recon.distributed import join
from recon.training import loop
from tests.recon.training.conftest import pretrain


def size(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of memory that this process's parts of the tensors are in, with all that keeps them company there."""
    here = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
    memories = [tensor.untyped_storage() for tensor in here]
    return sum({memory.data_ptr(): memory.nbytes() for memory in memories}.values())


def watched(name: str, words: list[str]) -> None:
    ranks, held, steps = join(), {}, [0]

    def norm(parameters):
        steps[0] += 1
        if name == "poisoned" and ranks.rank == ranks.count - 1 and steps[0] == 3:
            parameters[-1].grad.to_local().view(-1)[-1] = float("inf")
        return term.gradient_norm(parameters)

    def step(optimizer, bad):
        term.step_unless(optimizer, bad)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        held["parameters"] = size(parameters)
        held["gradients"] = size(p.grad for p in parameters)
        held["moments"] = size(optimizer.state[p][key] for p in parameters for key in ("exp_avg", "exp_avg_sq"))

    loop.gradient_norm, loop.step_unless = norm, step
    counters.clear()
    assert pretrain(Path(), f"name={name}", *words) == 0
    held["graphs"] = counters["stats"]["unique_graphs"]
    (Path("runs") / name / f"held.{ranks.rank}.json").write_text(json.dumps(held))


if __name__ == "__main__":
    for name, words in json.loads(sys.argv[1]).items():
        watched(name, words)
    join().leave()
