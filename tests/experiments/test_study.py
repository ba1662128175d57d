"""One command trains, measures and records a study, goes on where it was stopped, and then changes nothing."""

import csv
import hashlib
import os
import re
from types import SimpleNamespace

import pytest
import torch
import yaml

from experiments.study import __main__ as command
from experiments.study import definition, jobs
from experiments.study.definition import Study
from experiments.study.measured import Measurements
from experiments.study.record import table
from experiments.study.run_values import rows_of
from losses import InvalidSetting
from losses.expression import defaults, parse
from recon.config import check
from recon.evaluation import results
from recon.result_table import RowInfo
from recon.run_folder import MODEL
from recon.saved_settings import settings_from

TINY = {
    "question": "Is l1 another thing than mse?",
    "settings": {"data": "dead_leaves", "data.image_size": 32, "model": "nano", "model.patch_size": 8}
    | {"model.decoder_depth": 1, "train.steps": 6, "batch.size": 4, "precision": "fp32"},
    "variants": {"mse": {"loss": "mse"}, "l1": {"loss": "l1"}},
    "seeds": [0, 1],
    "reference": "mse",
    "measured": {"masked_psnr": "PSNR dB", "detail": "detail", "coherence": "coherence"},
    "evaluate": {"images": 16, "ratios": [], "training_images": 16, "pictures": 4},
    "figure": ["detail", "masked_psnr"],
}


def written(path, **changes):
    path.write_text(yaml.safe_dump(TINY | changes, sort_keys=False))
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(definition, "STUDIES", tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.getcwd() if not (root := os.environ.get("PYTHONPATH")) else root)
    return tmp_path


def test_runs_have_names_of_their_own_and_know_their_seed():
    study = Study("", {"a": 1, "b": 1}, {"x": {"b": 2, "init": "runs/s-y-{seed}"}}, [3, 4], "x", {})
    assert study.runs("s") == {
        ("x", 3): {"name": "s-x-3", "seed": 3, "a": 1, "b": 2, "init": "runs/s-y-3"},
        ("x", 4): {"name": "s-x-4", "seed": 4, "a": 1, "b": 2, "init": "runs/s-y-4"},
    }


def test_every_study_of_the_project_can_be_read():
    for path in sorted(definition.STUDIES.glob("*.yaml")):
        study = definition.read(path)
        assert study.runs_of in ("", *definition.names())
        for run in list(study.runs(path.stem).values())[: len(study.variants)]:  # those of the first seed
            length = {"train.epochs": None} if "train.steps" in run else {}
            settings = settings_from({jobs.full_key(key): value for key, value in (run | length).items()})
            check(settings, 1)
            assert parse(settings.loss, defaults()).terms


def test_a_run_under_the_name_of_another_study_is_that_study_s_run():
    """It is measured as there, as otherwise each study would measure it anew, over the other's results."""
    studies = {name: definition.read(definition.path_of(name)) for name in definition.names()}
    runs = [(name, run) for name, study in studies.items() if not study.runs_of for run in study.runs(name).values()]
    own = {run["name"]: (name, run) for name, run in runs if run["name"].startswith(f"{name}-")}
    shared = [(name, run) for name, run in runs if own[run["name"]][0] != name]
    assert len(shared) > 30
    for name, run in shared:
        owner, same = own[run["name"]]
        assert run == same
        assert studies[name].evaluate in (None, studies[owner].evaluate)
        assert studies[name].probe in (None, studies[owner].probe)


