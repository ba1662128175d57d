"""Each tracker gets what metrics.jsonl has, a resumed run goes on in the same one, and no secret leaves."""

import csv
import json
import socket
import sqlite3
import sys
from importlib.machinery import ModuleSpec, PathFinder

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from losses import InvalidSetting
from recon import console
from recon.training.trackers import TRACKED
from recon.training.train_logger import RunLog
from tests.recon.training.conftest import SMALL, lines_of, pretrain, resumed, settings

GRID = torch.linspace(0, 1, 48).view(3, 4, 4)


class Recorder:
    """Stands in for the package wandb: notes every call; fails from the `fails`-th line on."""

    def __init__(self, fails: int = 10**6):
        self.calls, self.lines, self.fails = [], [], fails
        self.Image = lambda pixels: pixels.shape

    def init(self, **told):
        self.calls.append(("init", told))
        return self

    def define_metric(self, *names, **told):
        self.calls.append(("define_metric", names, told))

    def log(self, values):
        if len(self.lines) >= self.fails:
            raise ConnectionError("the server is gone\nat line 3")
        self.lines.append(values)

    def finish(self, **told):
        self.calls.append(("finish", told))


@pytest.fixture
def wandb(monkeypatch):
    def stand_in(**options) -> Recorder:
        recorder = Recorder(**options)
        monkeypatch.setitem(sys.modules, "wandb", recorder)
        return recorder

    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    monkeypatch.delenv("WANDB_DIR", raising=False)
    return stand_in


def test_numbers_pictures_and_the_end_reach_a_tracker(tmp_path, wandb):
    recorder = wandb()
    with RunLog(tmp_path / ".", 0, ("wandb",), {"seed": 3}) as log:
        log.log_metrics(2, {"loss": 0.5, "mse/value": 0.25})
        log.log_picture(2, GRID)
        log.finished = True
    assert recorder.lines == [
        {"step": 2, "loss": 0.5, "mse/value": 0.25},
        {"step": 2, "reconstructions": (4, 4, 3)},
    ]
    began = recorder.calls[0][1]
    assert (began["project"], began["name"], began["config"]) == ("recon", tmp_path.name, {"seed": 3})
    assert recorder.calls[-1] == ("finish", {"exit_code": 0})
    assert not (tmp_path / "tensorboard").exists()


def test_a_resumed_run_has_the_same_id_and_one_begun_again_another(tmp_path, wandb):
    recorder = wandb()
    for start in (0, 4, 6, 0):
        with RunLog(tmp_path, start, ("wandb",)):
            pass
    ids = [told["id"] for name, *rest in recorder.calls if name == "init" for told in rest]
    assert ids[0] == ids[1] == ids[2] != ids[3]
    assert json.loads((tmp_path / TRACKED).read_text()) == {"wandb": ids[3]}
    assert all(told == {"exit_code": 1} for name, *rest in recorder.calls if name == "finish" for told in rest)


def test_neither_secrets_nor_the_machine_s_name_are_handed_over(tmp_path, wandb, monkeypatch):
    recorder = wandb()
    monkeypatch.setenv("WANDB_API_KEY", "local-0123456789")
    told = {"seed": 3, "data.root": "https://me:password@host/pictures"}
    with RunLog(tmp_path, 0, ("wandb",), told) as log:
        log.log_metrics(1, {"loss": 1.0})
    said = repr(recorder.calls) + repr(recorder.lines) + (tmp_path / TRACKED).read_text()
    for secret in ("password", "local-0123456789", socket.gethostname()):
        assert secret not in said.replace(str(tmp_path), "")
    assert "seed" in said


def test_a_tracker_that_fails_on_the_way_is_left_and_the_run_goes_on(tmp_path, wandb):
    recorder, warnings = wandb(fails=1), []
    with RunLog(tmp_path, 0, ("wandb", "csv"), {}, warnings.append) as log:
        for step in (1, 2, 3):
            log.log_metrics(step, {"loss": 1.0 / step})
        log.log_picture(3, GRID)
    assert len(recorder.lines) == 1
    assert warnings == ["log=wandb is given up: the server is gone; metrics.jsonl has all numbers"]
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 3]
    assert len((tmp_path / "csv" / "metrics.csv").read_text().splitlines()) == 4


def test_a_tracker_that_cannot_begin_is_one_line(tmp_path, wandb, monkeypatch):
    recorder = wandb()
    monkeypatch.setattr(recorder, "init", lambda **told: 1 / 0)
    with pytest.raises(InvalidSetting, match=r"^log=wandb cannot begin: division by zero; set it up, or leave it out$"):
        RunLog(tmp_path, 0, ("tensorboard", "wandb"))
    (tmp_path / TRACKED).write_text("{")
    with pytest.raises(InvalidSetting, match=rf"{TRACKED} is damaged"):
        RunLog(tmp_path, 4, ("wandb",))


