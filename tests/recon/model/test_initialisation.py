"""The official code's initialisation."""

import math

import pytest
import torch
from torch import nn

from losses.heads import NormalisedPixelHead
from recon.model import create_model


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("tiny", image_size=32, patch_size=4, depth=2, head=NormalisedPixelHead())


def uniform_within(values: torch.Tensor, bound: float) -> bool:
    """Whether these could be drawn from U(-bound, bound): range, mean and variance within 6 standard errors."""
    n = values.numel()
    if values.abs().max() > bound or values.abs().max() < bound * (1 - 12 / n):
        return False
    error = 6 / math.sqrt(n)
    return abs(values.mean()) < error * bound and abs(values.square().mean() / (bound**2 / 3) - 1) < error


def test_matrices_are_xavier_uniform_and_their_biases_zero(model):
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert len(linear) == 4 * (2 + 4) + 2 + 2
    for m in linear:
        assert uniform_within(m.weight, math.sqrt(6 / (m.in_features + m.out_features)))
        assert not m.bias.any()


def test_the_patch_embedding_is_initialised_as_one_matrix(model):
    assert uniform_within(model.patch_embed.proj.weight, math.sqrt(6 / (3 * 4 * 4 + 192)))


def test_tokens_are_normal_with_deviation_a_fiftieth(model):
    for token in (model.cls_token, model.mask_token):
        n = token.numel()
        assert abs(token.std() / 0.02 - 1) < 5 / math.sqrt(2 * n) and abs(token.mean()) < 5 * 0.02 / math.sqrt(n)


def test_layer_norms_begin_as_the_identity_with_the_paper_s_epsilon(model):
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 2 * (2 + 4) + 2
    assert all(m.eps == 1e-6 and (m.weight == 1).all() and not m.bias.any() for m in norms)


def test_the_seed_decides():
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(create_model("tiny", image_size=16, patch_size=8, depth=1).state_dict())
    first, same, other = models
    assert all(torch.equal(first[key], same[key]) for key in first)
    drawn = {key for key in first if not torch.equal(first[key], other[key])}
    assert {"cls_token", "mask_token", "patch_embed.proj.weight", "decoder_pred.weight"} <= drawn
