"""This project's step: `experiments.benchmarks.step`'s, which is the training loop's."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from experiments.benchmarks.peers.side import Side, Task
from experiments.benchmarks.step import Bench


class Ours(Side):
    """With gradient norm, metrics, and a small head for patch statistics beside the prediction, which others lack."""

    name = "ours"

    def __init__(self, task: Task, weights: dict[str, Tensor]):
        self.bench = Bench(
            "norm_mse",
            argparse.Namespace(
                device=task.device,
                image_size=task.image_size,
                patch_size=task.patch_size,
                model=task.model,
                batch=task.batch,
                compile=False,
            ),
        )
        self.bench.images, self.bench.noise = task.images, task.noise()
        missing, unexpected = self.bench.model.load_state_dict(weights, strict=False)
        assert all(name.startswith("statistics") for name in missing) and not unexpected, (missing, unexpected)
        super().__init__(task, self.bench.model)
        self.run = self.bench.model.predict

    def loss(self, noise: Tensor | None = None) -> Tensor:
        self.model.predict = self.run
        r = self.model(self.task.images, noise=self.bench.noise if noise is None else noise)
        return self.bench.objective(r, 0).value

    def step(self) -> None:
        torch.compiler.cudagraph_mark_step_begin()  # what the last step's graph put out is not needed any more
        self.model.predict = self.run
        self.bench.ours()
