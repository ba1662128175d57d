"""A folder that may not be written to: every command says so in one line, before the work, and leaves nothing."""

import contextlib
import re
import shutil

import pytest

from losses import InvalidSetting
from recon.comparison import compare_runs
from recon.convert import ConvertSettings, convert
from recon.evaluation import evaluate_run
from recon.pack import PackedData, PackSettings, pack_dataset
from recon.probing import probe_run
from recon.run_folder import WriteError
from recon.study_config import EvaluateSettings, ProbeSettings
from tests.helpers.permissions import ordinary_user
from tests.helpers.small_runs import PHOTOS
from tests.recon.comparison.conftest import comparing
from tests.recon.training.conftest import pretrain


@pytest.fixture
def place(tmp_path, mse_run):
    """A folder with a run that was not evaluated, in neither of which anything may be written."""
    shutil.copytree(mse_run, tmp_path / "runs/a", ignore=shutil.ignore_patterns("evaluation.*"))
    folders = (tmp_path, tmp_path / "runs", tmp_path / "runs/a")
    for folder in folders:
        folder.chmod(0o555)
    with ordinary_user():
        yield tmp_path
    for folder in folders:
        folder.chmod(0o755)


def refused(place, command, *arguments, error=InvalidSetting) -> str:
    before = sorted(place.rglob("*"))
    with contextlib.chdir(place), pytest.raises(error) as refusal:
        command(*arguments)
    assert sorted(place.rglob("*")) == before
    assert len(str(refusal.value).splitlines()) == 1
    return str(refusal.value)


@pytest.fixture
def idle(monkeypatch):
    """Nothing is measured."""
    monkeypatch.setattr(evaluate_run, "evaluate", None)
    monkeypatch.setattr(compare_runs, "evaluate", None)
    monkeypatch.setattr(probe_run, "all_results", None)


def test_evaluate(place, idle):
    line = refused(place, evaluate_run.evaluate_run, EvaluateSettings(run="runs/a", device="cpu"))
    assert line == "runs/a cannot be written: this user may not write into runs/a"


def test_probe(place, idle):
    assert refused(place, probe_run.probe, ProbeSettings(run="runs/a", device="cpu")).startswith("runs/a cannot be")


def test_compare(place, idle, tmp_path_factory):
    line = refused(place, compare_runs.compare, comparing("runs/a", out="report/new"))
    assert line == "report/new cannot be written: this user may not write into " + str(place)
    line = refused(place, compare_runs.compare, comparing("runs/a", out=str(tmp_path_factory.mktemp("report"))))
    assert re.match("no run could be evaluated: runs/a: runs/a cannot be written", line)


def test_convert(place):
    line = refused(place, convert, ConvertSettings(input="runs/a", out="a.pth"))
    assert line == ". cannot be written: this user may not write into ."


def test_pack(place):
    line = refused(place, pack_dataset, PackSettings(out="a.pack", data=PackedData(name="photos")))
    assert line == ". cannot be written: this user may not write into ."


def test_pretrain(place):
    words = (place, *PHOTOS, "loss=mse", "train.steps=3")
    assert refused(place, pretrain, *words, "name=b", error=WriteError) == "runs/b cannot be written: Permission denied"
    assert refused(place, pretrain, *words, error=WriteError) == "runs cannot be written: Permission denied"
    resumed = refused(place, pretrain, place, "name=a", "resume=true", error=WriteError)
    assert resumed == "runs/a/config.yaml cannot be written: Permission denied"


def test_what_may_not_be_read_is_named(place):
    (place / "runs/a/model.safetensors").chmod(0)
    with (
        contextlib.chdir(place),
        pytest.raises(InvalidSetting, match=r"runs/a/model.safetensors cannot be read .*Perm"),
    ):
        evaluate_run.evaluate_run(EvaluateSettings(run="runs/a", device="cpu"))
    (place / "runs/a/config.yaml").chmod(0)
    with contextlib.chdir(place), pytest.raises(InvalidSetting, match=r"runs/a/config.yaml .*Permission denied"):
        evaluate_run.evaluate_run(EvaluateSettings(run="runs/a", device="cpu"))
