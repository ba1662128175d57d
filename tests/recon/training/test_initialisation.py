"""Warm starts: what a run begins with, what it takes and what it draws anew."""

import pytest
import torch
from safetensors.torch import load_file

from losses import InvalidSetting
from recon.loaded_run import load_run
from recon.model.formats import read, write
from recon.run_folder import CHECKPOINT, PREVIOUS, read_checkpoint
from tests.recon.training.conftest import (
    SMALL,
    as_killed_after_its_first_checkpoint,
    contents,
    differences,
    pretrain,
    resumed,
    small_run,
    state_of,
)

START = ["train.steps=2", "loss=mse"]
ENCODER = ("cls_token", "patch_embed.", "blocks.", "norm.")
# Sizes of the model and images are left to the checkpoint.
FREE = [w for w in SMALL if not w.startswith(("model.", "data.image_size"))]


@pytest.fixture(scope="module")
def place(tmp_path_factory, pictures):
    place = tmp_path_factory.mktemp("starts")
    small_run(place, pictures, "parent", *START)
    return place


@pytest.fixture(scope="module")
def parent(place):
    return place / "runs" / "parent"


def begun(place, pictures, name: str, *words: str):
    """The folder of a run that has taken no step that moves anything: its rate is next to nothing."""
    words = ("train.steps=1", "optim.base_lr=1e-30", "optim.weight_decay=0", *words)
    assert pretrain(place, *FREE, f"data.root={pictures}", f"name={name}", *words) == 0
    return place / "runs" / name


def tensors(folder):
    return load_file(folder / "model.safetensors")


def same(a, b, names) -> bool:
    """But for the 1e-30 by which a first step may move them."""
    return all(
        a[name].shape == b[name].shape and torch.allclose(a[name], b[name], rtol=0, atol=1e-20) for name in names
    )


def test_a_run_begins_with_another_runs_weights_and_sizes(place, pictures, parent):
    folder = begun(place, pictures, "child", f"init={parent}", "loss=l1")
    assert same(tensors(parent), tensors(folder), tensors(parent))
    trained = load_run(folder)
    assert (trained.model.patch_size, trained.model.image_size, len(trained.model.decoder_blocks)) == (4, (16, 16), 1)
    record = trained.resolved["init"]
    assert record["taken"] == ["encoder", "decoder"] and record["new"] == []
    assert record["sha256"] == read(parent).sha256 and record["source"] == str(parent)


def test_class_tokens_are_taken_with_their_number_and_go_on_exactly(place, pictures):
    words = ["loss=mse", "model.class_tokens=3", "train.steps=4", "train.checkpoint_every=2"]
    several = small_run(place, pictures, "several", *words)
    assert tensors(several)["cls_token"].shape == (1, 3, 192)
    child = begun(place, pictures, "child-of-several", f"init={several}", "loss=mse")
    assert same(tensors(several), tensors(child), tensors(several)) and load_run(child).model.class_tokens == 3
    again = as_killed_after_its_first_checkpoint(several, "killed-several")
    resumed(place, "killed-several")
    assert differences(state_of(several), state_of(again)) == []


@pytest.mark.parametrize("format", ["official", "recon", "transformers"])
def test_a_file_of_others_begins_a_run_as_the_run_itself_would(place, pictures, parent, format, tmp_path):
    path = tmp_path / {"official": "mae.pth", "recon": "mae.safetensors", "transformers": "mae"}[format]
    write(read(parent), path, format)
    folder = begun(place, pictures, f"from-{format}", f"init={path}", "loss=mse")
    assert same(tensors(parent), tensors(folder), tensors(parent))


def test_a_decoder_of_another_target_is_drawn_anew_and_the_encoder_is_taken(place, pictures, parent):
    folder = begun(place, pictures, "normalised", f"init={parent}", "loss=norm_mse")
    ours, theirs = tensors(folder), tensors(parent)
    assert same(ours, theirs, [name for name in theirs if name.startswith(ENCODER)])
    assert not same(ours, theirs, ["decoder_pred.weight"])
    record = load_run(folder).resolved["init"]
    assert record["taken"] == ["encoder"] and set(record["new"]) == {"decoder", "statistics"}
    assert "predicts pixels" in record["decoder"]


