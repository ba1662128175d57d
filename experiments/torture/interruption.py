"""Trainings that are killed at any moment: resumed, they end in the bits of one that nothing disturbed."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from experiments.torture.trial import TINY, Trial, environment, fault_of, recon

STEPS = ["train.steps=60", "train.checkpoint_every=5", "loss=adversarial+mse", "losses.adversarial.width=8"]


def trials(place: Path, cases: int, seed: int) -> Iterator[Trial]:
    """`cases` trainings, each killed once; some are killed before their first checkpoint, or after their last."""
    draw = random.Random(seed)
    began = time.monotonic()
    done = recon(place, "pretrain", *TINY, *STEPS, "name=undisturbed")
    took = time.monotonic() - began
    if done.returncode:
        raise RuntimeError(done.stderr)
    expected = (place / "runs" / "undisturbed" / "model.safetensors").read_bytes()
    for i in range(cases):
        name, after = f"killed-{i}", draw.uniform(0, took)
        killed = kill(place, name, after)
        fault = None
        if killed and (place / "runs" / name).is_dir():
            done = recon(place, "pretrain", "resume=true", f"name={name}")
            fault = fault_of(done) or (f"not resumed: {done.stderr.strip()}" if done.returncode else None)
        elif killed:
            done = recon(place, "pretrain", *TINY, *STEPS, f"name={name}")  # it had not begun
            fault = fault_of(done)
        model = place / "runs" / name / "model.safetensors"
        if fault is None and (not model.is_file() or model.read_bytes() != expected):
            fault = "resumed to other bits"
        yield Trial(f"killed after {after:.1f} of {took:.1f} s", fault)


def kill(place: Path, name: str, after: float) -> bool:
    """Starts a training and kills it after so many seconds; False where it had ended by itself."""
    line = [sys.executable, "-m", "recon.pretrain", *TINY, *STEPS, f"name={name}"]
    process = subprocess.Popen(line, cwd=place, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(after)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