def test_csv_is_metrics_jsonl_also_after_a_resumption(tmp_path):
    with RunLog(tmp_path, 0, ("csv",)) as log:
        log.log_metrics(2, {"loss": 0.5})
        log.log_metrics(4, {"loss": 0.25, "held_out/masked_psnr": 20.0})
        log.log_metrics(6, {"loss": 9.0})
    with RunLog(tmp_path, 4, ("csv",)) as log:
        log.log_metrics(6, {"loss": 0.125, "mse/value": float("nan")})
    table = list(csv.DictReader((tmp_path / "csv" / "metrics.csv").open()))
    found = [{name: float(cell) for name, cell in line.items() if cell not in ("", "nan")} for line in table]
    assert found == [{k: v for k, v in line.items() if v is not None} for line in lines_of(tmp_path)]
    assert [line["loss"] for line in found] == [0.5, 0.25, 0.125]


@pytest.mark.parametrize("folder", [False, True])
def test_a_missing_package_is_one_line_before_anything_is_written(tmp_path, pictures, monkeypatch, folder):
    """Also beside a folder of its name, such as wandb makes."""
    if folder:
        (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(console, "find_spec", lambda name: PathFinder.find_spec(name, [str(tmp_path)]))
    line = r"^log=wandb: wandb is not installed; pip install 'recon\[wandb\]'$"
    with pytest.raises(InvalidSetting, match=line):
        pretrain(tmp_path, *SMALL, f"data.root={pictures}", "train.steps=1", "log=csv+wandb", "name=x")
    assert not (tmp_path / "runs").exists()


def test_unknown_trackers_and_repeated_ones(monkeypatch):
    monkeypatch.setattr(console, "find_spec", lambda name: ModuleSpec(name, None, origin="there"))
    given, _ = settings("log=mlflow + csv+mlflow")
    assert console.check_trackers(given) == ("mlflow", "csv")
    given.log = "tensorbord"
    with pytest.raises(InvalidSetting, match=r"^log=tensorbord: choose .*trackio; did you mean 'tensorboard'\?$"):
        console.check_trackers(given)


@pytest.mark.slow
def test_the_packages_themselves_keep_what_a_killed_and_resumed_run_logs(tmp_path, pictures, monkeypatch):
    """Offline: wandb's files, mlflow's database and trackio's; the run stops at step 4 of 6, and goes on."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read at its import
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mlflow, *_ = (pytest.importorskip(name) for name in ("mlflow", "trackio", "wandb"))
    words = ["log=wandb+mlflow+trackio+csv+tensorboard", "train.log_every=1", "train.checkpoint_every=2"]
    words += [f"data.root={pictures}", "train.steps=6", "name=x", "train.picture_every=2"]
    real = RunLog.log_metrics

    def killed(log, step, values):
        real(log, step, values)
        if step == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunLog, "log_metrics", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain(tmp_path, *SMALL, *words)
    monkeypatch.setattr(RunLog, "log_metrics", real)
    folder = resumed(tmp_path, "x")
    expected = [line["mse/value"] for line in lines_of(folder)]
    assert len(expected) == 6

    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("recon").experiment_id])
    history = {m.step: m.value for m in client.get_metric_history(found.info.run_id, "mse/value")}
    assert [history[step] for step in range(1, 7)] == pytest.approx(expected)
    assert (found.info.status, found.info.run_name, found.data.params["data.name"]) == ("FINISHED", "x", "folder")
    assert "data.root" not in found.data.params and "cosine/perceptual-mse" in found.data.metrics
    assert [file for file in client.list_artifacts(found.info.run_id, "images") if file.path.endswith(".png")]

    (database,) = (tmp_path / "trackio").glob("*.db")
    rows = sqlite3.connect(database).execute("select run_id, step, metrics from metrics").fetchall()
    numbers = {step: values["mse/value"] for _, step, text in rows if "mse/value" in (values := json.loads(text))}
    assert [numbers[step] for step in range(1, 7)] == pytest.approx(expected) and len({run for run, *_ in rows}) == 1

    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1
    assert json.dumps(expected[-1]).encode() in files[1].read_bytes()
    assert Image.open(next(folder.glob("wandb/offline-run-*/files/media/images/*.png"))).size

    curves = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.value for event in curves.Scalars("mse/value")] == pytest.approx(expected)
    table = list(csv.DictReader((folder / "csv" / "metrics.csv").open()))
    assert [float(line["mse/value"]) for line in table] == pytest.approx(expected)
    kept = json.loads((folder / TRACKED).read_text())
    assert set(kept) == {"wandb", "mlflow", "trackio"}
