"""A run: everything that trains, and how far it has come."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from losses import InvalidSetting
from losses.objective import Objective
from recon.randomness import random_states, set_random_states
from recon.training.accumulator import MetricAccumulator
from recon.training.optim import WeightAverage
from recon.training.preview import EarlierPicture
from recon.training.sharding import full_state, load_model, load_optimizer

MIN_SAMPLES = 1000  # of a stream, before a share of unreadable ones is judged


@dataclass(frozen=True)
class Schedule:
    """The length of a run, its learning rate, and how often it logs and saves; in optimiser steps."""

    steps: int
    accumulate: int  # micro-batches per step
    checkpoint_every: int
    log_every: int
    picture_every: int
    learning_rate: Callable[[int], float]
    clip: float | None
    decoded: float | None  # of the hidden patches; None: all patches, visible ones too


@dataclass
class Run:
    """Everything that trains, and how far it has come. `step` counts finished optimiser steps."""

    folder: Path
    settings: dict[str, Any]  # by key, saved with every checkpoint
    model: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    metrics: MetricAccumulator
    images: int  # in the training data; 0: a stream that does not tell
    max_unreadable: float
    average: WeightAverage | None = None  # of train.ema
    start: dict[str, Any] | None = None  # record of what init brought
    earlier: EarlierPicture | None = None  # held-out images as the weights of init reconstruct them
    stream: dict[str, int] = field(default_factory=dict)  # its shards, and the ranks and workers that read them
    step: int = 0
    held_out: dict[str, float] = field(default_factory=dict)  # the preview's figures of the held-out images
    unreadable: dict[str, None] = field(default_factory=dict)  # a set that keeps its order

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds. Where the model is sharded all ranks call it, and rank zero has the whole."""
        return {  # under the keys that checkpoints have always had
            "settings": self.settings,
            "step": self.step,
            "seen": self.held_out,
            "images": self.images,
            "stream": self.stream,
            "model": full_state(self.model.state_dict()),
            "average": self.average.weights if self.average else {},
            "start": self.start,
            "before": self.earlier.state() if self.earlier else None,
            "optimizer": full_state(self.optimizer.state_dict()),
            "objective": self.objective.state(),
            "tally": self.metrics.state(),
            "unreadable": list(self.unreadable),
            "random": random_states(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from a `state`.

        Raises:
            InvalidSetting: it was made on other data.
        """
        shards = [of.get("shards", 0) for of in (state.get("stream", self.stream), self.stream)]
        images = [state["images"], self.images]
        if self.stream and 0 in images:  # its length may be told at one time and not at another
            images = [0, 0]
        for had, has, what in ((*images, "images"), (*shards, "shards")):
            if had != has:
                raise InvalidSetting(
                    f"cannot resume {self.folder}: its training data had {had} {what}, now {has}; "
                    "set data.root to the data it began with"
                )
        self.step, self.held_out = state["step"], state.get("seen", {})  # earlier versions did not save "seen"
        load_model(self.model, state["model"])
        if self.average:
            self.average.load(state["average"])
        self.start = state.get("start")
        self.earlier = EarlierPicture.of(state["before"]) if state.get("before") else None
        load_optimizer(self.optimizer, state["optimizer"])
        self.objective.load_state(state["objective"])
        self.metrics.load_state(state["tally"])
        self.unreadable = dict.fromkeys(state["unreadable"])
        set_random_states(state["random"])

    def note_unreadable(self, lines: list[str]) -> list[str]:
        """Takes note of files that could not be read; returns the new ones.

        Raises:
            InvalidSetting: they are more than the set share of the data; of a stream, of what has been seen of it.
        """
        new = [line for line in dict.fromkeys(lines) if line not in self.unreadable]
        self.unreadable |= dict.fromkeys(new)
        images = self.images or max(MIN_SAMPLES, (self.step + 1) * self.settings["batch.size"])
        if new and len(self.unreadable) > self.max_unreadable * images:
            of = f"of {images} files" if self.images else f"of the first {images} samples"
            raise InvalidSetting(
                f"{len(self.unreadable)} {of} cannot be read, more than "
                f"data.max_unreadable={self.max_unreadable} allows; the last: {new[-1]}"
            )
        return new
