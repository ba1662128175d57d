"""`python -m recon.runs`: states, numbers, order, and that whatever a folder holds is a line."""

import fcntl
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from recon.cli import run
from recon.config import Settings
from recon.folder_lock import is_locked, locked
from recon.result_table import with_checksum
from recon.run_folder import metric_line, write_config
from recon.run_listing import describe, list_runs
from recon.runs import COMMAND, runs

FACTS = {"objective": "mse", "steps": 8}


def made(folder: Path, step: int = 8, **held_out: float) -> Path:
    """What a run of 8 steps leaves that has saved `step` of them, without its pictures and curves."""
    folder.mkdir(parents=True)
    settings = Settings(loss="mse")
    settings.data.name, settings.data.image_size, settings.model.patch_size = "photos", 64, 8
    write_config(folder, settings, FACTS)
    (folder / "model.safetensors").write_bytes(save({"a": np.zeros((2, 3))}, {"step": str(step)}))
    figures = {f"held_out/{name}": value for name, value in held_out.items()}
    lines = [{"step": 4, "loss": 2.0} | {name: value - 1 for name, value in figures.items()}]
    lines += [{"step": step} | figures, {"step": step + 1, "loss": 1.0}]
    (folder / "metrics.jsonl").write_text("".join(map(metric_line, lines)) + '{"step": 10, "lo')
    with zipfile.ZipFile(folder / "checkpoint.pt", "w") as archive:
        archive.writestr("data.pkl", b"")
    return folder


def typed(capsys, monkeypatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["recon.runs", *words])
    with pytest.raises(SystemExit) as end:
        run(runs, COMMAND)
    printed = capsys.readouterr()
    return end.value.code or 0, printed.out, printed.err


def test_a_trained_and_evaluated_run_is_listed_with_its_own_numbers(mse_run, evaluation, norm_mse_run):
    one, two = describe(mse_run), describe(norm_mse_run)
    last = json.loads((mse_run / "metrics.jsonl").read_text().splitlines()[-1])
    assert (one.state, one.reason, one.step, one.steps) == ("finished", None, 3, 3)
    assert (one.objective, one.data, one.model) == ("mse", "photos", "nano/4 at 16")
    assert one.psnr == pytest.approx(last["held_out/masked_psnr"], rel=1e-6)
    assert one.detail == pytest.approx(last["held_out/detail"], rel=1e-6)
    found = {v.metric: v.value for v in evaluation.results if v.row == "run" and not v.variant}
    assert (two.evaluated_psnr, two.evaluated_detail) == (found["masked_psnr"], found["detail"])
    assert two.evaluated_psnr != one.evaluated_psnr and two.probe is None


def test_an_evaluation_of_an_earlier_model_is_not_the_run_s(mse_run, copy_of):
    folder = copy_of(mse_run)
    page = json.loads((folder / "evaluation.json").read_text())
    del page["checksum"]
    page["model"]["step"] = 2
    (folder / "evaluation.json").write_text(with_checksum(json.dumps(page)))
    assert describe(folder).evaluated_psnr is None and describe(folder).reason is None


def test_the_best_probe_under_the_most_labels(tmp_path):
    folder = made(tmp_path / "a")
    found = [("run", 0.1, 0.9, "knn/0.1"), ("run", 1.0, 0.5, "knn/1"), ("run", 1.0, 0.6, "linear/1")]
    found += [("pixels", 1.0, 0.7, "linear/pixels/1"), ("run", 0.0, 37.0, "rankme/mean/4")]
    results = [dict(zip(("encoder", "fraction", "value", "question"), each, strict=True)) for each in found]
    (folder / "probe.json").write_text(with_checksum(json.dumps({"results": results})))
    assert (describe(folder).probe, describe(folder).probed) == (0.6, "linear/1")


def test_states_of_a_run(tmp_path):
    folder = made(tmp_path / "a", 6, masked_psnr=20.0, detail=0.5)
    found = describe(folder)
    assert (found.state, found.reason, found.step, found.psnr, found.detail) == ("unfinished", "resumable", 6, 20, 0.5)
    with locked(folder):
        assert is_locked(folder)
        assert (describe(folder).state, describe(folder).step) == ("running", 7)  # as far as it is logged
    assert not is_locked(folder)
    (folder / "diverged.txt").write_text("ended at step 6 of 8: the weights are not finite\n")
    assert (describe(folder).state, describe(folder).reason[:15]) == ("diverged", "ended at step 6")
    (folder / "diverged.txt").unlink()
    (folder / "checkpoint.pt").rename(folder / "checkpoint.previous.pt")
    assert describe(folder).reason == "resumable"
    (folder / "checkpoint.previous.pt").unlink()
    assert describe(folder).reason == "it has no checkpoint to resume from"
    (folder / "model.safetensors").unlink()
    assert (describe(folder).state, describe(folder).step) == ("unfinished", 7)
    assert describe(made(tmp_path / "b")).state == "finished"


def test_asking_for_the_lock_refuses_no_run_that_begins(tmp_path, monkeypatch):
    with locked(tmp_path), pytest.raises(ValueError, match="another process writes"), locked(tmp_path):
        pass
    asked = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(asked, fcntl.LOCK_SH)
    monkeypatch.setattr("time.sleep", lambda seconds: os.close(asked))
    with locked(tmp_path):
        assert is_locked(tmp_path)


