"""Runs are compared on the same images and masks, or not at all."""

import json
import shutil

import pytest

from losses import InvalidSetting
from recon.comparison import command, gather
from recon.comparison.assemble import command as command_of
from recon.comparison.command import compare
from recon.evaluation import record
from recon.evaluation.subject import open_run
from tests.recon.comparison.conftest import comparing


@pytest.fixture
def evaluations(monkeypatch):
    """The folders that were evaluated, in their order."""
    made = []
    announced = command.announced

    def counted(subject, *arguments):
        made.append(subject.folder)
        return announced(subject, *arguments)

    monkeypatch.setattr(command, "announced", counted)
    return made


def report_of(out) -> dict:
    return json.loads((out / "comparison.json").read_text())


def test_a_report_has_every_run_every_file_and_every_name_as_a_name(tmp_path, one, two, capsys):
    out = tmp_path / "report"
    assert compare(comparing(one, two, out=str(out))) == 0
    report = report_of(out)
    labels = [row["label"] for row in report["rows"]]
    assert labels[:3] == ["one", "<script>two", "<script>two (oracle)"]
    assert [row["kind"] for row in report["rows"]][3:] == ["simple"] * 4 + ["truth"]
    names = {path.name for path in out.iterdir()}
    assert {"index.html", "comparison.json", "table.csv", "differences.csv", "retention_coherence.png"} <= names
    assert not any(name.endswith(".tmp") for name in names)
    page = (out / "index.html").read_text()
    assert "<script>two" not in page and "&lt;script&gt;two" in page
    assert "<script>two" in capsys.readouterr().out
    assert report["made"]["one"]["differs"] != {} and "seed" in report["made"]["one"]["differs"]
    assert not any("oracle" in key for keys in report["best"].values() for key in keys)


def test_evaluations_that_are_there_are_used_and_others_are_made(tmp_path, one, two, evaluations):
    out = str(tmp_path / "report")
    compare(comparing(one, two, out=out))
    evaluations.clear()
    compare(comparing(one, two, out=out, batch=7))
    assert evaluations == []
    compare(comparing(one, two, out=out, images=6))
    assert evaluations == [one, two]
    assert report_of(tmp_path / "report")["protocol"]["images"] == 6
    compare(comparing(one, out=out, images=6, again=True))
    assert evaluations == [one, two, one]


def test_a_run_that_has_been_trained_on_is_evaluated_anew(one):
    settings = comparing(one)
    gather.gather([one], settings, command.announced)
    assert gather.usable(open_run(one), settings) is not None
    other = open_run(one)
    other.sha256 = "0" * 64
    assert gather.usable(other, settings) is None


def test_runs_of_other_sizes_are_refused_by_name(one, wide):
    with pytest.raises(InvalidSetting) as error:
        compare(comparing(one, wide))
    assert "\n" not in str(error.value)
    for word in (str(one), str(wide), "image_size", "(24, 24)", "(16, 16)"):
        assert word in str(error.value)


def test_evaluations_on_other_images_are_never_mixed(tmp_path, one):
    other = tmp_path / "runs" / "other"
    shutil.copytree(one, other)
    settings = comparing(one, other)
    gather.gather([one, other], settings, command.announced)
    page = json.loads((other / record.JSON).read_text())
    page["protocol"]["digest"] = "of other images"
    (other / record.JSON).write_text(json.dumps(page))
    with pytest.raises(InvalidSetting, match="again=true"):
        compare(settings)


def test_a_run_that_cannot_be_read_stops_nobody_else(tmp_path, one, capsys):
    torn = tmp_path / "runs" / "torn"
    shutil.copytree(one, torn)
    (torn / "model.safetensors").write_bytes(b"torn")
    out = tmp_path / "report"
    assert compare(comparing(one, torn, out=str(out))) == 1
    assert str(torn) in capsys.readouterr().err
    row = next(row for row in report_of(out)["rows"] if row["label"] == "torn")
    assert all(cell["value"] is None and str(torn) in cell["reason"] for cell in row["values"].values())


def test_no_run_at_all_is_told_in_one_line(tmp_path):
    with pytest.raises(InvalidSetting, match=r"python -m recon\.compare"):
        compare(comparing())
    with pytest.raises(InvalidSetting, match="nobody"):
        compare(comparing(tmp_path / "nobody"))


def test_the_command_that_made_a_run_says_its_settings_and_no_defaults(two):
    words = command_of(open_run(two).settings).split()
    assert words[:3] == ["python", "-m", "recon.pretrain"]
    assert {"loss=norm_mse", "seed=1", "data.image_size=16", "train.steps=3"} <= set(words)
    assert "data.name=photos" not in words and not any(word.startswith("resume") for word in words)


def test_two_runs_of_one_name_keep_apart(tmp_path, one):
    other = tmp_path / "elsewhere" / "one"
    shutil.copytree(one, other)
    out = tmp_path / "report"
    compare(comparing(one, other, out=str(out)))
    assert [row["label"] for row in report_of(out)["rows"]][:2] == [str(one), str(other)]
    assert all(d["value"] == 0 and not d["excludes_zero"] for d in report_of(out)["differences"])