def test_init_decoder_says_otherwise(place, pictures, parent):
    new = begun(place, pictures, "new", f"init={parent}", "loss=mse", "init_decoder=new")
    assert not same(tensors(new), tensors(parent), ["decoder_pred.weight"])
    sizes = ("model.decoder_width=32", "model.decoder_depth=1")
    new = begun(place, pictures, "new-same-size", f"init={parent}", "loss=mse", "init_decoder=new", *sizes)
    assert not same(tensors(new), tensors(parent), ["decoder_pred.weight"])
    kept = begun(place, pictures, "kept", f"init={parent}", "loss=norm_mse", "init_decoder=keep")
    assert same(tensors(kept), tensors(parent), ["decoder_pred.weight"])
    assert "though it predicts pixels" in load_run(kept).resolved["init"]["decoder"]


def test_a_refiner_is_added_to_a_model_that_had_none(place, pictures, parent):
    folder = begun(place, pictures, "refined", f"init={parent}", "loss=mse", "model.refiner_width=8")
    assert load_run(folder).resolved["init"]["new"] == ["refiner"]
    assert same(tensors(parent), tensors(folder), tensors(parent))
    again = begun(place, pictures, "refined-again", f"init={folder}", "loss=l1")
    assert same(tensors(folder), tensors(again), tensors(folder))


@pytest.mark.parametrize("loss", ["flow", "mixture"])
def test_a_head_that_draws_is_taught_alone_and_files_of_this_project_keep_it(place, pictures, parent, loss, tmp_path):
    """The model beside it stays the same; files of others leave the head out."""
    words = [*FREE, f"data.root={pictures}", f"init={parent}", "train.steps=3", f"loss={loss}", "train.parts=head"]
    words.append("losses.flow.steps=2")
    assert pretrain(place, *words, f"name=head-{loss}") == 0
    folder = place / "runs" / f"head-{loss}"
    ours, theirs = tensors(folder), tensors(parent)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    trained = load_run(folder)
    assert trained.resolved["init"]["new"] == ["distribution"] and trained.model.head.name == loss
    images, mask = torch.rand(2, 3, 16, 16), torch.arange(16).expand(2, -1) < 12
    if loss == "flow":  # its mean is the parent's prediction
        means = trained.model.render(images, mask, "mean"), load_run(parent).model(images, mask=mask)
        assert torch.equal(means[0].composite, means[1].composite)
    again = begun(place, pictures, f"again-{loss}", f"init={folder}", f"loss={loss}", "losses.flow.steps=2")
    assert same(ours, tensors(again), ours)
    assert write(read(folder), tmp_path / "whole.safetensors", "recon") == []
    whole = read(tmp_path / "whole.safetensors").model()
    drawn = [model.render(images, mask, "sample").composite for model in (whole, trained.model)]
    assert torch.equal(*drawn)
    assert "draw from a distribution" in write(read(folder), tmp_path / "mae.pth", "official")[0]
    assert not read(tmp_path / "mae.pth").model().head.renderings


def test_a_frozen_encoder_stays_the_same_to_the_bit(place, pictures, parent):
    words = [*FREE, f"data.root={pictures}", f"init={parent}", "train.steps=3", "train.parts=decoder", "loss=l1"]
    assert pretrain(place, *words, "name=frozen") == 0
    ours, theirs = tensors(place / "runs" / "frozen"), tensors(parent)
    of_encoder = [name for name in theirs if name.startswith(ENCODER)]
    assert all(torch.equal(ours[name], theirs[name]) for name in of_encoder)
    assert not any(same(ours, theirs, [name]) for name in theirs if "decoder" in name and name.endswith("weight"))
    images = torch.rand(2, 3, 16, 16)
    encoded = [load_run(place / "runs" / name).model.encode(images) for name in ("frozen", "parent")]
    assert torch.equal(*encoded)  # so every probe of it is its parent's