CONFIG = (
    b"resolved: {objective: %s, steps: %s}\ndata: {name: photos, image_size: %s}\nmodel: {name: nano, patch_size: %s}"
)
DAMAGED = {
    "no config": ("config.yaml", None),
    "config of bytes": ("config.yaml", b"\xff\xfe"),
    "config nested": ("config.yaml", b"[" * 1200),
    "config of aliases": ("config.yaml", b"a: &a [0]\n" + b"".join(b"b%d: [*a, *a]\n" % i for i in range(9))),
    "objective a number": ("config.yaml", CONFIG % (b"1", b"8", b"64", b"8")),
    "steps negative": ("config.yaml", CONFIG % (b"mse", b"-8", b"64", b"8")),
    "steps without end": ("config.yaml", CONFIG % (b"mse", b"9" * 5000, b"64", b"8")),
    "pixels": ("config.yaml", CONFIG % (b"mse", b"8", b"[64]", b"8")),
    "patch a text": ("config.yaml", CONFIG % (b"mse", b"8", b"64", b"[8]")),
    "model empty": ("model.safetensors", b""),
    "model a page": ("model.safetensors", b"<!doctype html>" * 9),
    "model cut": ("model.safetensors", save({"a": np.zeros(3)})[:-1]),
    "model of no step": ("model.safetensors", save({"a": np.zeros(3)}, {"step": "many"})),
    "model a pipe": ("model.safetensors", "pipe"),
    "config a pipe": ("config.yaml", "pipe"),
    "number without end": ("metrics.jsonl", b'{"step": 6, "held_out/masked_psnr": 1' + b"0" * 400 + b"}\n"),
    "step without end": ("metrics.jsonl", b'{"step": 1' + b"0" * 400 + b"}\n"),
    "checkpoint cut": ("checkpoint.pt", b"PK\x03\x04"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_run_is_a_line_that_names_the_file(tmp_path, case):
    name, content = DAMAGED[case]
    folder = made(tmp_path / "a", 6)
    (folder / name).unlink()
    if content == "pipe":
        os.mkfifo(folder / name)
    elif content is not None:
        (folder / name).write_bytes(content)
    found = describe(folder)
    assert found.state == "unreadable" and f"a/{name} " in found.reason and len(found.reason) < 500


@pytest.mark.parametrize("content", [b"", b"[]", b'{"results": 3, "model": 4}', b'{"model": {"step": 8}}', b"\xff"])
def test_damaged_results_are_named_and_the_run_is_listed(tmp_path, content):
    folder = made(tmp_path / "a", masked_psnr=20.0)
    for name in ("evaluation.json", "probe.json"):
        (folder / name).write_bytes(content)
    found = describe(folder)
    assert (found.state, found.psnr) == ("finished", 20)
    assert "evaluation.json" in found.reason and "probe.json" in found.reason


def test_hostile_names_are_lines(tmp_path, capsys, monkeypatch):
    names = [b"caf\xe9", b"two\nlines", b"\x1b[2J", b"=1+1", b"a b", b"-m", b"${oc.env:HOME}"]
    for name in names:
        made(tmp_path / "runs" / os.fsdecode(name))
    (tmp_path / "runs" / "comparison").mkdir()
    (tmp_path / "runs" / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    status, out, err = typed(capsys, monkeypatch)
    assert (status, err) == (0, "") and len(out.splitlines()) == 1 + len(names) and "\x1b" not in out
    assert r"two\nlines" in out and "comparison" not in out
    status, out, err = typed(capsys, monkeypatch, "--json")
    assert (status, err) == (0, "") and {line["run"] for line in json.loads(out)} == set(map(os.fsdecode, names))


def test_order_columns_and_folders(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, psnr in {"low": 10.0, "high": 20.0}.items():
        made(tmp_path / "runs" / name, masked_psnr=psnr)
    made(tmp_path / "runs" / "none")
    made(tmp_path / "more" / "low", masked_psnr=15.0)

    def first(*words: str) -> list[str]:
        status, out, _ = typed(capsys, monkeypatch, *words)
        assert status == 0
        return [line.split()[0] for line in out.splitlines()[1:]]

    assert first() == ["high", "low", "none"]
    assert first("sort=psnr") == ["high", "low", "none"] and first("sort=run") == ["high", "low", "none"]
    assert first("sort=psnr", "runs", "more") == ["runs/high", "more/low", "runs/low", "runs/none"]
    assert first("runs/low", "runs/low", "runs/high") == ["low", "high"]
    _, out, _ = typed(capsys, monkeypatch)
    assert "detail" not in out and "probe" not in out  # which no run has
    assert out.splitlines()[1].split()[-3:] == ["8/8", "20.00", "finished"]
    status, out, err = typed(capsys, monkeypatch, "sort=psrn")
    assert (status, out) == (2, "") and "did you mean 'psnr'" in err and len(err.splitlines()) == 1
    status, out, err = typed(capsys, monkeypatch, "nowhere")
    assert (status, out) == (2, "") and err.startswith("nowhere cannot be listed") and len(err.splitlines()) == 1
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "runs").mkdir()
    assert typed(capsys, monkeypatch)[1] == "no runs in runs\n"
    assert json.loads(typed(capsys, monkeypatch, "json=true")[1]) == []
    assert list_runs([tmp_path / "runs"]) == []
