"""Real processes, really killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from recon.runs import CHECKPOINT, read_checkpoint
from tests.recon.training.conftest import SMALL, differences, lines_of, resumed, small_run, state_of, timeless

STEPS = 40
WORDS = ["loss=mse+10%adversarial", f"train.steps={STEPS}", "train.checkpoint_every=10", "train.log_every=1"]

# How each process ends, whether the whole group hears it as at a terminal, and its other settings.
ENDS = {
    "killed": (signal.SIGKILL, False, []),
    "terminated": (signal.SIGTERM, False, []),
    "ctrl-c": (signal.SIGINT, True, ["data.workers=2"]),
}


def started(place: Path, *words: str) -> subprocess.Popen[str]:
    """`python -m recon.pretrain ...` in `place`, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "recon.pretrain", *words],
        cwd=place,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def last_step(metrics: Path) -> int:
    lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
    return max([json.loads(line)["step"] for line in lines if line.endswith("\n")], default=0)


@pytest.fixture(scope="module")
def ended(tmp_path_factory, pictures):
    """name -> (folder, exit status, stdout, stderr) of the processes, each stopped at a step drawn by chance."""
    place = tmp_path_factory.mktemp("processes")
    processes = {
        name: started(place, *SMALL, *WORDS, f"data.root={pictures}", f"name={name}", *words)
        for name, (_, _, words) in ENDS.items()
    }
    waiting = {name: random.randint(11, STEPS - 15) for name in ENDS}
    deadline = time.monotonic() + 100
    try:
        while waiting and time.monotonic() < deadline:
            for name, step in list(waiting.items()):
                if last_step(place / "runs" / name / "metrics.jsonl") >= step:
                    number, group, _ = ENDS[name]
                    (os.killpg if group else os.kill)(processes[name].pid, number)
                    del waiting[name]
            time.sleep(0.002)
        found = {}
        for name, process in processes.items():
            out, err = process.communicate(timeout=60)
            found[name] = place / "runs" / name, process.returncode, out, err
        return found
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.kill()


@pytest.fixture(scope="module")
def straight(tmp_path_factory, pictures):
    return small_run(tmp_path_factory.mktemp("straight"), pictures, "straight", *WORDS)


@pytest.mark.parametrize("name", ENDS)
def test_a_process_ended_by_a_signal_says_so_by_its_exit_status(ended, name):
    _, status, out, err = ended[name]
    expected = {"killed": -signal.SIGKILL, "terminated": 143, "ctrl-c": 130}
    assert status == expected[name], out + err
    assert "Traceback" not in err


@pytest.mark.parametrize("name", ["terminated", "ctrl-c"])
def test_a_process_that_was_asked_to_stop_saves_at_that_very_step_and_says_how_to_go_on(ended, name):
    folder, _, out, _ = ended[name]
    step = read_checkpoint(folder / CHECKPOINT)["step"]
    assert 0 < step < STEPS and step == max(line["step"] for line in lines_of(folder))
    assert f"stopped at step {step} of {STEPS}" in out and f"name={name} resume=true" in out


@pytest.mark.parametrize("name", ENDS)
def test_a_run_that_was_ended_resumes_to_the_same_bits(ended, straight, name):
    folder, *_ = ended[name]
    step = read_checkpoint(folder / CHECKPOINT)["step"]
    assert 10 <= step < STEPS and (step % 10 == 0 or name != "killed")
    resumed(folder.parent.parent, name)
    assert differences(state_of(straight), state_of(folder)) == []
    assert (straight / "reconstructions.png").read_bytes() == (folder / "reconstructions.png").read_bytes()
    training = [line for line in lines_of(folder) if "loss" in line]
    assert [line["step"] for line in training] == list(range(1, STEPS + 1))
    assert timeless(lines_of(straight)) == timeless(lines_of(folder))
