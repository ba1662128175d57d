"""Sizes, and what cannot be made."""

import pytest
import timm
import torch
from torch import nn

from losses import InvalidSetting
from recon.model import SIZES, create_model

# The size of ours -> timm's model of that size, its decoder's (width, depth).
TIMM = {
    "tiny": ("vit_tiny_patch16_224", 128, 4),
    "small": ("vit_small_patch16_224", 256, 4),
    "base": ("vit_base_patch16_224", 512, 8),
    "large": ("vit_large_patch16_224", 512, 8),
    "huge": ("vit_huge_patch14_224", 512, 8),
}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_five_sizes_are_there():
    assert set(SIZES) >= set(TIMM)


@pytest.mark.parametrize("name", TIMM)
def test_encoder_and_decoder_have_the_size_s_number_of_parameters(name):
    timm_name, width, depth = TIMM[name]
    with torch.device("meta"):
        ours, theirs = create_model(name, image_size=224), timm.create_model(timm_name, num_classes=0)
    encoder = count(ours.patch_embed) + count(ours.blocks) + count(ours.norm) + ours.cls_token.numel()
    assert encoder + ours.pos_embed.numel() == count(theirs)
    values = 3 * ours.patch_size**2
    block = 12 * width**2 + 13 * width
    decoder = (ours.cls_token.numel() + 1) * width + width + depth * block + 2 * width + (width + 1) * values
    assert count(ours) - encoder == decoder
    assert [b.attn.num_heads for b in ours.blocks] == [b.attn.num_heads for b in theirs.blocks]
    assert {b.attn.head_dim for b in ours.decoder_blocks} == {32}


def test_none_keeps_the_size_s_own():
    with torch.device("meta"):
        model = create_model("base", patch_size=None, decoder_width=None, decoder_depth=None)
    assert model.patch_size == 16 and len(model.decoder_blocks) == 8 and model.decoder_embed.out_features == 512


@pytest.mark.parametrize("size", [(16, 16), (16, 40), (40, 8), (8, 16)])
def test_any_image_that_the_patch_divides(size):
    model = create_model("tiny", image_size=size, patch_size=4, depth=1, decoder_depth=1)
    assert model.grid == (size[0] // 4, size[1] // 4)
    prediction = model(torch.rand(2, 3, *size)).prediction
    assert prediction.shape == (2, model.grid[0] * model.grid[1], 48) and prediction.isfinite().all()


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("tinny", {}, ["unknown model 'tinny'", "did you mean 'tiny'", "huge"]),
        ("tiny", {"image_size": 60}, ["60x60", "16", "data.image_size", "model.patch_size"]),
        ("tiny", {"image_size": (64, 60)}, ["64x60", "16"]),
        ("tiny", {"image_size": 8}, ["8x8", "16"]),
        ("tiny", {"patch_size": 0}, ["patches of 0"]),
        ("tiny", {"decoder_width": 100}, ["model.decoder_width=100", "32"]),
        ("tiny", {"decoder_width": 0}, ["model.decoder_width=0"]),
        ("tiny", {"mask_tokens": "both"}, ["model.mask_tokens=both", "decoder", "encoder"]),
        ("tiny", {"mask_strategy": "blok"}, ["unknown masking.strategy 'blok'", "'block'"]),
        ("tiny", {"mask_ratio": 1.0}, ["masking.ratio=1.0"]),
        ("tiny", {"mask_ratio": 0.0}, ["masking.ratio=0.0"]),
        ("tiny", {"mask_ratio": -0.5}, ["masking.ratio=-0.5"]),
        ("tiny", {"mask_ratio": float("nan")}, ["masking.ratio=nan"]),
        ("tiny", {"mask_ratio": 0.999}, ["masking.ratio=0.999", "196"]),
        ("tiny", {"image_size": 16}, ["masking.ratio=0.75", "1 patch"]),
    ],
)
def test_what_cannot_be_made_is_told_in_one_line(name, overrides, said):
    with pytest.raises(InvalidSetting) as error:
        create_model(name, **overrides)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert all(word in message for word in said), message
