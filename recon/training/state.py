"""A run: everything that trains, and how far it has come."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from losses import InvalidSetting
from losses.objective import Objective, Result
from recon.model import MaskedAutoencoder
from recon.training.device import full_state, load_model, load_optimizer, local_part
from recon.training.online_probe import OnlineProbe
from recon.training.optim import WeightAverage
from recon.training.preview import EarlierPicture

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
    log: tuple[str, ...] = ("tensorboard",)  # names of trackers


PARTS = ("/loss", "/weighted_norm")


class MetricAccumulator:
    """Means over the steps that were taken, and counts of the skipped ones by the term whose gradient was not finite.

    A term that is evaluated at every k-th step has its numbers averaged over those steps; its weight, its part of the
    loss and its weighted gradient norm are divided by k, so that the loss and the gradient shares are those of a term
    evaluated at every step. A line of the log without any of its steps takes these from the last line that had some.

    Reading (`means`, `skipped`, `skipped_in_a_row`) waits for the device; recording never does.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.sums: dict[tuple[str, ...], Tensor] = {}  # by the curves that a step has: their sums, and how many steps
        self.parts: dict[str, float] = {}  # each term's part of the loss and its weighted gradient norm, as last known
        self.skipped_by: dict[str, Tensor] = {}
        self.row = self._zero()

    def record(self, results: list[Result], objective: Objective, norm: Tensor, good: Tensor) -> None:
        """One optimiser step of one result per micro-batch: `norm` is the gradient's, `good` whether it was taken."""
        curves = self._curves(results, objective, norm)
        values = torch.stack([value.float() for value in (*curves.values(), torch.ones_like(norm))])
        self.sums[tuple(curves)] = self.sums.get(tuple(curves), 0.0) + torch.where(good, values, 0.0)
        self.row = (self.row + 1) * ~good
        explained = self._zero().bool()
        faults = [objective.at_fault(result) for result in results]
        for name in results[0].terms:
            at_fault = ~good & torch.stack([fault[name] for fault in faults]).any()
            self.skipped_by[name] = self.skipped_by.get(name, self._zero()) + at_fault
            explained |= at_fault
        self.skipped_by["model"] = self.skipped_by.get("model", self._zero()) + (~good & ~explained)

    def means(self) -> dict[str, float]:
        """Means since the last call, for one line of the log; empty where every step was skipped."""
        totals, counts = Counter(), Counter()
        for curves, sums in self.sums.items():
            *of_curves, steps = sums.tolist()
            totals.update(dict(zip(curves, of_curves, strict=True)))
            counts.update(dict.fromkeys(curves, steps))
        self.sums = {}
        means = {key: total / counts[key] for key, total in totals.items() if counts[key]}
        self.parts |= {key: means.pop(key) for key in list(means) if key.endswith(PARTS)}
        return _with_shares(means, self.parts) if means else {}

    def skipped(self) -> dict[str, int]:
        """Steps skipped for a gradient that was not finite, by the term at fault; `model`: no term was."""
        return {name: int(count) for name, count in self.skipped_by.items() if int(count)}

    def skipped_in_a_row(self) -> int:
        """How many of the last steps in a row were skipped."""
        return int(self.row)

    def state(self) -> dict[str, object]:
        skipped = {"skipped_by": dict(self.skipped_by), "row": self.row}
        return {"rows": dict(self.sums), "parts": dict(self.parts)} | skipped

    def load_state(self, state: dict) -> None:
        def today(curve: str) -> str:  # earlier versions had another name, and did not save "rows" and "parts"
            return curve.replace("/push", "/weighted_norm")

        self.sums = {tuple(map(today, curves)): sums.to(self.device) for curves, sums in state.get("rows", {}).items()}
        self.parts = {today(key): part for key, part in state.get("parts", {}).items()}
        self.skipped_by = {name: count.to(self.device) for name, count in state["skipped_by"].items()}
        self.row = state["row"].to(self.device)

    def _zero(self) -> Tensor:
        return torch.zeros((), device=self.device)

    def _curves(self, results: list[Result], objective: Objective, norm: Tensor) -> dict[str, Tensor]:
        def mean(values: list[Tensor]) -> Tensor:
            return torch.stack(values).mean() if len(values) > 1 else values[0]

        curves = {"gradient_norm": norm}
        for name in results[0].terms:
            term, of_term = objective.terms[name], [r.terms[name] for r in results]
            curves[f"{name}/value"] = mean([t.value for t in of_term])
            curves[f"{name}/weight"] = mean([t.weight for t in of_term]) / term.every
            curves[f"{name}/gradient_norm"] = mean([t.gradient_norm for t in of_term])
            curves[f"{name}/loss"] = mean([t.weight * t.value for t in of_term]) / term.every
            curves[f"{name}/weighted_norm"] = mean([t.weight * t.gradient_norm for t in of_term]) / term.every
            curves |= {f"{name}/{key}": value for key, value in term.logs().items()}
        for pair in results[0].cosines:
            curves[f"cosine/{pair[0]}~{pair[1]}"] = mean([r.cosines[pair] for r in results])
        return curves


