"""What becomes of an earlier probing in the folder: joined, replaced, kept, and read in its old form."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from losses import InvalidSetting
from recon.probing import probe_results as record
from recon.probing import probe_run as command
from tests.recon.probing.conftest import probed
from tests.recon.probing.test_labelled import folders
from tests.recon.probing.test_probe_run import LINEAR, accuracies, page_of, sums


def test_other_questions_join_those_that_were_answered(copy):
    first = probed(copy, "run=runs/small", *LINEAR)
    joined = probed(copy, "run=runs/small", "probe.name=knn", "probe.controls=false", "probe.seeds=1")
    assert set(accuracies(first)) < set(accuracies(joined))
    assert {name: accuracies(joined)[name] for name in accuracies(first)} == accuracies(first)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("seed=7",), "seeds"),
        (("probe.seeds=2",), "seeds"),
        (("precision=bf16",), "precision"),
        (("data.name=folder", "data.root=pictures"), "data"),
    ],
)
@pytest.mark.slow
def test_an_earlier_probing_is_replaced_only_where_that_is_asked(copy, words, named):
    probed(copy, "run=runs/small", *LINEAR)
    folders(copy / "pictures", {"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 1})
    before = sums(copy)
    with pytest.raises(InvalidSetting, match=f"has been probed with other {named}; again=true replaces that"):
        probed(copy, "run=runs/small", *LINEAR, *words)
    assert sums(copy) == before


def test_again_replaces_an_earlier_probing(copy):
    probed(copy, "run=runs/small", *LINEAR)
    other = probed(copy, "run=runs/small", *LINEAR, "probe.name=knn", "seed=7", "again=true")
    assert all(name.startswith("run/knn") for name in accuracies(other)) and other.seeds == [7]


def test_what_was_found_before_ctrl_c_is_kept(copy, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "probe_trained", interrupted)
    with pytest.raises(AssertionError, match="130"):
        probed(copy, "run=runs/small", *LINEAR, "probe.name=linear+finetune")
    assert set(accuracies(record.read(copy / "runs/small"))) == {"run/linear/class/4/1", "run/linear/mean/4/1"}


def test_an_earlier_result_survives_a_probing_that_fails(copy):
    probed(copy, "run=runs/small", *LINEAR)
    before = page_of(copy)
    for kept in (copy / "runs/small/features").iterdir():
        kept.write_bytes(b"torn")
    with pytest.raises(InvalidSetting, match="is damaged; delete it"):
        probed(copy, "run=runs/small", *LINEAR, "probe.name=knn")
    assert page_of(copy) == before


def test_a_probing_of_an_earlier_version_is_read(run, both, tmp_path):
    page = json.loads((run / record.JSON).read_text())
    page["format"] = "recon probe 1"
    del page["checksum"]
    page["contestants"] = {key: {"label": e["label"], "encoder": e["checksum"]} for key, e in page["encoders"].items()}
    page["results"] = [{"contestant": entry["encoder"]} | entry for entry in page["results"]]
    for renamed in (page, *page["results"]):
        del renamed["encoders" if renamed is page else "encoder"]
    (tmp_path / record.JSON).write_text(json.dumps(page))
    shutil.copy(run / record.TENSORS, tmp_path)
    found = record.read(tmp_path)
    assert replace(found, results={}) == replace(both, results={}) and list(found.results) == list(both.results)
    for name, result in both.results.items():
        assert torch.equal(found.results[name].per_image, result.per_image)
        assert found.results[name].chosen == result.chosen and found.results[name].estimate == result.estimate
