"""Runs of real processes under torchrun, on CPUs through gloo, and what two runs left compared."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from recon.run_folder import CHECKPOINT, read_checkpoint
from tests.recon.launched import last_step, processes_of, torchrun
from tests.recon.training.conftest import lines_of

# Rounding alone: sums over images in another order. In 8 steps we saw at most 2e-6 in the weights, 5e-6 in momentum.
# Most of the former is in the attention's key biases, whose true gradient is zero, so that Adam steps by its rounding.
TOLERANCE = 2e-5

EVERY = ["mse", "norm_mse+0.3*l1", "perceptual+mse", "adversarial+mse", "10%perceptual+80%adversarial+mse"]
STEPS = ["train.steps=8", "train.checkpoint_every=4", "losses.adversarial.generator_full=0.5"]
ENDING = ["loss=norm_mse+20%adversarial", "train.steps=24", "train.checkpoint_every=5", "train.log_every=1"]


def distance(a: dict, b: dict) -> float:
    """Of two trees of tensors with the same names, relative to the length of the first."""
    pairs = [(a[name].double(), b[name].double()) for name in a]
    return float((sum((u - v).square().sum() for u, v in pairs) / sum(u.square().sum() for u, _ in pairs)).sqrt())


def momentum(state: dict) -> dict[int, torch.Tensor]:
    """AdamW's, by the parameter's number, from a checkpoint."""
    return {i: of["exp_avg"] for i, of in state["optimizer"]["state"].items()}


def assert_same_but_for_rounding(left: Path, right: Path) -> None:
    """Two finished runs: weights, optimiser, critics, what is drawn next, and the log."""
    one, two = (read_checkpoint(folder / CHECKPOINT) for folder in (left, right))
    assert one["step"] == two["step"] and one["unreadable"] == two["unreadable"]
    assert distance(one["model"], two["model"]) < TOLERANCE
    assert distance(momentum(one), momentum(two)) < TOLERANCE
    assert one["objective"].keys() == two["objective"].keys()
    for term, state in one["objective"].items():
        assert distance(state["module"], two["objective"][term]["module"]) < TOLERANCE
    assert torch.equal(one["random"]["cpu"], two["random"]["cpu"])
    for a, b in zip(lines_of(left), lines_of(right), strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - {"images_per_second"}:
            assert a[key] == pytest.approx(b[key], rel=1e-4, abs=1e-5), key


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def ended_on_the_way(
    place: Path, ends: dict[str, tuple[int | None, signal.Signals]], *words: str
) -> dict[str, tuple[Path, int]]:
    """Name -> where a run of two processes ran, and its launcher's exit status.

    Args:
        ends: name -> whom, after the seventh step, which signal hits: a rank, or the launcher where it is None.
    """
    launched = {name: torchrun(place / name, "pretrain", *words, f"name={name}") for name in ends}
    ranks: list[int] = []
    waiting, deadline = set(ends), time.monotonic() + 400
    try:
        while waiting and time.monotonic() < deadline:
            for name in list(waiting):
                if last_step(place / name / "runs" / name / "metrics.jsonl") >= 7:
                    rank, number = ends[name]
                    launcher, own = launched[name], processes_of(launched[name])
                    ranks += own.values()
                    os.kill(launcher.pid or 0 if rank is None else own[rank], number)
                    waiting.remove(name)
            time.sleep(0.005)
        for process in launched.values():
            process.join(200)
        deadline = time.monotonic() + 60
        while any(map(alive, ranks)) and time.monotonic() < deadline:  # ranks of a launcher that was killed
            time.sleep(0.05)
        assert not any(map(alive, ranks))
        return {name: (place / name, process.exitcode) for name, process in launched.items()}
    finally:
        for process in launched.values():
            process.terminate()
