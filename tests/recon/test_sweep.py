"""Sweeps side by side: real processes that Hydra's launcher starts."""

import os
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch
import yaml

from losses import InvalidSetting
from recon import sweep
from recon.run_folder import load_checkpoint
from recon.sweep import launcher_of
from tests.recon.launched import last_step
from tests.recon.training.conftest import SMALL, differences, save_pictures, small_run, state_of

pytestmark = pytest.mark.slow


def installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


joblib = pytest.mark.skipif(
    not installed("hydra-joblib-launcher"), reason="hydra-joblib-launcher is not installed: pip install 'recon[sweep]'"
)
LOSSES = ("mse", "mse+0.5*l1")
THREADS = 1  # of each run: another number adds in another order
SIDE_BY_SIDE = ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return save_pictures(tmp_path_factory.mktemp("pictures"))


def started(place, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "recon.pretrain", *SIDE_BY_SIDE, *SMALL, *words],
        cwd=place,
        env=os.environ | {"OMP_NUM_THREADS": f"{THREADS}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def as_many_threads():
    """This process computes with as many threads as each run of a sweep."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def swept(tmp_path_factory, pictures):
    """Where two runs and an invalid setting were swept, exit status, stdout, stderr."""
    place = tmp_path_factory.mktemp("swept")
    process = started(place, f"data.root={pictures}", "train.steps=2", f"loss={','.join(LOSSES)},mes")
    out, err = process.communicate(timeout=500)
    return place, process.returncode, out, err


@joblib
@pytest.mark.usefixtures("as_many_threads")
def test_runs_side_by_side_are_those_that_each_would_be_alone(swept, pictures, tmp_path):
    place, _, out, err = swept
    runs = {yaml.safe_load(path.read_text())["loss"]: path.parent for path in place.glob("runs/*/config.yaml")}
    assert runs.keys() == set(LOSSES), out + err
    for i, loss in enumerate(LOSSES):
        alone = small_run(tmp_path, pictures, f"{i}", f"loss={loss}", "train.steps=2")
        assert differences(state_of(alone), state_of(runs[loss])) == []


@joblib
def test_what_is_wrong_in_another_process_is_one_line_and_the_exit_status_here(swept):
    place, status, _, err = swept
    assert status == 2
    assert err.count("unknown loss term 'mes'") == 1 and "Traceback" not in err
    assert len(err.splitlines()) == 1
    assert [path.name for path in place.iterdir()] == ["runs"] and len(list((place / "runs").iterdir())) == 2


@joblib
@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_a_signal_ends_the_sweep_with_all_its_runs_and_one_line(tmp_path, pictures):
    words = [f"data.root={pictures}", "train.steps=100000", "train.log_every=1", "train.checkpoint_every=2"]
    process = started(tmp_path, *words, "loss=mse,l1,mse+l1")
    try:
        deadline = time.monotonic() + 400
        while sum(last_step(path) > 2 for path in tmp_path.glob("runs/*/metrics.jsonl")) < 2:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)  # its end: no other process writes to its streams
    finally:
        process.kill()
    assert process.returncode == 143, err
    assert err.count("go on with each by name=NAME resume=true") == 1 and "Traceback" not in err, err
    folders = list((tmp_path / "runs").iterdir())
    assert len(folders) == 2 and all(load_checkpoint(folder)[0]["step"] >= 2 for folder in folders)


@pytest.mark.parametrize(("launcher", "extra"), [("joblib", "sweep"), ("submitit_slurm", "slurm")])
def test_a_missing_launcher_is_told_with_its_remedy(monkeypatch, launcher, extra):
    def missing(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(sweep, "version", missing)
    with pytest.raises(InvalidSetting, match=rf"hydra/launcher={launcher} needs .*: pip install 'recon\[{extra}\]'$"):
        launcher_of(["-m", f"hydra/launcher={launcher}"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hydra/launcher=joblib"], "add -m"),
        (["-m", "hydra/launcher=submitit_slurm", "hydra.launcher.tasks_per_node=8"], "tasks_per_node.*set it to 1"),
    ],
)
def test_a_launcher_without_a_use_is_refused(monkeypatch, words, said):
    monkeypatch.setattr(sweep, "version", lambda package: "1")
    with pytest.raises(InvalidSetting, match=said):
        launcher_of(words)


def test_not_under_torchrun(monkeypatch):
    monkeypatch.setattr(sweep, "version", lambda package: "1")
    monkeypatch.setattr(sweep, "under_torchrun", lambda: True)
    with pytest.raises(InvalidSetting, match="not under torchrun"):
        launcher_of(["-m", "hydra/launcher=joblib"])
    assert launcher_of(["-m", "loss=mse,l1"]) == "basic"
