"""Real processes, on CPUs through gloo: two do what one does, and end together."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml

from losses import InvalidSetting
from recon.config import check
from recon.distributed import Ranks
from recon.run_folder import CHECKPOINT, read_checkpoint
from recon.training.device import make_fabric
from tests.recon.launched import last_step, ranks, said, torchrun, wait
from tests.recon.training.conftest import (
    SMALL,
    as_killed_after_its_first_checkpoint,
    lines_of,
    resumed,
    settings,
    small_run,
)
from tests.recon.training.launched import (
    ENDING,
    EVERY,
    STEPS,
    TOLERANCE,
    assert_same_but_for_rounding,
    distance,
    ended_on_the_way,
)

pytestmark = pytest.mark.distributed


WORDS = [*STEPS, "optim.clip=0.5", "losses.adversarial.gan_loss=relativistic"]


def assert_two_do_what_one_does(place, pictures, losses, start) -> None:
    """One process, and two that `start` starts, both with gradients accumulated over two micro-batches."""
    words = [*SMALL, *WORDS, f"data.root={pictures}", "batch.per_device=2"]
    launched = start(place / "two", "pretrain", "-m", *words, f"loss={','.join(losses)}")
    one = [
        small_run(place, pictures, f"{i}", *WORDS, "batch.per_device=4", f"loss={loss}")
        for i, loss in enumerate(losses)
    ]
    assert set(wait(*launched)) == {0}, said(place / "two")
    configs = (place / "two" / "runs").glob("*/config.yaml")
    two = {yaml.safe_load(config.read_text())["loss"]: config.parent for config in configs}
    for loss, run in zip(losses, one, strict=True):
        assert_same_but_for_rounding(run, two[loss])


@pytest.mark.parametrize("losses", [EVERY[1::2], pytest.param(EVERY[:-1:2], marks=pytest.mark.slow)], ids=" ".join)
def test_two_processes_do_what_one_does_with_the_same_batches(tmp_path, pictures, losses):
    assert_two_do_what_one_does(tmp_path, pictures, losses, ranks)


def test_two_processes_that_torchrun_started_do_so(tmp_path, pictures):
    assert_two_do_what_one_does(tmp_path, pictures, EVERY[-1:], lambda *words: [torchrun(*words)])


@pytest.fixture(scope="module")
def straight(tmp_path_factory, pictures):
    """One process, never stopped."""
    return small_run(tmp_path_factory.mktemp("straight"), pictures, "straight", *ENDING)


# Name -> which rank is hit, None: the launcher; and by which signal.
ENDS = {
    "killed": (0, signal.SIGKILL),
    "asked": (1, signal.SIGTERM),
    "all": (None, signal.SIGTERM),
    "alone": (None, signal.SIGKILL),  # the launcher, without a word to its ranks
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory, pictures):
    """Name -> where runs of two processes ran, and their launcher's exit status."""
    place = tmp_path_factory.mktemp("ended")
    return ended_on_the_way(place, ENDS, *SMALL, *ENDING, f"data.root={pictures}")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes in /proc")
@pytest.mark.slow
class TestEnds:
    def test_where_one_is_killed_all_end_and_one_line_says_so(self, ended):
        """Even where it is the first, which otherwise speaks."""
        place, status = ended["killed"]
        assert status != 0
        out = (place / "out").read_text()
        assert out.count("another process of the run is gone") == 1 and "name=killed resume=true" in out
        assert "recon/training" not in (place / "err").read_text()  # no traceback but the launcher's own
        assert read_checkpoint(place / "runs" / "killed" / CHECKPOINT)["step"] in range(5, 24, 5)

    @pytest.mark.parametrize("name", ["asked", "all", "alone"])
    def test_where_one_or_all_are_asked_to_stop_all_stop_after_the_same_step_and_the_first_saves(self, ended, name):
        place, status = ended[name]
        folder = place / "runs" / name
        step = read_checkpoint(folder / CHECKPOINT)["step"]
        assert status != 0 and 7 <= step < 24 and step == max(line["step"] for line in lines_of(folder))
        assert (place / "out").read_text().count(f"stopped at step {step} of 24") == 1
        assert "recon/training" not in (place / "err").read_text()

    @pytest.mark.parametrize("name", ENDS)
    def test_one_process_goes_on_where_two_ended(self, ended, straight, name):
        place, _ = ended[name]
        assert_same_but_for_rounding(straight, resumed(place, name))


