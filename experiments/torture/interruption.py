"""Trainings that are killed at any moment: resumed, they end in the bits of one that nothing disturbed."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from experiments.torture.trial import TINY, Trial, environment, fault_of, recon
from recon.run_folder import CONFIG, MODEL, holds_a_run, metric_lines

STEPS = ["train.steps=60", "train.checkpoint_every=5", "train.log_every=1", "loss=adversarial+mse"]
STEPS += ["losses.adversarial.width=8"]


def trials(place: Path, cases: int, seed: int) -> Iterator[Trial]:
    """`cases` trainings, each killed once at any moment after its folder is there, and begun or gone on with again."""
    draw = random.Random(seed)
    process = started(place, "undisturbed")
    began = time.monotonic()
    if process.wait():
        raise RuntimeError("a training that nothing disturbs has failed")
    took = time.monotonic() - began
    expected = (place / "runs" / "undisturbed" / MODEL).read_bytes()
    for i in range(cases):
        name = f"killed-{i}"
        folder, after = place / "runs" / name, draw.uniform(0, took)
        process = started(place, name)
        try:
            process.wait(after)
            yield Trial(f"had ended before {after:.1f} of {took:.1f} s, not killed")
            continue
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        steps = len(metric_lines(folder))
        words = ["resume=true"] if holds_a_run(folder) else [*TINY, *STEPS]
        done = recon(place, "pretrain", *words, f"name={name}")
        fault = fault_of(done) or (f"does not go on: {done.stderr.strip()}" if done.returncode else None)
        if fault is None and (folder / MODEL).read_bytes() != expected:
            fault = "ended in other bits"
        yield Trial(f"killed after {steps} steps, then {words[0]}", fault)


def started(place: Path, name: str) -> subprocess.Popen[bytes]:
    """A training in a process of its own, whose folder is there already."""
    line = [sys.executable, "-m", "recon.pretrain", *TINY, *STEPS, f"name={name}"]
    process = subprocess.Popen(line, cwd=place, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (place / "runs" / name / CONFIG).exists():
        time.sleep(0.01)
    return process
