"""Runs are compared on the same images and masks, or not at all."""

import re
import shlex
from dataclasses import replace

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser

from losses import InvalidSetting
from recon.comparison import compare_runs as command
from recon.comparison.assemble import assemble, comparison_json, read_comparison, rows_of_runs
from recon.comparison.compare_runs import compare, gather, usable
from recon.comparison.differences import with_decisions
from recon.console import written
from recon.evaluation import results as record
from recon.folder_lock import locked
from recon.loaded_run import open_run
from recon.result_table import Comparison
from tests.recon.comparison.conftest import comparing
from tests.recon.report.comparison import typed


@pytest.fixture
def evaluations(monkeypatch):
    """The folders that were evaluated, in their order."""
    made = []
    announced = command.announced

    def counted(loaded, *arguments):
        made.append(loaded.folder)
        return announced(loaded, *arguments)

    monkeypatch.setattr(command, "announced", counted)
    return made


def report_of(out) -> Comparison:
    return read_comparison(out / "comparison.json")


def test_a_comparison_is_read_as_it_was_written(tmp_path):
    example, path = typed(), tmp_path / "comparison.json"
    path.write_text(comparison_json(example, files=[]))
    found = read_comparison(path)
    assert list(found.results) == list(example.results)
    assert replace(found, results=None) == replace(example, results=None)
    whole = path.read_bytes()
    for at in range(0, len(whole) - 1, len(whole) // 6):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises((ValueError, TypeError, KeyError)):
            read_comparison(path)


def test_a_run_is_not_ranked_by_a_network_that_its_objective_minimised(one, two):
    settings = comparing(one, two)
    candidates = gather([one, two], settings)
    before = with_decisions(assemble(candidates, rows_of_runs(candidates), settings))
    for c in candidates:
        c.found = replace(c.found, rows=[replace(r, own=("vgg19",)) if r.kind == "run" else r for r in c.found.rows])
    found = with_decisions(assemble(candidates, rows_of_runs(candidates), settings))
    assert found.best.pop("vgg19") == [] and before.best.pop("vgg19") is not None
    assert found.best == before.best
    assert {row.own for row in found.rows if row.kind == "run"} == {("vgg19",)}


def test_a_report_has_every_run_every_file_and_every_name_as_a_name(tmp_path, one, two, capsys):
    out = tmp_path / "report"
    assert compare(comparing(one, two, out=str(out))) == 0
    report = report_of(out)
    labels = [row.label for row in report.rows]
    assert labels[:3] == ["one", "<script>two", "<script>two (oracle)"]
    assert [row.kind for row in report.rows][3:] == ["simple"] * 6 + ["truth"]
    names = {path.name for path in out.iterdir()}
    assert {"index.html", "comparison.json", "table.csv", "differences.csv", "retention_coherence.png"} <= names
    assert not any(name.endswith(".tmp") for name in names)
    page = (out / "index.html").read_text()
    assert "<script>two" not in page and "&lt;script&gt;two" in page
    assert "<script>two" in capsys.readouterr().out
    assert "seed" in report.made["run/one"].differs
    assert not any("oracle" in key for keys in report.best.values() for key in keys)


@pytest.mark.slow
def test_evaluations_that_are_there_are_used_and_others_are_made(tmp_path, copy_of, one, two, evaluations):
    out, one, two = str(tmp_path / "report"), copy_of(one), copy_of(two)
    compare(comparing(one, two, out=out, batch=7))
    assert evaluations == []
    compare(comparing(one, two, out=out, images=6))
    assert evaluations == [one, two]
    assert report_of(tmp_path / "report").protocol.images == 6
    compare(comparing(one, out=out, images=6, again=True))
    assert evaluations == [one, two, one]


def test_a_run_that_has_been_trained_on_is_evaluated_anew(one):
    settings = comparing(one)
    (candidate,) = gather([one], settings)
    weights, loaded = candidate.found.weights, open_run(one)
    assert usable(loaded, settings, weights) is not None
    assert usable(loaded, settings, weights | {"vgg19": {"sha256": "other"}}) is None
    trained_on = replace(loaded, sha256="0" * 64)
    assert usable(trained_on, settings, weights) is None


def test_the_two_files_of_an_evaluation_belong_together(copy_of, one):
    """Killed between them, the numbers of one evaluation stand beside the page of another."""
    one = copy_of(one)
    page = (one / record.JSON).read_text()
    gather([one], comparing(one, seed=5))
    assert record.read(one) is not None
    (one / record.JSON).write_text(page)
    assert record.read(one) is None


@pytest.mark.slow
def test_a_run_may_be_called_like_a_simple_reconstruction(tmp_path, copy_of, one):
    """Also like one whose name a loss has too."""
    out = tmp_path / "report"
    compare(comparing(one, copy_of(one, "mean"), copy_of(one, "pca"), out=str(out)))
    report = report_of(out)
    assert report.results.number("run/mean", "tenengrad") > 0 == report.results.number("mean", "tenengrad")
    for name in ("mean", "pca"):
        assert report.row(f"run/{name}").kind == "run" and report.row(name).kind == "simple"
    psnr = [report.results.number(key, "masked_psnr") for key in ("run/one", "run/pca", "pca")]
    assert psnr[0] == psnr[1] != psnr[2]


@pytest.mark.slow
def test_what_an_earlier_comparison_left_is_removed(tmp_path, one, two):
    out = tmp_path / "report"
    compare(comparing(one, two, out=str(out)))
    (out / "mine.csv").write_text("not of this program")
    assert (out / "differences.csv").exists()
    compare(comparing(one, out=str(out)))
    assert not (out / "differences.csv").exists() and (out / "mine.csv").exists()


def test_a_report_does_not_go_into_a_run(one, two):
    with pytest.raises(InvalidSetting, match="out="):
        compare(comparing(one, two, out=str(one)))


def test_runs_of_other_sizes_are_refused_by_name(one, wide):
    with pytest.raises(InvalidSetting) as error:
        compare(comparing(one, wide))
    assert "\n" not in str(error.value)
    for word in (str(one), str(wide), "image_size", "(24, 24)", "(16, 16)"):
        assert word in str(error.value)


def test_evaluations_on_other_images_are_never_mixed(copy_of, one):
    other = copy_of(one, "other")
    settings = comparing(one, other)
    record.write(other, replace(record.read(other), digest="of other images"))
    with pytest.raises(InvalidSetting, match="again=true"):
        compare(settings)


def test_a_run_that_cannot_be_read_stops_nobody_else(tmp_path, copy_of, one, without_drawing, capsys):
    torn = copy_of(one, "torn")
    (torn / "model.safetensors").write_bytes(b"torn")
    out = tmp_path / "report"
    assert compare(comparing(one, torn, out=str(out))) == 1
    assert str(torn) in capsys.readouterr().err
    found = [v for v in report_of(out).results if v.row == "run/torn" and not v.variant]
    assert found and all(v.value is None and str(torn) in v.reason for v in found)


def test_a_run_for_which_memory_runs_out_is_told_what_to_lower(one, monkeypatch):
    def evaluated(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(command, "announced", evaluated)
    with pytest.raises(
        InvalidSetting, match=rf"could be evaluated: {re.escape(str(one))}: out of memory; lower batch$"
    ):
        gather([one], comparing(one, again=True))


def test_no_run_at_all_is_told_in_one_line(tmp_path):
    with pytest.raises(InvalidSetting, match=r"python -m recon\.compare"):
        compare(comparing())
    with pytest.raises(InvalidSetting, match="nobody"):
        compare(comparing(tmp_path / "nobody"))


def test_the_command_that_made_a_run_says_its_settings_and_no_defaults(two):
    words = shlex.split(written("pretrain", open_run(two).settings, leave_out=("resume",)))
    assert words[:3] == ["python", "-m", "recon.pretrain"]
    assert {"data.name=photos", "model.name=nano", "data.image_size=16", "train.steps=3"} <= set(words)
    assert {"seed=1", 'name="<script>two"'} <= set(words)
    assert not any(word.startswith(("loss=", "masking.", "optim.warmup=", "resume=")) for word in words)
    overrides = [word for word in words[3:] if word.startswith(("name=", "data.root="))]
    (parsed,) = OverridesParser.create().parse_overrides(overrides)
    assert parsed.value() == "<script>two"


def test_two_runs_of_one_name_keep_apart(tmp_path, copy_of, one, without_drawing):
    other = copy_of(one)
    out = tmp_path / "report"
    compare(comparing(one, other, out=str(out)))
    assert [row.label for row in report_of(out).rows][:2] == [str(one), str(other)]
    assert all(d.value == 0 and not d.excludes_zero for d in report_of(out).differences)


def test_two_comparisons_do_not_write_one_report(tmp_path, one):
    (tmp_path / "report").mkdir()
    with locked(tmp_path / "report"), pytest.raises(InvalidSetting, match=r"writes to .*report; wait"):
        compare(comparing(one, out=str(tmp_path / "report")))
    assert not any((tmp_path / "report").iterdir())


def test_a_run_named_like_an_interpolation_is_compared_by_its_name(tmp_path, copy_of, one, two, without_drawing):
    run = copy_of(one, "${7*7}")
    assert compare(comparing(run, two, out=str(tmp_path / "report"))) == 0
    assert "${7*7}" in {row.label for row in report_of(tmp_path / "report").rows}
