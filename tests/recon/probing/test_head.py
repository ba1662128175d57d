"""Heads against their formulas."""

import pytest
import torch
from torch.nn import functional as F

from recon.probing.heads import AttentiveLinear, BatchNormLinear, PooledLinear

WIDTH, CLASSES = 128, 5


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(6, 10, WIDTH, generator=torch.Generator().manual_seed(0)) * 3 + 1


def test_the_batch_norm_has_no_parameters():
    assert {name for name, _ in BatchNormLinear(WIDTH, CLASSES).named_parameters()} == {"linear.weight", "linear.bias"}


def test_the_batch_norm_standardises_the_class_token_over_the_batch(tokens):
    head = BatchNormLinear(WIDTH, CLASSES)
    x = tokens[:, 0]
    standardised = (x - x.mean(0)) / x.std(0, correction=0)
    torch.testing.assert_close(head(tokens), head.linear(standardised), atol=1e-5, rtol=1e-4)


def test_the_batch_norm_probe_is_linear_once_it_is_trained(tokens):
    head = BatchNormLinear(WIDTH, CLASSES)
    head(tokens)
    head.eval()
    a, b = tokens[:3], tokens[3:]
    torch.testing.assert_close(head((a + b) / 2), (head(a) + head(b)) / 2, atol=1e-5, rtol=1e-4)


def test_the_pooled_head_reads_the_mean_of_the_patch_tokens_under_its_norm(tokens):
    head = PooledLinear(WIDTH, CLASSES)
    head.norm.weight.data.uniform_(0.5, 2)
    mean = sum(tokens[:, i] for i in range(1, 10)) / 9
    expected = F.layer_norm(mean, (WIDTH,), head.norm.weight, head.norm.bias, eps=1e-6) @ head.linear.weight.T
    torch.testing.assert_close(head(tokens), expected, atol=1e-8, rtol=1e-4)


def test_the_pooled_head_does_not_see_the_class_token(tokens):
    head = PooledLinear(WIDTH, CLASSES)
    other = tokens.clone()
    other[:, 0] = 7
    assert torch.equal(head(tokens), head(other))


def test_the_order_of_tokens_means_nothing_to_the_attentive_head(tokens):
    head = AttentiveLinear(WIDTH, CLASSES)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(head(tokens[:, order]), head(tokens))


def test_the_attentive_head_equals_a_loop_over_images_and_attention_heads(tokens):
    head = AttentiveLinear(WIDTH, CLASSES)
    pool, found = head.pool, []
    for image in tokens:
        keys, values = pool.kv(image).split(WIDTH, dim=1)
        query = pool.q(pool.latent[0, 0])
        parts = []
        for part in (slice(0, 64), slice(64, 128)):
            attention = torch.softmax(keys[:, part] @ query[part] / 64**0.5, dim=0)
            parts.append(attention @ values[:, part])
        pooled = pool.proj(torch.cat(parts))
        found.append(head.linear(pooled + pool.mlp(pool.norm(pooled))))
    torch.testing.assert_close(head(tokens), torch.stack(found), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("head", [BatchNormLinear, PooledLinear, AttentiveLinear])
def test_every_parameter_of_a_head_gets_a_gradient(head, tokens):
    made = head(WIDTH, CLASSES)
    F.cross_entropy(made(tokens), torch.arange(6) % CLASSES).backward()
    assert all(p.grad.any() for p in made.parameters())