def _with_shares(means: dict[str, float], parts: dict[str, float]) -> dict[str, float]:
    """The means with the loss, and with each term's share of the summed weighted gradient norms."""
    norms = {key.removesuffix("/weighted_norm"): part for key, part in parts.items() if key.endswith("/weighted_norm")}
    loss = sum(parts[f"{name}/loss"] for name in norms)
    total = sum(norms.values())
    shares = {f"{name}/gradient_share": norm / total if total > 0 else 0.0 for name, norm in norms.items()}
    return {"loss": loss} | means | shares


@dataclass
class Run:
    """Everything that trains, and how far it has come. `step` counts finished optimiser steps."""

    folder: Path
    settings: dict[str, Any]  # by key, saved with every checkpoint
    model: MaskedAutoencoder
    objective: Objective
    optimizer: torch.optim.Optimizer
    metrics: MetricAccumulator
    images: int  # in the training data; 0: a stream that does not tell
    max_unreadable: float
    average: WeightAverage | None = None  # of train.ema
    online_probe: OnlineProbe | None = None
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
            "online_probe": self.online_probe.state() if self.online_probe else {},
            "start": self.start,
            "before": self.earlier.state() if self.earlier else None,
            "optimizer": full_state(self.optimizer.state_dict()),
            "objective": self.objective.state(),
            "tally": self.metrics.state(),
            "unreadable": list(self.unreadable),
            "random": random_states(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from a `state`."""
        self.step, self.held_out = state["step"], state.get("seen", {})  # earlier versions did not save "seen"
        load_model(self.model, state["model"])
        if self.average:
            self.average.load(state["average"])
        if self.online_probe and (learnt := state.get("online_probe")):  # which a run may begin or end on its way
            self.online_probe.load_state(learnt)
        self.start = state.get("start")
        self.earlier = EarlierPicture.of(state["before"]) if state.get("before") else None
        load_optimizer(self.optimizer, state["optimizer"])
        self.objective.load_state(state["objective"])
        self.metrics.load_state(state["tally"])
        self.unreadable = dict.fromkeys(state["unreadable"])
        set_random_states(state["random"])

    def check_data(self, state: dict[str, Any]) -> None:
        """Raises InvalidSetting where a `state` was made on other data."""
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

    def is_finite(self) -> bool:
        """Whether all weights are, those of critics and averages too; waits for the device."""
        averages = self.average.weights.values() if self.average else ()
        weights = [*self.model.parameters(), *self.objective.parameters(), *averages]
        return bool(torch.stack([local_part(w).isfinite().all() for w in weights]).all())

    def note_unreadable(self, lines: list[str]) -> list[str]:
        """Takes note of files that could not be read; returns the new ones.

        Raises InvalidSetting where they are more than the set share of the data; of a stream, of what has been seen.
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


def random_states() -> dict[str, Any]:
    """The random generators of every device in use."""
    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():  # a run may go on with fewer devices, or more
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])
