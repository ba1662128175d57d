"""What a file is, is seen in its names; what it cannot tell is not made up."""

import hashlib
import json

import pytest
import torch
import yaml
from safetensors.torch import save_file

from losses import InvalidSetting, NormalisedPixelHead
from recon.model.formats import Architecture, read, write
from recon.model.formats.files import weights_in
from tests.recon.model.formats.conftest import encoder_only, images, made, same


@pytest.mark.parametrize(
    ("name", "form", "decoder", "target"),
    [
        ("encoder", "official", False, None),
        ("visualize", "official", True, None),
        ("full", "official", True, "normalised pixels"),
        ("timm", "timm", False, None),
    ],
)
def test_a_file_is_known_by_its_names(files, state, name, form, decoder, target):
    found = read(files[name])
    assert (found.format, found.has_decoder, found.target) == (form, decoder, target)
    assert found.sha256 == hashlib.sha256(files[name].read_bytes()).hexdigest()
    assert same(found.state, state if decoder else encoder_only(state))
    a = found.architecture
    assert (a.width, a.depth, a.heads, a.patch_size, a.image_size) == (128, 2, 2, 8, (32, 32))
    assert (a.decoder_width, a.decoder_depth, a.decoder_heads) == ((64, 1, 2) if decoder else (None, None, None))


def test_shapes_are_those_of_the_model(state):
    assert Architecture(128, 2, 2, 8, (32, 32), 64, 1, 2).shapes() == {
        name: tuple(value.shape) for name, value in state.items()
    }


@pytest.mark.parametrize("name", ["visualize", "full"])
def test_the_model_predicts_what_the_model_behind_the_file_predicts(files, model, name):
    noise = torch.rand(3, 16, generator=torch.Generator().manual_seed(1))
    found = read(files[name]).model()
    assert not found.training
    assert torch.equal(found(images(), noise=noise).prediction, model(images(), noise=noise).prediction)


def test_an_encoder_alone_encodes_as_the_whole_model_and_moves_no_generator(files, model):
    before = torch.get_rng_state()
    assert torch.equal(read(files["encoder"]).model().encode(images()), model.encode(images()))
    assert torch.equal(before, torch.get_rng_state())


def test_a_target_is_taken_only_where_the_file_cannot_tell(files):
    assert read(files["visualize"], "normalised").target == "normalised pixels"
    assert read(files["visualize"], "pixels").target == "pixels"
    assert read(files["full"], "normalised").target == "normalised pixels"
    for name, target, said in [
        ("full", "pixels", "says itself"),
        ("encoder", "pixels", "no decoder"),
        ("visualize", "both", "target=pixels"),
    ]:
        with pytest.raises(InvalidSetting, match=said):
            read(files[name], target)


def test_normalised_patches_without_statistics_are_drawn_by_the_oracle_alone(files):
    r = read(files["full"]).model()(images())
    assert r.as_image(r.oracle_pixels).isfinite().all()
    with pytest.raises(ValueError, match="oracle"):
        _ = r.pixels


def test_a_run_says_its_target_sizes_and_colours(tmp_path):
    model = made(head=NormalisedPixelHead(), image_size=(16, 32), width=192, heads=3, depth=4)
    config = {
        "resolved": {"head": "normalised pixels", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
        "data": {"image_size": [16, 32]},
        "model": {"name": "nano", "mask_tokens": "decoder"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    found = read(tmp_path)
    assert (found.format, found.target, found.architecture.image_size) == ("recon", "normalised pixels", (16, 32))
    assert found.architecture.heads == 3 and found.mean == (0.1, 0.2, 0.3) and found.has_statistics
    size = torch.rand(2, 3, 16, 32)
    assert torch.equal(found.model().encode(size), made_like(model, found).encode(size))
    write(found, tmp_path / "out.safetensors", "recon")
    again = read(tmp_path / "out.safetensors")
    assert same(again.state, found.state)
    assert (again.architecture, again.target, again.mean, again.std) == (
        found.architecture,
        found.target,
        found.mean,
        found.std,
    )


def made_like(model, found):
    like = made(
        head=NormalisedPixelHead(), image_size=(16, 32), width=192, heads=3, depth=4, mean=found.mean, std=found.std
    )
    like.load_state_dict(model.state_dict())
    return like


def test_half_precision_stays_half_in_the_file_and_computes_in_single(tmp_path, state, model):
    torch.save({"model": {k: v.half() for k, v in state.items()}}, tmp_path / "half.pth")
    found = read(tmp_path / "half.pth")
    assert {value.dtype for value in found.state.values()} == {torch.float16}
    encoded = found.model().encode(images())
    assert encoded.dtype == torch.float32 and (encoded - model.encode(images())).abs().max() < 0.05


def test_a_folder_with_many_shards_or_none_is_refused(tmp_path):
    with pytest.raises(InvalidSetting, match=r"model.safetensors or pytorch_model.bin"):
        weights_in(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({}))
    with pytest.raises(InvalidSetting, match="several files"):
        weights_in(tmp_path)


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_the_keys_and_prefixes_of_training_programs_are_understood(tmp_path, state, key, prefix):
    torch.save({"epoch": 3, key: {prefix + name: value for name, value in state.items()}}, tmp_path / "a.pth")
    found = read(tmp_path / "a.pth")
    assert same(found.state, state) and found.format == "official"


def test_a_whole_module_is_read(tmp_path, model, state):
    torch.save(model, tmp_path / "module.pth")
    assert same(read(tmp_path / "module.pth").state, state)


def test_a_fine_tuned_classifier_is_called_one_and_its_encoder_is_read(tmp_path, state, model):
    learnt = encoder_only(state) | {"pos_embed": state["pos_embed"] + 0.1}
    norm = {name.replace("norm.", "fc_norm."): learnt.pop(name) for name in ("norm.weight", "norm.bias")}
    head = {"head.weight": torch.zeros(10, 128), "head.bias": torch.zeros(10)}
    torch.save({"model": learnt | norm | head}, tmp_path / "finetuned.pth")
    found = read(tmp_path / "finetuned.pth")
    assert not found.has_decoder and "fine-tuned classifier" in found.description()["notes"]
    tuned = found.model()
    assert torch.equal(tuned.pos_embed, learnt["pos_embed"]) and torch.equal(tuned.norm.weight, state["norm.weight"])
    assert not torch.equal(tuned.encode(images()), model.encode(images()))
    tuned.pos_embed.copy_(model.pos_embed)
    assert torch.equal(tuned.encode(images()), model.encode(images()))
    for out, form in (("a.safetensors", "timm"), ("a.pth", "official")):
        with pytest.raises(InvalidSetting, match="give the pretrained model"):
            write(found, tmp_path / out, form)


def test_what_a_file_vouches_for_is_said(files, tmp_path):
    write(read(files["full"]), tmp_path / "ours.safetensors", "recon")
    write(read(files["visualize"]), tmp_path / "folder", "transformers")
    write(read(files["full"]), tmp_path / "encoder.safetensors", "timm")
    vouched = [files["full"], tmp_path / "ours.safetensors", tmp_path / "folder", tmp_path / "encoder.safetensors"]
    assert all("digest" in read(path).description()["integrity"] for path in vouched)
    assert "nothing" in read(files["timm"]).description()["integrity"]
    content = bytearray((tmp_path / "ours.safetensors").read_bytes())
    content[-5] ^= 1
    (tmp_path / "ours.safetensors").write_bytes(content)
    with pytest.raises(InvalidSetting, match="does not fit its digest"):
        read(tmp_path / "ours.safetensors")
