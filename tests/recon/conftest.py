"""Typing a command, and the small trained runs that the tests of evaluation, comparison and probing share."""

import shutil
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from recon import cli as command
from recon.config import Settings
from recon.evaluation.evaluate_run import evaluate
from recon.evaluation.evaluator import load_suite
from recon.evaluation.results import Evaluation, read, write
from recon.loaded_run import open_run
from recon.training.pretraining import pretrain
from tests.helpers.small_runs import measuring, once_for_all_workers, trained


@pytest.fixture
def type_in(tmp_path, monkeypatch, capfd):
    """Types a command in an empty folder: arguments -> exit status, stdout, stderr. `task` stands in for training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def typed(*arguments: str, task=pretrain) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pretrain.py", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            about = "Trains a masked autoencoder."
            command.run(task, command.Command("pretrain", about, less_memory="lower batch.per_device"))
        GlobalHydra.instance().clear()
        out, err = capfd.readouterr()
        return end.value.code or 0, out, err

    return typed


@pytest.fixture
def settings_of(type_in):
    """Arguments -> the settings and the given keys that training would be handed, one pair per run of a sweep."""

    def understood(*arguments: str) -> list[tuple[Settings, frozenset[str]]]:
        found = []
        status, _, err = type_in(*arguments, task=lambda settings, given: found.append((settings, given)))
        assert status == 0, err
        return found

    return understood


@pytest.fixture(scope="session")
def small_runs(tmp_path_factory) -> Path:
    """A folder `runs` of two runs, each trained for three steps on the embedded photographs at 16 pixels, patches of 4.

    `one`: loss=mse. `<script>two`: loss=norm_mse seed=1, with an honest and an oracle row. Both are evaluated under
    `measuring()`, on the same images. All tests and workers share them: change a copy (the fixture `copy_of`), never
    the folders themselves. To compare or evaluate them under other settings would change them.
    """

    def make(place: Path) -> None:
        runs = [trained(place, "one", "loss=mse"), trained(place, "<script>two", "loss=norm_mse", "seed=1")]
        suite, before = load_suite(measuring()), None
        for run in runs:
            before = evaluate(open_run(run), measuring(), suite, before)
            write(run, before)

    return once_for_all_workers(tmp_path_factory, "small", make) / "runs"


@pytest.fixture(scope="session")
def mse_run(small_runs) -> Path:
    """The run `one` of `small_runs`."""
    return small_runs / "one"


@pytest.fixture(scope="session")
def norm_mse_run(small_runs) -> Path:
    """The run `<script>two` of `small_runs`."""
    return small_runs / "<script>two"


@pytest.fixture(scope="session")
def evaluation(norm_mse_run) -> Evaluation:
    """That of the run `<script>two`, as it was written."""
    return read(norm_mse_run)


@pytest.fixture
def copy_of(tmp_path):
    """Copies a run's folder, its evaluation too, to runs/NAME (by default its own name) in the test's own folder."""

    def copied(run: Path, name: str | None = None) -> Path:
        return Path(shutil.copytree(run, tmp_path / "runs" / (name or run.name)))

    return copied


@pytest.fixture
def without_drawing(monkeypatch) -> None:
    """The reports of a test show no plots: to draw them takes most of a comparison's time. Their data is computed."""
    monkeypatch.setattr("recon.report.page.svg", lambda plot, styles: "")
    monkeypatch.setattr("recon.report.plots.write_png", lambda plot, styles, path: path.touch())