@pytest.mark.slow
def test_two_processes_go_on_where_one_ended(tmp_path, pictures):
    words = ["loss=norm_mse+20%adversarial", *STEPS]
    straight = small_run(tmp_path, pictures, "straight", *words)
    killed = as_killed_after_its_first_checkpoint(straight, "killed")
    assert wait(*ranks(tmp_path, "pretrain", "name=killed", "resume=true")) == [0, 0], said(tmp_path)
    assert (tmp_path / "out").read_text().count("from step 4") == 1
    assert_same_but_for_rounding(straight, killed)


@pytest.mark.slow
def test_two_processes_begin_warm_as_one_does(tmp_path, pictures):
    """A decoder alone, from a run's weights, averaged: all read one start, and none has another's."""
    begun = small_run(tmp_path, pictures, "begun", *STEPS, "loss=mse")
    words = ["loss=feature_matching+mse", f"init={begun}", "train.parts=decoder", "train.ema=0.5", *STEPS]
    one = small_run(tmp_path, pictures, "one", *words)
    launched = ranks(tmp_path, "pretrain", *SMALL, f"data.root={pictures}", "name=two", *words)
    assert wait(*launched) == [0, 0], said(tmp_path)
    two = tmp_path / "runs" / "two"
    assert_same_but_for_rounding(one, two)
    averages = [read_checkpoint(folder / CHECKPOINT)["average"] for folder in (one, two)]
    assert distance(*averages) < 4 * TOLERANCE  # of the decoder alone, not of the model: 2.5e-5 seen


@pytest.mark.slow
def test_what_is_wrong_is_told_in_one_line_for_all_and_leaves_nothing(tmp_path, pictures):
    words = [*SMALL, f"data.root={pictures}", "loss=mse", "name=wrong", "batch.size=7"]
    assert wait(torchrun(tmp_path, "pretrain", *words)) != [0]
    assert {path.name for path in tmp_path.iterdir()} == {"out", "err"} and (tmp_path / "out").read_text() == ""
    err = (tmp_path / "err").read_text()
    assert err.count("batch.size=7 is not a multiple of the 2 processes\n") == 1 and "exitcode  : 2 " in err, err
    assert "recon/training" not in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["batch.size=7"], "batch.size=7 is not a multiple of the 2 processes"),
        (["batch.size=8", "batch.per_device=8"], "batch.size=8 .* batch.per_device=8 x 2 processes"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused(words, said):
    check(settings("loss=mse", *words)[0])
    with pytest.raises(InvalidSetting, match=said):
        check(settings("loss=mse", *words)[0], processes=2)


def test_one_device_for_two_processes_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for device in ("cuda", "cuda:0"):
        with pytest.raises(InvalidSetting, match=rf"^device={device} is too little for 2 processes on this machine"):
            make_fabric(device, "fp32", Ranks(rank=1, count=2))
    with pytest.raises(InvalidSetting, match="2 processes"):
        make_fabric("cuda", "fp32", Ranks(rank=3, count=4, nodes=2))


@pytest.mark.slow
def test_a_process_that_is_asked_to_stop_does_not_wait_for_ever_for_one_that_hangs(tmp_path, pictures):
    words = [*SMALL, *ENDING, f"data.root={pictures}", "name=hung", "train.steps=100000"]
    asked, hung = ranks(tmp_path, "pretrain", *words)
    try:
        deadline = time.monotonic() + 200
        while last_step(tmp_path / "runs" / "hung" / "metrics.jsonl") < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(hung.pid or 0, signal.SIGSTOP)
        time.sleep(1)
        os.kill(asked.pid or 0, signal.SIGINT)
        asked.join(100)
        assert asked.exitcode == 130, said(tmp_path)
        assert said(tmp_path).count("another process does not answer") == 1
    finally:
        for process in (asked, hung):
            process.kill()