def test_what_evaluates_nothing_is_probed_after_training(here, monkeypatch):
    study = Study("", {}, {"a": {}}, [0], "a", {}, evaluate=None, probe={"probe": "linear"})
    monkeypatch.setattr(command, "training", lambda *given: None)
    monkeypatch.setattr(command, "probing", lambda name, settings: (name, settings["probe"]))
    assert command.next_job(study, here, "a", study.runs("s")["a", 0], {})() == ("s-a-0", "linear")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reference": "l3"}, "reference 'l3' is not among mse, l1"),
        ({"figure": ["detail", "seen"]}, "figure 'seen' is not among"),
        ({"seeds": [0, 0]}, "seeds, each once"),
        ({"variants": {"mse": {"name": "a"}}}, "have the same name"),
        ({"evaluate": None, "probe": {"probe": "linear+knn"}}, "no probe measures 'masked_psnr'"),
        ({"colour": 1}, "unknown: colour"),
        ({"seeds": "three"}, "is no study"),
    ],
)
def test_a_study_that_cannot_be_is_one_line(here, changes, said):
    with pytest.raises(InvalidSetting, match=said) as found:
        definition.read(written(here / "tiny.yaml", **changes))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name one study"),
        (["tine"], "there is no study 'tine'; did you mean 'tiny'"),
        (["tiny", "job=2"], "'job' is no setting; did you mean 'jobs'"),
        (["tiny", "jobs=none"], "jobs=none must be a number"),
        (["tiny", "minutes=-1"], "minutes=-1 must be a number"),
        (["tiny", "columns=details"], "'details' is not measured; did you mean 'detail'"),
        (["tiny", "columns=detail"], "no run of the reference, mse, is recorded yet"),
    ],
)
def test_what_cannot_be_understood_is_one_line(here, words, said):
    written(here / "tiny.yaml")
    with pytest.raises(InvalidSetting, match=said):
        command.main(words)


def test_a_difference_is_bold_only_where_it_holds():
    """Row 'same' has other noise than the reference, row 'better' a shift of five standard errors."""
    noise = torch.randn(3, 2, 400, generator=torch.Generator().manual_seed(0))
    values = {"ref": noise[0], "same": noise[1], "better": noise[2] + 0.5}
    found = Measurements({row: {"m": value} for row, value in values.items()}, {row: [0, 1] for row in values})
    study = Study("", {}, {"ref": {}, "same": {}, "better": {}}, [0, 1], "ref", {"m": "M"})
    lines = table(study, found, found.differences(["m"], "ref"))
    assert lines[0] == "| | M |"
    assert [line.startswith(f"| {row} | **") for line, row in zip(lines[2:], values, strict=True)] == [
        False,
        False,
        True,
    ]


def test_neither_an_oracle_nor_an_own_network_is_measured():
    """A row of the run, one that has seen the answer, and a simple one; the objective minimised LPIPS' network."""
    rows = [RowInfo("run", "a", "run", own=("lpips",)), RowInfo("oracle", "a", "run"), RowInfo("mean", "m", "simple")]
    values = {f"{row.key}/{metric}": torch.rand(5) for row in rows for metric in ("lpips", "ssim")}
    found = rows_of("a", SimpleNamespace(rows=rows, tensors=values), ["lpips", "ssim", "kid"])
    assert {row: list(metrics) for row, metrics in found.items()} == {"a": ["ssim"]}


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_stopped_and_then_changes_nothing(here, capsys):
    variants = {"mse": {"loss": "mse"}, "l1": {"loss": "l1"}}
    written(here / "tiny.yaml", variants=variants)
    words = ["tiny", "device=cpu", "jobs=2", "out=record"]
    assert command.main([*words, "minutes=0.03"]) == 75
    assert not (here / "record/README.md").exists()
    assert command.main(words) == 0
    page = (here / "record/README.md").read_text()
    assert "Is l1 another thing than mse?" in page and "![figure.png](figure.png)" in page
    with (here / "record/results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {(line["row"], line["metric"], line["seed"]) for line in lines} == {
        (row, metric, seed) for row in variants for metric in TINY["measured"] for seed in ("0", "1", "all")
    }
    for line in (line for line in lines if line["metric"] == "masked_psnr" and line["seed"] != "all"):
        evaluation = results.read(here / f"runs/tiny-{line['row']}-{line['seed']}")
        assert float(line["value"]) == pytest.approx(evaluation.results.number("run", "masked_psnr"), rel=1e-6)
    before = {path: path.stat().st_mtime_ns for path in (*here.rglob("record/*"), *here.glob(f"runs/*/{MODEL}"))}
    capsys.readouterr()
    assert command.main(words) == 0
    assert capsys.readouterr().out == "record is finished\n"
    assert before == {path: path.stat().st_mtime_ns for path in before}
    # Another answer makes the record anew, and trains nothing.
    written(here / "tiny.yaml", variants=variants, answer="They are alike.")
    assert command.main(words) == 0
    assert "They are alike." in (here / "record/README.md").read_text()
    assert "begun" not in capsys.readouterr().out
    # On a machine without the runs the record is made of their values, and before all are there of what is.
    (here / "runs").rename(here / "elsewhere")
    table_before = (here / "record/results.csv").read_bytes()
    (here / "record/results.csv").unlink()
    written(here / "tiny.yaml", variants=variants, answer="They are still alike.")
    assert command.main(words) == 0
    assert "begun" not in capsys.readouterr().out and not (here / "runs").exists()
    assert (here / "record/results.csv").read_bytes() == table_before
    lost = (here / "record/values/l1-1.npz").rename(here / "l1-1.npz")
    (here / "record/README.md").unlink()
    assert command.main([*words, "minutes=0.000001"]) == 75
    page = (here / "record/README.md").read_text()
    assert "**Not finished**: 1 of 4 runs are missing." in page and "Seeds: mse 0, 1; l1 0. Rows" in page
    digest = hashlib.sha256((here / "tiny.yaml").read_bytes()).hexdigest()
    assert "still alike" in page and not command.recorded(here / "record", digest)
    lost.rename(here / "record/values/l1-1.npz")
    (here / "elsewhere").rename(here / "runs")
    # Other settings are no reason to lose a run.
    written(here / "tiny.yaml", variants=variants | {"l1": {"loss": "charbonnier"}})
    with pytest.raises(InvalidSetting, match="trained with another loss"):
        command.main(words)


