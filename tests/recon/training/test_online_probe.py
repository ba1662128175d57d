"""The online probe: the run does not feel it, it goes on exactly, and it measures what it says."""

import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from losses import InvalidSetting
from recon.data import create_dataset
from recon.model import create_model
from recon.neighbours import knn
from recon.run_folder import CHECKPOINT, read_checkpoint
from recon.training import online_probe
from recon.training.online_probe import LabelledCrops, OnlineProbe, labelled_crops
from tests.recon.launched import ranks, said, wait
from tests.recon.training.conftest import (
    SMALL,
    as_killed_after_its_first_checkpoint,
    differences,
    lines_of,
    pretrain,
    resumed,
    save_pictures,
    small_run,
    state_of,
    timeless,
)

# Something of everything that draws random numbers: masks, crops, a critic's shifts, workers.
WORDS = ["data.name=photos", "loss=mse+50%adversarial", "train.steps=8", "train.checkpoint_every=4"]
WORDS += ["train.log_every=3", "train.picture_every=2", "train.ema=0.5", "batch.per_device=4"]
CURVES = {"online_probe/loss", "online_probe/train", "online_probe/linear", "online_probe/knn"}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Runs with and without the probe, and one with it that was killed and resumed."""
    place = tmp_path_factory.mktemp("online")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(online_probe, "TRAIN", 60)
        patch.setattr(online_probe, "TEST", 30)
        small_run(place, place, "without", *WORDS)
        watched = small_run(place, place, "with", *WORDS, "train.online_probe=true")
        as_killed_after_its_first_checkpoint(watched, "killed")
        resumed(place, "killed")
        as_killed_after_its_first_checkpoint(place / "runs/without", "later")
        resumed(place, "later", "train.online_probe=true")
    return place / "runs"


def own(line: dict) -> dict:
    return {key: value for key, value in line.items() if key in CURVES}


def rest(state: dict) -> dict:
    """Without what the probe adds to a checkpoint or a line."""
    settings = {key: value for key, value in state.get("settings", {}).items() if key != "train.online_probe"}
    return {key: value for key, value in state.items() if key not in (*CURVES, "online_probe")} | {"settings": settings}


@pytest.mark.parametrize("watched", ["with", "killed", "later"])
def test_the_run_is_the_same_to_the_bit(place, watched):
    """Weights, averages, critics, optimisers and random generators; also where it was resumed."""
    assert differences(rest(state_of(place / watched)), rest(state_of(place / "without"))) == []
    assert (place / watched / "model.safetensors").read_bytes() == (place / "without/model.safetensors").read_bytes()
    plain = timeless(lines_of(place / "without"))
    assert [rest(line) for line in timeless(lines_of(place / watched))] == [rest(line) for line in plain]
    assert not any(own(line) for line in plain)


def test_a_resumed_run_has_the_same_curves_and_the_same_probe(place):
    one, other = (lines_of(place / name) for name in ("with", "killed"))
    assert [own(line) for line in one] == [own(line) for line in other]
    states = [read_checkpoint(place / name / CHECKPOINT)["online_probe"] for name in ("with", "killed")]
    assert differences(*states) == [] and states[0]["weight"].any()


def test_curves_are_logged_when_the_others_are(place):
    found = {line["step"]: own(line) for line in lines_of(place / "with")}
    assert set(found[3]) == {"online_probe/loss", "online_probe/train"} and set(found[8]) == CURVES
    assert all(0 <= value <= 1 for line in found.values() for key, value in line.items() if key != "online_probe/loss")
    assert found[2]["online_probe/loss"] == pytest.approx(torch.tensor(8.0).log().item(), rel=0.05)  # of 8 classes


def test_a_run_can_begin_to_be_probed_on_its_way(place):
    assert all((line["step"] > 4) == bool(own(line)) for line in lines_of(place / "later"))


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("shard", ["false", "true"])
def test_two_processes_train_the_same_with_it(tmp_path, shard):
    """Also where neither has the whole model."""
    words = [*SMALL, "data.name=photos", "loss=mse", "train.steps=3", "train.picture_every=2", f"shard={shard}"]
    for name, watched in (("with", "true"), ("without", "false")):
        launched = ranks(tmp_path, "pretrain", *words, f"name={name}", f"train.online_probe={watched}")
        assert wait(*launched) == [0, 0], said(tmp_path)
    one, other = (tmp_path / "runs" / name for name in ("with", "without"))
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert set(own(lines_of(one)[-1])) == CURVES


def probe(classes: int, width: int = 24, seed: int = 0) -> tuple[OnlineProbe, torch.Tensor, torch.Tensor]:
    """A probe without images, and features of classes that lie side by side: (n, 1 + 4, D) and their labels."""
    model = create_model("nano", image_size=16, width=width, heads=1, depth=1, decoder_depth=1, decoder_width=32)
    none = LabelledCrops(torch.empty(0, 3, 16, 16, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(400) % classes
    centres = torch.randn(classes, width, generator=generator)
    tokens = torch.randn(400, 5, width, generator=generator) + centres[labels][:, None] * 0.15
    return OnlineProbe(model, none, none, classes, torch.device("cpu"), nullcontext), tokens, labels


def test_it_learns_softmax_regression():
    """Its accuracy comes to that of scikit-learn's on the same features."""
    found, tokens, labels = probe(5)
    features = tokens[:, 1:].mean(1)
    for _ in range(300):
        found._tokens = tokens
        found.learn(labels)
    reference = LogisticRegression(C=1e4, max_iter=1000).fit(features, labels).score(features, labels)
    predicted = found.logits(features, features).argmax(1)
    assert 0.6 < reference < 0.99
    assert (predicted == labels).double().mean().item() == pytest.approx(reference, abs=0.03)


