"""What a forward pass costs: exactly the products that the algorithm has, and none for what is hidden."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from recon.model import create_model


def counted(model, images, decoded=None):
    """Floating-point operations of a forward pass, on a device without memory."""
    noise = torch.rand(len(images), model.patches, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(images.to("meta"), noise=noise, decoded=decoded)
    return counter.get_total_flops()


def made(name, **sizes):
    with torch.device("meta"):
        return create_model(name, **sizes)


def blocks(depth, tokens, width):
    """Query, key, value and projection: 4 products; the perceptron: 8; attention's two products."""
    return depth * (2 * tokens * 12 * width**2 + 2 * 2 * tokens**2 * width)


def products(patches, embedded, seen, values, predicted=None, *, width, depth, decoder_width, decoder_depth):
    """Of one image: `embedded` patches become tokens, the encoder sees `seen` of them and the class token, the decoder
    `patches` and the class token; `predicted` of those, or all, become pixels."""
    encoder = 2 * embedded * values * width + blocks(depth, 1 + seen, width)
    between = 2 * (1 + seen) * width * decoder_width
    pixels = 2 * (predicted or patches) * decoder_width * values
    return encoder + between + blocks(decoder_depth, 1 + patches, decoder_width) + pixels


BASE = dict(width=768, depth=12, decoder_width=512, decoder_depth=8)
TINY = dict(width=192, depth=12, decoder_width=128, decoder_depth=4)


@pytest.mark.parametrize(
    ("name", "size", "patch", "widths"), [("base", 224, 16, BASE), ("tiny", 64, 8, TINY)], ids=["base", "tiny"]
)
def test_hidden_patches_are_not_embedded_and_the_encoder_does_not_see_them(name, size, patch, widths):
    model = made(name, image_size=size, patch_size=patch)
    n = (size // patch) ** 2
    # Predicted are all patches and not the class token: the last layer runs behind it.
    assert counted(model, torch.zeros(2, 3, size, size)) == 2 * products(n, n // 4, n // 4, 3 * patch**2, **widths)


@pytest.mark.parametrize(("decoded", "predicted"), [(1.0, 48), (0.5, 24)])
def test_a_decoder_pays_for_visible_patches_and_for_those_it_predicts_alone(decoded, predicted):
    model = made("tiny", image_size=64, patch_size=8)
    expected = products(16 + predicted, 16, 16, 192, predicted, **TINY)
    assert counted(model, torch.zeros(2, 3, 64, 64), decoded) == 2 * expected


def test_with_mask_tokens_the_encoder_pays_for_every_patch():
    model = made("tiny", image_size=64, patch_size=8, mask_tokens="encoder")
    assert counted(model, torch.zeros(2, 3, 64, 64)) == 2 * products(64, 64, 64, 192, **TINY)


def test_the_paper_s_vit_b_costs_what_its_code_costs():
    """19.6 GFLOP a forward pass where all patches are embedded, as in the official code; here hidden ones are not."""
    official = products(196, 196, 49, 768, **BASE)
    assert official == pytest.approx(19.6e9, rel=0.005)
    model = made("base", image_size=224, patch_size=16)
    assert official - counted(model, torch.zeros(1, 3, 224, 224)) == 147 * 2 * 768 * 768
