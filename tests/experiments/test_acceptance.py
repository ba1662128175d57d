"""One command runs every part in a process of its own, and loses nothing of what a part had found."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from experiments.acceptance import __main__ as acceptance
from experiments.acceptance import pictures
from experiments.acceptance.findings import Findings, markdown
from experiments.acceptance.parts import PARTS, Part
from losses import InvalidSetting
from tests.recon.training.conftest import save_picture

ROOT = Path(__file__).parents[2]


@pytest.fixture
def parts(monkeypatch):
    """Sets the parts."""

    def use(**works):
        monkeypatch.setattr(acceptance, "PARTS", [Part(name, 1.0, work) for name, work in works.items()])
        return acceptance.PARTS

    return use


def finds(task, findings):
    findings.row("turns", what="a|b", seconds=[1.0, 3.0, 2.0], none=float("nan"))
    findings.goal("speed", 2.0, 2.5)
    findings.goal("cost", 1.5, 1.6, lower=True)


def fails(task, findings):
    findings.note("so far")
    raise RuntimeError("CUDA error:\n an illegal memory access")


def dies(task, findings):
    findings.note("last words")
    os.kill(os.getpid(), 9)


def sleeps(task, findings):
    findings.row("found", number=1)
    # A process that it started ends with it.
    subprocess.Popen([sys.executable, "-c", f"import time; time.sleep(8); open({str(task.out / 'late')!r}, 'w')"])
    time.sleep(60)


@pytest.mark.slow
def test_one_part_that_fails_or_takes_too_long_is_a_line(parts, tmp_path):
    parts(fails=fails, dies=dies, sleeps=sleeps, finds=finds)
    began = time.monotonic()
    assert acceptance.main(["device=cpu", "minutes=0.2", f"out={tmp_path}"]) == 1
    took = time.monotonic() - began
    page = json.loads((tmp_path / "acceptance.json").read_text())["parts"]
    assert page["fails"]["ended"] == "failed: RuntimeError: CUDA error: an illegal memory access"
    assert page["fails"]["notes"] == ["so far"]
    assert "status -9" in page["dies"]["ended"] and page["dies"]["notes"] == ["last words"]
    assert page["sleeps"]["ended"].startswith("cut after 3 s")
    assert page["sleeps"]["tables"] == {"found": [{"number": 1}]}
    assert page["finds"]["ended"] == "done"
    assert [goal["reached"] for goal in page["finds"]["goals"]] == [True, False]
    text = (tmp_path / "acceptance.md").read_text()
    for line in (
        "| cost | at most 1.5 | 1.6 | **no** |",
        "| a\\|b | 2 (1 .. 3) | - |",
        "failed: RuntimeError: CUDA error: an illegal memory access",
    ):
        assert line in text
    time.sleep(max(0.0, 12 - took))
    assert not (tmp_path / "late").exists()


def test_all_of_a_success_is_zero(parts, tmp_path):
    parts(finds=finds)
    assert acceptance.main(["device=cpu", "minutes=1", f"out={tmp_path / 'a' / 'b'}"]) == 0


def test_what_a_part_leaves_of_its_time_is_the_last_ones(parts, tmp_path):
    def tells(task, findings):
        findings.note(f"{task.seconds:.0f}")

    parts(first=tells, second=tells, last=tells)
    acceptance.main(["device=cpu", "minutes=1", f"out={tmp_path}"])
    found = json.loads((tmp_path / "acceptance.json").read_text())["parts"]
    told = [int(found[name]["notes"][0]) for name in ("first", "second", "last")]
    assert told[:2] == [20, 20] and told[2] > 50


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["minuts=3"], "did you mean 'minutes'"),
        (["minutes=none"], "minutes=none must be a number above 0"),
        (["minutes=0"], "minutes=0 must be"),
        (["device=cdua"], "did you mean 'cuda'"),
        (["device=cuda:99"], "device=cuda:99 is not there"),
        (["device=cpu", "parts=tests+pictres"], "did you mean 'pictures'"),
        (["device=cpu", "data=/nowhere"], "data=/nowhere is not there"),
        (["device=cpu", "out=/proc/nothing"], "out=/proc/nothing cannot be written"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_line(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidSetting) as error:
        acceptance.main(words)
    assert said in str(error.value) and len(str(error.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_weights_come_back_whole_from_small_files(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "LARGEST", 1000)
    shared = {"blocks.0": torch.randn(30, 10), "blocks.1": torch.randn(20, 20)}
    for name in ("mse", "adversarial"):
        (tmp_path / name).mkdir()
        save_file(shared | {"refiner.w": torch.randn(15, 15)}, tmp_path / name / "model.safetensors")
    runs = [tmp_path / "mse", tmp_path / "adversarial"]
    pictures.write_weights(runs, tmp_path)
    files = sorted(tmp_path.glob("weights-*.safetensors"))
    assert len(files) == 3 and all(file.stat().st_size < 1400 for file in files)
    found = pictures.weights(tmp_path)
    for run in runs:
        whole = pictures.load_file(run / "model.safetensors")
        assert found[run.name].keys() == whole.keys()
        assert all(torch.equal(found[run.name][name], tensor.half()) for name, tensor in whole.items())


def test_the_page_says_what_was_run(tmp_path):
    findings = Findings(tmp_path / "part.json")
    finds(None, findings)
    page = {"command": "python -m experiments.acceptance", "date": "today", "seconds": 1.0}
    text = markdown(page | {"parts": {"one": findings.page | {"ended": "done", "seconds": 1.0}}})
    assert "    python -m experiments.acceptance\n" in text and "## one" in text


@pytest.mark.slow
def test_every_part_runs_small_on_a_cpu(tmp_path):
    """The command itself, so that it is not found broken on the day when there is a GPU."""
    for split, count in (("train", 24), ("val", 8)):
        for i in range(count):
            save_picture(tmp_path / "data" / split / f"{i:02}.png", seed=i)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "experiments.acceptance", "device=cpu", "minutes=3", f"out={out}"]
    done = subprocess.run(
        [*command, f"data={tmp_path / 'data'}"], cwd=ROOT, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    page = json.loads((out / "acceptance.json").read_text())
    assert list(page["parts"]) == [part.name for part in PARTS]
    for name, found in page["parts"].items():
        assert found["ended"] == "done" or found["ended"].startswith("cut after"), (name, found)
        assert found.get("notes") or found.get("tables"), name
    rows = page["parts"]["tests"]["tables"]["tests"]
    assert not [row for row in rows if row["outcome"] == "failed"]
    files = list(out.iterdir())
    assert len(files) <= 8 and all(file.stat().st_size < 2**24 for file in files)
    if page["parts"]["pictures"]["ended"] == "done":
        assert {"mse", "adversarial", "feature_matching", "perceptual", "flow"} == pictures.weights(out).keys()
        assert (out / "reconstructions.png").exists()