def test_a_refiner_trained_alone_leaves_encoder_and_decoder_the_same_to_the_bit(place, pictures, parent):
    words = [*FREE, f"data.root={pictures}", f"init={parent}", "train.steps=3", "model.refiner_width=8", "loss=l1"]
    assert pretrain(place, *words, "name=refiner", "train.parts=refiner") == 0
    ours, theirs = tensors(place / "runs" / "refiner"), tensors(parent)
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert ours["refiner.outputs.weight"].abs().min() > 0


def test_a_killed_warm_start_resumes_to_the_same_bits_without_its_start(place, pictures, parent, tmp_path):
    words = [*FREE, f"data.root={pictures}", "train.steps=4", "train.checkpoint_every=2", "loss=mse", "train.ema=0.9"]
    source = tmp_path / "start.safetensors"
    write(read(parent), source, "recon")
    assert pretrain(place, *words, f"init={source}", "name=whole") == 0
    whole = place / "runs" / "whole"
    source.unlink()
    killed = place / "runs" / "cut"
    killed.mkdir()
    for name in ("config.yaml", "metrics.jsonl"):
        (killed / name).write_bytes((whole / name).read_bytes())
    (killed / CHECKPOINT).write_bytes((whole / PREVIOUS).read_bytes())
    resumed(place, "cut")
    left, right = (read_checkpoint(folder / CHECKPOINT) for folder in (whole, killed))
    for state in (left, right):
        state.pop("settings")
    assert differences(left, right) == []
    assert same(tensors(whole), tensors(killed), tensors(whole))
    assert left["before"]["pictures"].dtype == torch.uint8 and "masked_psnr" in left["before"]["seen"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["init=nowhere.pth"], "nowhere.pth"),
        (["init={parent}", "model.name=tiny"], "model.name=tiny"),
        (["init={parent}", "model.patch_size=8"], "model.patch_size=8"),
        (["init={parent}", "model.decoder_width=64"], "model.decoder_width=64"),
        (["init={encoder}", "train.parts=decoder"], "init_decoder=new"),
        (["init={encoder}", "init_decoder=keep"], "no decoder"),
        (["train.parts=decoder"], "init=RUN"),
        (["train.parts=encoder", "init={parent}"], "refiner or head"),
        (["train.parts=refiner"], "init=RUN"),
        (["train.parts=refiner", "init={parent}"], "model.refiner_width=32"),
        (["train.parts=refiner", "init={parent}", "model.refiner_width=8", "loss=norm_mse"], "norm"),
        (["train.parts=refiner", "init={encoder}", "model.refiner_width=8"], "decoder"),
        (["train.parts=head", "init={parent}"], "use loss=flow or loss=mixture"),
        (["train.parts=head", "init={parent}", "loss=flow", "init_decoder=new"], "a decoder that is kept"),
        (["loss=flow", "losses.flow.source=median", "init={parent}"], "choose mean or noise"),
        (["loss=mixture", "losses.mixture.components=49", "init={parent}"], "a patch has 48 values"),
        (["init={parent}", "init_decoder=yes"], "keep or new"),
        (["init={parent}", "model.class_tokens=3"], "model.class_tokens=3, but"),
        (["train.ema=1"], "train.ema=1"),
        (["train.ema=-0.1"], "train.ema=-0.1"),
        (["init={parent}", "model.refiner_width=8", "loss=norm_mse"], "refiner"),
    ],
)
def test_what_cannot_be_begun_is_one_line_and_nothing_written(place, pictures, parent, tmp_path, words, named):
    encoder = tmp_path / "encoder.safetensors"
    write(read(parent), encoder, "timm")
    words = [word.format(parent=parent, encoder=encoder) for word in words]
    before = contents(tmp_path)
    with pytest.raises(InvalidSetting) as error:
        pretrain(tmp_path, *FREE, f"data.root={pictures}", "name=x", "loss=mse", "train.steps=2", *words)
    assert named in str(error.value) and len(str(error.value).splitlines()) == 1
    assert contents(tmp_path) == before
