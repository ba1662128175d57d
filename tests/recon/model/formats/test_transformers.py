"""transformers' ViTMAE, with the same weights, encodes and predicts alike; and reads what is written for it."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from recon.model.formats import read, write
from recon.model.formats.hugging_face import from_official
from tests.recon.model.formats.conftest import PATCHES, edited, images, same

pytestmark = pytest.mark.peers

transformers = pytest.importorskip("transformers")


@pytest.fixture
def folder(files, tmp_path):
    write(read(files["full"]), tmp_path / "hf", "transformers")
    return tmp_path / "hf"


@pytest.fixture
def standardised(model):
    return (images() - model.mean) / model.std


def loaded(kind, folder):
    found, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"]
    return found.eval(), report


@torch.no_grad()
def test_transformers_predicts_alike_and_knows_the_target(folder, model, standardised):
    other, report = loaded(transformers.ViTMAEForPreTraining, folder)
    assert not report["unexpected_keys"]
    assert other.config.norm_pix_loss is True
    noise = torch.rand(3, PATCHES, generator=torch.Generator().manual_seed(3))
    ours, found = model(images(), noise=noise), other(standardised, noise=noise)
    assert torch.equal(found.mask.bool(), ours.mask)
    assert (found.logits - ours.prediction).abs().max() < 1e-4


@torch.no_grad()
def test_transformers_encodes_alike(folder, model, standardised):
    edited(folder / "config.json", mask_ratio=0.0)
    other, _ = loaded(transformers.ViTMAEModel, folder)
    order = torch.linspace(0, 1, PATCHES).expand(3, -1)  # keeps the patches where they are
    found = other(standardised, noise=order).last_hidden_state
    assert (found - model.encode(images())).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["ViTMAEForPreTraining", "ViTMAEModel"])
def test_what_transformers_saves_comes_back_exactly(folder, tmp_path, state, kind):
    other, _ = loaded(getattr(transformers, kind), folder)
    other.save_pretrained(tmp_path / "theirs")
    found = read(tmp_path / "theirs")
    whole = kind == "ViTMAEForPreTraining"
    assert found.has_decoder is whole and found.target == ("normalised pixels" if whole else None)
    assert same(found.state, {name: value for name, value in state.items() if whole or name in found.state})
    assert found.architecture == (read(folder).architecture if whole else found.architecture)


def test_names_of_the_hub_and_of_the_modules_in_memory_are_both_read(folder, tmp_path, state):
    hub = load_file(folder / "model.safetensors")
    assert same(hub, from_official(state)) and "vit.encoder.layer.1.attention.attention.query.weight" in hub
    other, _ = loaded(transformers.ViTMAEForPreTraining, folder)
    save_file(other.state_dict(), tmp_path / "memory.safetensors")
    found = read(tmp_path / "memory.safetensors")
    assert same(found.state, state)
    assert found.target is None and found.notes  # no config.json beside it: heads are assumed, the target is unknown
    torch.save(hub, tmp_path / "pytorch_model.bin")
    assert same(read(tmp_path / "pytorch_model.bin").state, state)


@torch.no_grad()
@pytest.mark.parametrize("eps", [1e-12, 1e-3])
def test_the_norms_epsilon_is_the_configs_as_transformers_has_it(folder, standardised, tmp_path, eps):
    """The configurations on the hub say 1e-12, and a class token of small variance shows it."""
    edited(folder / "config.json", layer_norm_eps=eps, mask_ratio=0.0)
    weights = load_file(folder / "model.safetensors")
    weights["vit.embeddings.cls_token"] *= 1e-2
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    found = read(folder)
    other, _ = loaded(transformers.ViTMAEModel, folder)
    order = torch.linspace(0, 1, PATCHES).expand(3, -1)
    theirs_encoded = other(standardised, noise=order).last_hidden_state
    assert (found.model().encode(images()) - theirs_encoded).abs().max() < 1e-5
    for out, form in [
        ("a.safetensors", "recon"),
        ("b.safetensors", "timm"),
        ("c.pth", "official"),
        ("d", "transformers"),
    ]:
        left_out = write(found, tmp_path / out, form)
        assert read(tmp_path / out).architecture.norm_eps == eps
        assert any("epsilon" in what for what in left_out) is (form in ("timm", "official"))


def test_heads_that_only_the_config_tells_are_taken_from_it(folder):
    edited(folder / "config.json", num_attention_heads=4, decoder_num_attention_heads=1, norm_pix_loss=False)
    found = read(folder)
    assert (found.architecture.heads, found.architecture.decoder_heads, found.target) == (4, 1, "pixels")
    assert found.model().blocks[0].attn.num_heads == 4