@pytest.mark.slow
def test_a_run_that_fails_is_told_and_the_others_go_on(here, capsys):
    written(here / "tiny.yaml", variants={"mse": {"loss": "mse"}, "l1": {"loss": "l2"}}, seeds=[0])
    assert command.main(["tiny", "device=cpu", "out=record"]) == 1
    told = capsys.readouterr()
    assert "unknown loss term 'l2'" in told.err
    assert (here / "runs/tiny-mse-0" / MODEL).exists() and (here / "record/values/mse-0.npz").exists()
    assert "**Not finished**: 1 of 2 runs are missing." in (here / "record/README.md").read_text()


@pytest.mark.slow
def test_a_run_that_starts_from_another_waits_until_that_is_trained(here, capsys):
    """Not only begun: its weights are there from its first checkpoint on. What nothing trains is named."""
    second = {"loss": "mse", "init": "runs/tiny-whole-{seed}", "train.parts": "decoder"}
    variants = {"mse": second, "whole": {"loss": "mse", "train.checkpoint_every": 2}}
    written(here / "tiny.yaml", variants=variants, seeds=[0], settings=TINY["settings"] | {"train.steps": 30})
    assert command.main(["tiny", "device=cpu", "jobs=2", "out=record"]) == 0
    assert re.findall(r"begun python -m recon.pretrain name=(\S+)", capsys.readouterr().out) == [
        "tiny-whole-0",
        "tiny-mse-0",
    ]
    digest = hashlib.sha256((here / "runs/tiny-whole-0" / MODEL).read_bytes()).hexdigest()
    assert f"sha256 {digest[:12]}" in (here / "runs/tiny-mse-0.log").read_text()
    written(here / "tiny.yaml", variants={"mse": second | {"init": "runs/tiny-elsewhere-{seed}"}}, seeds=[1])
    with pytest.raises(InvalidSetting, match="tiny-mse-1 starts from runs/tiny-elsewhere-1, which is not trained"):
        command.main(["tiny", "device=cpu", "out=record"])


def test_time_over_ends_what_runs(tmp_path):
    """The process is asked to end, and none is left."""
    job = jobs.Job("pretrain", {}, tmp_path / "log")
    with pytest.raises(TimeoutError):
        jobs.work([lambda: job], 1, deadline=0)
    assert jobs.work([], 1, deadline=1e12) == []
    assert jobs.work([lambda: None], 1, deadline=1e12) == []
