"""A whole probing of a small run: what it writes, that it can be repeated, and that test labels choose nothing."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from losses import InvalidSetting
from recon.loaded_run import open_run
from recon.probing import features, frozen
from recon.probing import probe_results as record
from recon.probing import probe_run as command
from recon.probing.features import ENCODER
from recon.probing.frozen import Prediction
from recon.probing.label_free import rankme
from recon.probing.labelled import HeldOutLabels, open_task
from recon.training import device
from tests.helpers.small_runs import trained
from tests.recon.probing.conftest import probed
from tests.recon.probing.test_labelled import folders

LINEAR = ("probe.name=linear", "probe.controls=false", "probe.seeds=1")
KNN = ("probe.name=knn", "probe.controls=false", "probe.seeds=1")


def sums(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def page_of(place: Path) -> dict:
    return json.loads((place / "runs/small/probe.json").read_text())


def accuracies(found: record.ProbeRecord) -> dict[str, float]:
    return {name: result.estimate.mean for name, result in found.results.items()}


def test_every_question_is_answered_by_the_run_and_the_untrained_encoder(both):
    questions = {
        encoder: {result.question for result in both.results.values() if result.encoder == encoder}
        for encoder in ("run", "untrained", "pixels")
    }
    asked = {
        f"{probe}/{feature}/4/{share}"
        for probe in ("linear", "knn/k=1", "knn/k=5", "knn/k=20")
        for feature in ("class", "mean")
        for share in ("0.1", "1")
    }
    assert questions["run"] == questions["untrained"] == asked
    assert len(questions["pixels"]) == 8


def test_measures_without_labels_stand_beside_the_probes(copy, both, capsys):
    """Of the run, the untrained encoder and the pixels; they read back, and the table and the record have them."""
    words = ("run=runs/small", "probe.name=rankme+alpha_req", "probe.fractions=[0.1,1]")
    found = probed(copy, *words)
    asked = ["run/{}/class/4", "run/{}/mean/4", "untrained/{}/class/4", "untrained/{}/mean/4", "pixels/{}/pixels"]
    assert found.results.keys() == {each.format(name) for each in asked for name in ("rankme", "alpha_req")}
    result = found.results["run/rankme/mean/4"]
    assert result.per_image.shape == (1, 1183) and result.fraction == 0
    kept = [load_file(path) for path in (copy / "runs/small/features").iterdir()]
    known = [rankme(of["train/mean/4"]).mean().item() for of in kept if "train/mean/4" in of]
    assert any(result.estimate.mean == pytest.approx(value, rel=1e-5) for value in known)
    entry = next(entry for entry in page_of(copy)["results"] if entry["name"] == "run/rankme/mean/4")
    assert (entry["value"], entry["images"], entry["covers"]) == (result.estimate.mean, 1183, "images")
    out = capsys.readouterr().out
    assert f"none  {result.estimate.mean:.2f} ±" in out and "without labels: 1,183 training images of photos" in out
    assert "accuracies" not in out
    later = probed(copy, "run=runs/small", *LINEAR, "probe.seeds=2")
    assert found.results.keys() < later.results.keys() and "accuracies: 267 test images" in capsys.readouterr().out


def test_images_without_classes_are_measured_and_not_probed(copy):
    folders(copy / "pictures", {"train": 12, "val": 3})
    data = ("run=runs/small", "data.name=folder", "data.root=pictures", "probe.controls=false")
    found = probed(copy, *data, "probe.name=rankme+alpha_req")
    assert len(found.results) == 4 and (found.data.train, found.data.test, found.data.classes) == (12, 3, [])
    with pytest.raises(InvalidSetting, match=r"has no classes.*; probe=rankme\+alpha_req needs none$"):
        probed(copy, *data, "probe.name=rankme+linear")


def test_a_record_says_how_it_was_made(both):
    result = both.results["run/linear/mean/4/1"]
    assert both.data.train == 1183 and len(both.data.classes) == 8
    assert both.data.test == result.per_image.shape[1]
    assert both.seeds == [0, 1]
    assert both.caveats[-2:] != [] and any("overlapping tiles" in caveat for caveat in both.caveats)
    assert len(result.chosen) == 2 and result.chosen[0]["weight_decay"] > 0 and result.chosen[0]["converged"]
    assert result.estimate.mean == pytest.approx(result.per_image.float().mean().item(), abs=1e-7)
    assert result.estimate.low < result.estimate.mean < result.estimate.high


def test_more_labels_are_not_worse(both):
    found = accuracies(both)
    assert found["run/linear/mean/4/1"] > found["run/linear/mean/4/0.1"] > 1 / 8


def test_a_run_that_trained_its_decoder_alone_is_probed_to_its_parents_bits(run, both, tmp_path):
    trained(tmp_path, "second", "loss=l1", f"init={run}", "train.parts=decoder", "train.steps=2")
    second = probed(tmp_path, "run=runs/second", *LINEAR)
    names = second.results.keys() & both.results.keys()
    assert len(names) == 2  # linear on the class token and on the patches' mean, all labels
    assert all(torch.equal(second.results[name].per_image, both.results[name].per_image[:1]) for name in names)


def test_probing_touches_nothing_else_in_the_folder(copy):
    shutil.rmtree(copy / "runs/small/features")
    before = sums(copy / "runs/small")
    probed(copy, "run=runs/small", *LINEAR)
    after = sums(copy / "runs/small")
    new = set(after) - set(before)
    assert {name: after[name] for name in before} == before
    assert {"probe.json", "probe.safetensors"} <= new
    assert all(name.startswith(("probe.", "features/")) for name in new)


def test_one_seed_gives_the_same_numbers(copy):
    first = probed(copy, "run=runs/small", *LINEAR)
    page = page_of(copy)
    shutil.rmtree(copy / "runs/small/features")
    for name in (record.JSON, record.TENSORS):
        (copy / "runs/small" / name).unlink()
    second = probed(copy, "run=runs/small", *LINEAR)
    assert page == page_of(copy)
    assert first.results.keys() == second.results.keys()
    assert all(torch.equal(result.per_image, second.results[name].per_image) for name, result in first.results.items())


@pytest.mark.slow
def test_test_labels_choose_nothing(copy, monkeypatch):
    """With the test labels shuffled every choice and every prediction is the same; only what is right changes."""
    seen = []
    monkeypatch.setattr(
        HeldOutLabels, "correct", lambda self, probe, found: seen.append((probe, found)) or found == found
    )
    probed(copy, "run=runs/small", "probe.name=linear+knn", "probe.seeds=1")
    honest = list(seen)
    chosen = [result.chosen for result in record.read(copy / "runs/small").results.values()]
    seen.clear()

    def shuffled(*place, **options):
        task = open_task(*place, **options)
        order = torch.randperm(len(task.test_labels), generator=torch.Generator().manual_seed(0))
        task.test_labels._labels = task.test_labels._labels[order]
        return task

    monkeypatch.setattr(command, "open_task", shuffled)
    probed(copy, "run=runs/small", "probe.name=linear+knn", "probe.seeds=1")
    assert [result.chosen for result in record.read(copy / "runs/small").results.values()] == chosen
    assert len(honest) == len(seen) > 10
    assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(honest, seen, strict=True))


def test_a_probe_that_looks_at_its_test_accuracy_is_caught(copy, monkeypatch):
    opened = []
    monkeypatch.setattr(
        command, "open_task", lambda *of, **options: opened.append(open_task(*of, **options)) or opened[-1]
    )

    def leaking(train, labels, test, classes, seed):
        """Chooses the constant answer that is right most often, on the test images."""
        guesses = [torch.full((len(test),), k) for k in range(classes)]
        best = max(guesses, key=lambda guess: opened[-1].test_labels.correct("leak", guess).sum())
        return {"": Prediction(best)}

    monkeypatch.setitem(frozen.FROZEN, "linear", leaking)
    with pytest.raises(RuntimeError, match="leak asked for its test accuracy twice"):
        probed(copy, "run=runs/small", *LINEAR)
    assert not (copy / "runs/small/probe.json").exists()


@pytest.mark.slow
def test_every_block_can_be_asked(copy):
    found = probed(copy, "run=runs/small", *LINEAR, "probe.layer=all")
    assert {result.feature for result in found.results.values()} == {
        f"{kind}/{layer}" for kind in ("class", "mean") for layer in (1, 2, 3, 4)
    }
    alone = probed(copy, "run=runs/small", *LINEAR, "probe.layer=2")
    assert accuracies(alone)["run/linear/mean/2/1"] == accuracies(found)["run/linear/mean/2/1"]


def test_features_are_taken_once_for_all_probes(copy, monkeypatch):
    calls = []
    extract = features.extract
    shutil.rmtree(copy / "runs/small/features")
    monkeypatch.setattr(features, "extract", lambda *words: calls.append(1) or extract(*words))
    probed(copy, "run=runs/small", *LINEAR)
    assert len(calls) == 2  # training and test images
    probed(copy, "run=runs/small", *LINEAR, "probe.name=linear+knn", "probe.fractions=[0.1,1]")
    assert len(calls) == 2


@pytest.mark.slow
def test_probes_that_train_answer_beside_the_others(copy):
    words = (
        "probe.controls=true",
        "probe.seeds=1",
        "probe.epochs=0.3",
        "probe.blocks=[0,0.5]",
        "probe.fractions=[0.1]",
    )
    found = probed(copy, "run=runs/small", "probe.name=paper_linear+attentive+efficient+partial+finetune", *words)
    names = set(accuracies(found))
    assert {name for name in names if name.startswith("run/partial")} == {
        "run/partial/blocks=0, 0.3 epochs/0.1",
        "run/partial/blocks=0.5, 0.3 epochs/0.1",
    }
    for probe in ("paper_linear", "attentive", "efficient", "finetune"):
        assert {f"run/{probe}/0.3 epochs/0.1", f"untrained/{probe}/0.3 epochs/0.1"} <= names


def test_a_model_from_scratch_is_a_folder_to_compare_with(tmp_path):
    words = ("data.name=photos", "data.image_size=16", "patch_size=4", "probe.epochs=0.1", "probe.seeds=1")
    found = probed(tmp_path, "scratch=nano", *words)
    assert list(accuracies(found)) == ["scratch/finetune/0.1 epochs/1"]
    assert list(found.encoders) == ["scratch"]


def test_a_network_that_has_seen_labels_is_named(copy):
    config = copy / "runs/small/config.yaml"
    weights = "\n  weights:\n    perceptual: {source: imagenet, sha256: 00}\n"
    config.write_text(config.read_text().rpartition("# sha256")[0].replace("\n  weights: {}\n", weights))
    found = probed(copy, "run=runs/small", *LINEAR)
    assert any(note.startswith("Not label-free: the objective's perceptual term") for note in found.caveats)


def test_a_fine_tuned_classifier_is_called_one_and_a_file_that_nothing_vouches_for_too(run, tmp_path):
    state = {name: value for name, value in open_run(run).model.state_dict().items() if name.startswith(ENCODER)}
    encoder = {"cls_token": state.pop("cls_token")} | state
    torch.save(encoder, tmp_path / "encoder.pth")
    save_file(encoder, tmp_path / "plain.safetensors")
    norm = {name.replace("norm.", "fc_norm."): encoder.pop(name) for name in ("norm.weight", "norm.bias")}
    torch.save(encoder | norm | {"head.weight": torch.zeros(10, 192)}, tmp_path / "tuned.pth")

    def caveats(name: str) -> str:
        return "\n".join(command.run_caveats(open_run(tmp_path / name)))

    assert "tuned.pth: a fine-tuned classifier" in caveats("tuned.pth")
    assert f"Not label-free: {tmp_path / 'tuned.pth'} was trained on labels." in caveats("tuned.pth")
    assert "label" not in caveats("encoder.pth") and "vouches" not in caveats("encoder.pth")
    assert f"Nothing in {tmp_path / 'plain.safetensors'} vouches for its bytes." in caveats("plain.safetensors")
    assert command.run_caveats(open_run(run)) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give what to probe"),
        (("run=runs/small", "data.image_size=24"), "data.image_size with run=runs/small: a run has its own"),
        (("run=runs/small", "probe.name=partial", "probe.blocks=[]"), "probe.blocks=[] names no number"),
        (("run=runs/small", "scratch=nano"), "give what to probe"),
        (("run=runs/nowhere",), "there is no run runs/nowhere"),
        (("run=runs/small", "probe.name=linaer"), "unknown probe 'linaer'; did you mean 'linear'?"),
        (("run=runs/small", "probe.layer=9"), "probe.layer=9: choose a block from 1 to 4, or all"),
        (("run=runs/small", "probe.fractions=[0]"), "probe.fractions=[0.0]"),
        (("run=runs/small", "probe.name=partial", "probe.blocks=[0.3]"), "probe.blocks=[0.3]"),
        (("run=runs/small", "probe.seeds=0"), "probe.seeds=0 must be at least 1"),
        (("run=runs/small", "data.name=gaussian"), "unknown dataset 'gaussian'"),
        (("run=runs/small", "probe.recipe=tiny"), "probe.recipe=tiny"),
        (("scratch=nano",), "scratch=nano needs data=NAME"),
        (("scratch=nano", "data.name=photos", "data.image_size=16", "probe.name=linear"), "take linear away"),
    ],
)
def test_what_cannot_be_probed_is_named_and_nothing_is_written(copy, words, said):
    before = sums(copy)
    with pytest.raises(InvalidSetting) as error:
        probed(copy, *words)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert sums(copy) == before


def test_frozen_features_are_in_float32_unless_bfloat16_is_asked_for(copy, monkeypatch):
    monkeypatch.setattr(device, "fast_bfloat16", lambda kind: True)
    before = set(sums(copy / "runs/small/features"))
    probed(copy, "run=runs/small", "precision=auto", *KNN)
    assert set(sums(copy / "runs/small/features")) == before  # those that precision=fp32 left
    probed(copy, "run=runs/small", "precision=bf16", "again=true", *KNN)
    assert len(set(sums(copy / "runs/small/features")) - before) == 1
