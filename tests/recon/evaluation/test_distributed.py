"""Evaluation by real processes under torchrun: two measure what one measures, and end together."""

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from recon.evaluation import results as record
from recon.evaluation.evaluate_run import evaluate_run
from tests.recon.evaluation.conftest import measuring
from tests.recon.launched import processes_of, said, torchrun
from tests.recon.training.conftest import bits, contents, save_pictures, small_run

pytestmark = pytest.mark.slow

# Of the photographs 13 images in batches of 5: the last is smaller. The other run's data has 3: less than a batch each.
QUICK = {"images": 13, "batch": 5, "ratios": [0.5, 0.9]}
WORDS = ["device=cpu", "images=13", "batch=5", "training_images=64", "pictures=3", "ratios=[0.5,0.9]"]
WORDS.append("lpips.weights=nowhere.safetensors")
RUNS = ("plain", "few")


@pytest.fixture(scope="module")
def places(tmp_path_factory, run):
    """Where one process has evaluated both runs, and where two have, with a run between that is not there."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    small_run(one, save_pictures(tmp_path_factory.mktemp("pictures")), "few", "loss=mse", "train.steps=2")
    shutil.copytree(run, one / "runs" / "plain", ignore=shutil.ignore_patterns("evaluation.*"))
    shutil.copytree(one / "runs", two / "runs")
    launched = torchrun(two, "evaluate", "-m", "run=runs/plain,runs/nowhere,runs/few", *WORDS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of the two has: sums may be taken in another order by more
    with contextlib.chdir(one):
        for name in RUNS:
            assert evaluate_run(measuring(run=f"runs/{name}", **QUICK)) == 0
    torch.set_num_threads(threads)
    launched.wait(200)
    return one, two


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_write_what_one_writes(places, name):
    """To the bit: a batch is measured by one process, as it would be by one alone."""
    one, two = (place / "runs" / name for place in places)
    assert (one / record.JSON).read_bytes() == (two / record.JSON).read_bytes(), said(places[1])
    ours, theirs = (record.read(folder).tensors for folder in (one, two))
    assert ours.keys() == theirs.keys() >= {"run/masked_psnr", "run/kid", "ridge/moments", "masks"}
    for key, values in ours.items():
        assert torch.equal(bits(values), bits(theirs[key])), key
    assert len(ours["run/masked_psnr"]) == {"plain": 13, "few": 3}[name]
    assert contents(one).keys() == contents(two).keys()  # and nothing else is left behind


def test_the_first_alone_speaks_and_what_is_wrong_is_told_once(places):
    _, two = places
    out, err = (two / "out").read_text(), (two / "err").read_text()
    assert out.count("13 held-out images of photos") == 1 and out.count("3 held-out images of folder") == 1
    assert err.count("there is no run runs/nowhere (runs/ has few, plain)\n") == 1
    assert err.count("exitcode  : 2 ") == 2 and "recon/" not in err  # both end with status 2


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes in /proc")
@pytest.mark.parametrize("rank", [0])
def test_where_one_is_killed_all_end_and_one_line_says_so(tmp_path, run, rank):
    """Even where it is the first, which otherwise speaks."""
    shutil.copytree(run, tmp_path / "runs" / "plain", ignore=shutil.ignore_patterns("evaluation.*"))
    before = contents(tmp_path / "runs")
    words = [word for word in WORDS if not word.startswith("images")]
    launched = torchrun(tmp_path, "evaluate", "run=runs/plain", *words, "images=100000")
    try:
        deadline = time.monotonic() + 100
        while "metrics" not in said(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(processes_of(launched)[rank], signal.SIGKILL)
        assert launched.wait(60) != 0
    finally:
        launched.terminate()
    assert (tmp_path / "out").read_text().count("ended: another process is gone, or all were asked to end") == 1
    assert "recon/" not in (tmp_path / "err").read_text(), said(tmp_path)  # no traceback but the launcher's own
    assert contents(tmp_path / "runs") == before
