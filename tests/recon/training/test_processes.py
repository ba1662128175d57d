"""Real processes, really killed."""

import os
import random
import signal
import time

import pytest

from recon.run_folder import CHECKPOINT, read_checkpoint
from tests.recon.launched import forked, last_step, said
from tests.recon.training.conftest import SMALL, differences, lines_of, resumed, small_run, state_of, timeless

STEPS = 40
WORDS = ["loss=mse+10%adversarial", f"train.steps={STEPS}", "train.checkpoint_every=10", "train.log_every=1"]

# How each process ends, whether the whole group hears it as at a terminal, and its other settings.
ENDS = {
    "killed": (signal.SIGKILL, False, []),
    "terminated": (signal.SIGTERM, False, []),
    "ctrl-c": (signal.SIGINT, True, ["data.workers=2"]),
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory, pictures):
    """name -> (folder, exit status, what it said) of the processes, each stopped at a step drawn by chance."""
    place = tmp_path_factory.mktemp("processes")
    processes = {
        name: forked(place / name, "pretrain", *SMALL, *WORDS, f"data.root={pictures}", f"name={name}", *words)
        for name, (_, _, words) in ENDS.items()
    }
    waiting = {name: random.randint(11, STEPS - 15) for name in ENDS}
    deadline = time.monotonic() + 300
    try:
        while waiting and time.monotonic() < deadline:
            for name, step in list(waiting.items()):
                if last_step(place / name / "runs" / name / "metrics.jsonl") >= step:
                    number, group, _ = ENDS[name]
                    (os.killpg if group else os.kill)(processes[name].pid, number)
                    del waiting[name]
            time.sleep(0.002)
        for process in processes.values():
            process.join(200)
        return {name: (place / name / "runs" / name, of.exitcode, said(place / name)) for name, of in processes.items()}
    finally:
        for process in processes.values():
            process.kill()


@pytest.fixture(scope="module")
def straight(tmp_path_factory, pictures):
    return small_run(tmp_path_factory.mktemp("straight"), pictures, "straight", *WORDS)


def test_a_process_ended_by_a_signal_says_so_by_its_exit_status(ended):
    for name, expected in {"killed": -signal.SIGKILL, "terminated": 143, "ctrl-c": 130}.items():
        _, status, text = ended[name]
        assert status == expected and "Traceback" not in text, text


def test_a_process_that_was_asked_to_stop_saves_at_that_very_step_and_says_how_to_go_on(ended):
    for name in ("terminated", "ctrl-c"):
        folder, _, text = ended[name]
        step = read_checkpoint(folder / CHECKPOINT)["step"]
        assert 0 < step < STEPS and step == max(line["step"] for line in lines_of(folder))
        assert f"stopped at step {step} of {STEPS}" in text and f"name={name} resume=true" in text


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
