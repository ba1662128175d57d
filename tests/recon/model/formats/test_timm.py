"""timm's own model, with the weights that are written for it, encodes alike."""

import pytest
import timm
import torch
from timm.models import load_checkpoint
from timm.models.vision_transformer import VisionTransformer

from recon.model.formats import Architecture, read, write
from tests.recon.model.formats.conftest import images, same


def transformer() -> VisionTransformer:
    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=128, depth=2, num_heads=2, num_classes=0, global_pool=""
    ).eval()


@pytest.fixture
def standardised(model):
    return (images() - model.mean) / model.std


@torch.no_grad()
def test_timm_encodes_alike(files, tmp_path, model, standardised):
    write(read(files["full"]), tmp_path / "for_timm.safetensors", "timm")
    theirs = transformer()
    load_checkpoint(theirs, str(tmp_path / "for_timm.safetensors"), strict=True)
    assert (theirs(standardised) - model.encode(images())).abs().max() < 1e-5


@torch.no_grad()
def test_a_file_that_timm_saved_encodes_alike(tmp_path, standardised, model):
    theirs = transformer()
    theirs.load_state_dict({k: v for k, v in model.state_dict().items() if k in theirs.state_dict()}, strict=True)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    found = read(tmp_path / "pytorch_model.bin")
    assert found.format == "timm" and same(found.state, theirs.state_dict())
    assert (found.model().encode(images()) - theirs(standardised)).abs().max() < 1e-5


def test_the_names_and_shapes_are_those_of_timms_mae_models():
    for name, a in {
        "vit_base_patch16_224.mae": Architecture(768, 12, 12, 16, (224, 224)),
        "vit_huge_patch14_224.mae": Architecture(1280, 32, 16, 14, (224, 224)),
    }.items():
        with torch.device("meta"):
            theirs = timm.create_model(name, pretrained=False, num_classes=0, global_pool="")
        assert a.shapes() == {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
        assert theirs.blocks[0].attn.num_heads == a.heads