def test_its_first_step_is_adam_s_on_the_standardised_mean_patch_token():
    found, tokens, labels = probe(5)
    found._tokens = tokens
    found.learn(labels)
    x = tokens[:, 1:].mean(1)
    x = (x - x.mean(0)) / x.std(0, correction=0)
    gradient = (torch.full((400, 5), 0.2) - F.one_hot(labels, 5)).T @ x / 400
    torch.testing.assert_close(found.weight.detach(), -online_probe.RATE * gradient.sign(), atol=1e-5, rtol=1e-2)
    loss, right, count = found.sums.tolist()
    assert loss / count == pytest.approx(torch.tensor(5.0).log().item()) and (right, count) == (80, 400)


def test_images_without_a_class_and_steps_that_are_not_finite_teach_nothing():
    found, tokens, labels = probe(5)
    some, none = labels.clone(), torch.full_like(labels, -1)
    some[200:] = -1
    other, _, _ = probe(5)
    for each, truth in ((found, some), (other, torch.where(some < 0, 99, some))):  # a class that was never counted
        each._tokens = tokens
        each.learn(truth)
    assert found.weight.any() and torch.equal(found.weight, other.weight)
    before, sums = found.weight.detach().clone(), found.sums.clone()
    for broken, truth in ((tokens, none), (tokens.where(tokens > -2, float("nan")), labels)):
        found._tokens = broken
        found.learn(truth)
        assert torch.equal(found.weight, before) and torch.equal(found.sums, sums)
    assert set(found.means()) == {"online_probe/loss", "online_probe/train"} and found.means() == {}


def test_it_sends_no_gradient_and_reads_what_the_encoder_says_of_visible_patches():
    found, _, labels = probe(5)
    model, images = found.model, torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, False, True, True]]).expand(6, -1)
    model(images, mask)
    with torch.no_grad():
        visible = model.encode_tokens(model.embed(images)[:, 1:2])
    torch.testing.assert_close(found._tokens, visible, atol=1e-5, rtol=1e-4)
    found.learn(labels[:6])
    assert all(p.grad is None for p in model.parameters()) and found.weight.any()


def test_its_accuracies_are_those_of_whole_held_out_images(monkeypatch):
    """Neighbours, and the classifier, on what `encode` says of the images that a user would read himself."""
    monkeypatch.setattr(online_probe, "BATCH", 7)
    train, val = (create_dataset("photos", split) for split in ("train", "val"))
    crops = [labelled_crops(source, count, (16, 16), 0) for source, count in ((train, 64), (val, 20))]
    assert [len(each.labels) for each in crops] == [64, 20] and crops[0].labels.unique().tolist() == list(range(8))
    model = create_model("nano", image_size=16, patch_size=4)
    found = OnlineProbe(model, *crops, 8, torch.device("cpu"), nullcontext)
    features = []
    with torch.no_grad():
        found.weight.copy_(torch.randn(8, 192, generator=torch.Generator().manual_seed(0)))
        features = [model.encode(each.images / 255)[:, 1:].mean(1) for each in crops]
    mean, std = features[0].mean(0), features[0].std(0, correction=0)
    predicted = ((features[1] - mean) / std @ found.weight.T).argmax(1)
    nearest = knn(features[0], crops[0].labels, features[1], 8, ks=[20])[20]
    assert found.accuracies() == pytest.approx(
        {
            "online_probe/linear": (predicted == crops[1].labels).double().mean().item(),
            "online_probe/knn": (nearest == crops[1].labels).double().mean().item(),
        }
    )


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("flat", "data=folder has no training image with a class; leave it out"),
        ("unlabelled", "data=folder has no held-out image with a class; leave it out"),
    ],
)
def test_data_that_it_cannot_use_is_named_before_anything_is_written(tmp_path, place, said):
    root = save_pictures(tmp_path / "flat")
    if place != "flat":
        (tmp_path / place).mkdir()
        for split, name in (("train", "cat"), ("train", "dog"), ("val", "")):
            shutil.copytree(root / "train", tmp_path / place / split / name, dirs_exist_ok=True)
    words = [f"data.root={tmp_path / place}", "data.name=folder", "train.online_probe=true"]
    with pytest.raises(InvalidSetting) as error:
        pretrain(tmp_path, *SMALL, "loss=mse", "train.steps=2", *words)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()
