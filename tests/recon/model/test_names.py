"""The names of the weights: the official MAE code's, and for the encoder timm's."""

import timm
import torch

from losses.heads import NormalisedPixelHead
from recon.model import create_model
from tests.recon.model.conftest import images, small

BLOCK = [
    f"{part}.{kind}"
    for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    for kind in ("weight", "bias")
]
OFFICIAL = {
    "cls_token",
    "pos_embed",
    "mask_token",
    "decoder_pos_embed",
    *(
        f"{part}.{kind}"
        for part in ("patch_embed.proj", "norm", "decoder_embed", "decoder_norm", "decoder_pred")
        for kind in ("weight", "bias")
    ),
    *(f"blocks.{i}.{name}" for i in range(2) for name in BLOCK),
    *(f"decoder_blocks.{i}.{name}" for i in range(2) for name in BLOCK),
}


def test_names_are_those_of_the_official_code():
    assert set(small().state_dict()) == OFFICIAL


def test_shapes_are_those_of_the_official_code():
    shapes = {key: tuple(value.shape) for key, value in small().state_dict().items()}
    assert shapes["patch_embed.proj.weight"] == (48, 3, 4, 4)
    assert shapes["pos_embed"] == (1, 16, 48) and shapes["decoder_pos_embed"] == (1, 16, 32)
    assert shapes["cls_token"] == (1, 1, 48) and shapes["mask_token"] == (1, 1, 32)
    assert shapes["blocks.1.attn.qkv.weight"] == (144, 48) and shapes["blocks.1.mlp.fc1.weight"] == (192, 48)
    assert shapes["decoder_blocks.0.attn.qkv.bias"] == (96,) and shapes["decoder_pred.weight"] == (48, 32)


def test_the_normalised_head_adds_its_statistics_and_nothing_else():
    model = small(head=NormalisedPixelHead())
    assert {key.split(".")[0] for key in set(model.state_dict()) - OFFICIAL} == {"statistics"}
    problems = model.load_state_dict(small().state_dict(), strict=False)
    assert not problems.unexpected_keys and all(key.startswith("statistics.") for key in problems.missing_keys)


def test_the_encoder_is_a_timm_vision_transformer():
    ours = create_model("tiny", image_size=(32, 48), patch_size=8, decoder_depth=1).double()
    with torch.no_grad():
        for p in ours.parameters():
            p.add_(torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(0)) * 0.05)
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=(32, 48), patch_size=8, num_classes=0).double().eval()
    encoder = {key: value for key, value in ours.state_dict().items() if "decoder" not in key and key != "mask_token"}
    theirs.load_state_dict(encoder, strict=True)
    truth = torch.rand(2, 3, 32, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.forward_features((truth - ours.mean) / ours.std)
        assert torch.allclose(ours.encode(truth), expected, rtol=0, atol=1e-11)


def test_weights_of_another_image_size_load_and_the_positions_stay_the_formula_s():
    saved = small(image_size=(20, 20), seed=1).state_dict()
    untouched = {key: value.clone() for key, value in saved.items()}
    model = small()
    positions = model.pos_embed.clone(), model.decoder_pos_embed.clone()
    model.load_state_dict(saved, strict=True)
    assert torch.equal(model.pos_embed, positions[0]) and torch.equal(model.decoder_pos_embed, positions[1])
    for key, value in model.state_dict().items():
        assert "pos_embed" in key or torch.equal(value, saved[key])
    assert all(torch.equal(untouched[key], value) for key, value in saved.items())
    assert model.encode(images()).shape == (3, 16, 48)


def test_stored_positions_are_not_believed():
    model = small()
    before = model.encode(images())
    model.load_state_dict(model.state_dict() | {"pos_embed": torch.full((1, 16, 48), torch.nan)}, strict=True)
    assert torch.equal(model.encode(images()), before)
