"""Heads and LARS against their formulas."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from recon.probing.classifier import AttentiveLinear, BatchNormLinear, EfficientLinear, PooledLinear
from recon.probing.recipes import LARS

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


@pytest.mark.parametrize("kind", [BatchNormLinear, PooledLinear, EfficientLinear])
def test_heads_tell_class_tokens_from_patch_tokens(kind, tokens):
    """Three class tokens may be replaced by their mean; were two of them patch tokens, that would be another input."""
    head = kind(WIDTH, CLASSES).eval()
    nn.init.normal_(head.linear.weight)
    averaged = torch.cat([tokens[:, :3].mean(1, keepdim=True).expand(-1, 3, -1), tokens[:, 3:]], dim=1)
    head.class_tokens = 3
    torch.testing.assert_close(head(tokens), head(averaged), atol=1e-4, rtol=1e-4)
    shuffled = tokens[:, [3, 1, 2, 0, *range(4, 10)]]
    assert not torch.allclose(head(tokens), head(shuffled), atol=1e-2)


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


def test_the_efficient_head_has_the_published_number_of_parameters():
    """1,383,400 for MAE's ViT-B, 32 queries and 1,000 classes (logs/mae_base/ep.txt of the authors' code)."""
    with torch.device("meta"):
        assert sum(p.numel() for p in EfficientLinear(768, 1000).parameters()) == 1_383_400
    queries, width, classes = 4, WIDTH, CLASSES
    found = sum(p.numel() for p in EfficientLinear(width, classes, queries).parameters())
    assert found == queries * width + width**2 + (width + 1) * classes


def test_the_efficient_head_equals_torch_s_attention_with_each_query_s_part_of_the_values(tokens):
    head = EfficientLinear(WIDTH, CLASSES, queries=4)
    patches = tokens[:, 1:]
    values = patches @ head.values.weight.T
    parts = [
        F.scaled_dot_product_attention(query.expand(6, 1, WIDTH), patches, part)[:, 0]
        for query, part in zip(head.queries.weight, values.split(WIDTH // 4, dim=2), strict=True)
    ]
    pooled = torch.cat(parts, dim=1)
    torch.testing.assert_close(head.pool(patches), pooled, atol=1e-5, rtol=1e-4)
    standardised = (pooled - pooled.mean(0)) / (pooled.var(0, correction=0) + 1e-6).sqrt()
    torch.testing.assert_close(head(tokens), head.linear(standardised), atol=1e-5, rtol=1e-4)


def test_one_query_of_the_efficient_head_is_plain_attention_pooling(tokens):
    """torch's with one head, whose projections of queries, keys and outputs are the identity."""
    head, plain = EfficientLinear(WIDTH, CLASSES, queries=1), nn.MultiheadAttention(WIDTH, 1, False, batch_first=True)
    one = torch.eye(WIDTH)
    plain.in_proj_weight.data = torch.cat([one, one, head.values.weight.data])
    plain.out_proj.weight.data = one
    patches = tokens[:, 1:]
    expected, _ = plain(head.queries.weight.expand(6, 1, WIDTH), patches, patches)
    torch.testing.assert_close(head.pool(patches), expected[:, 0], atol=1e-5, rtol=1e-4)


def test_the_efficient_head_reads_the_patch_tokens_in_any_order(tokens):
    head = EfficientLinear(WIDTH, CLASSES).eval()
    other = tokens[:, [0, *range(9, 0, -1)]]
    other[:, 0] = 7
    torch.testing.assert_close(head(other), head(tokens))


@pytest.mark.parametrize("head", [BatchNormLinear, PooledLinear, AttentiveLinear, EfficientLinear])
def test_every_parameter_of_a_head_gets_a_gradient(head, tokens):
    made = head(WIDTH, CLASSES)
    F.cross_entropy(made(tokens), torch.arange(6) % CLASSES).backward()
    assert all(p.grad.any() for p in made.parameters())


def parameter(*values: object) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def optimizer(*parameters: nn.Parameter, **settings: float) -> torch.optim.Optimizer:
    """LARS of matrices and vectors, in groups as of `parameter_groups`."""
    made = LARS([{"params": [p], "weight_decay": 0.0, "always_adapt": p.ndim > 1} for p in parameters])
    for group in made.param_groups:
        group |= {name: value for name, value in settings.items() if name != "weight_decay" or group["always_adapt"]}
    return made


def stepped(p: nn.Parameter, gradient: list, **settings: float) -> torch.Tensor:
    """The parameter after one step."""
    p.grad = torch.tensor(gradient, dtype=torch.float64)
    optimizer(p, **settings).step()
    return p.detach()


def test_a_matrix_moves_by_the_trusted_share_of_its_own_norm():
    # ||w|| = 5, and the gradient's direction is (0.6, 0.8)
    moved = stepped(parameter([3.0, 4.0]), [[300.0, 400.0]], lr=2.0, trust_coeff=0.01)
    torch.testing.assert_close(moved, torch.tensor([[3 - 2 * 0.01 * 5 * 0.6, 4 - 2 * 0.01 * 5 * 0.8]]).double())


def test_a_bias_moves_by_plain_gradient_without_decay():
    moved = stepped(parameter(3.0, 4.0), [1.0, 2.0], lr=0.5, weight_decay=0.1)
    torch.testing.assert_close(moved, torch.tensor([2.5, 3.0]).double())


def test_decay_is_part_of_the_update_and_of_the_norm_it_is_measured_by():
    # You et al. 2017, algorithm 1: ||w|| / (||g|| + 0.5 ||w||), with ||w|| = 4 and ||g|| = 1; the update is (2, 1)
    moved = stepped(parameter([4.0, 0.0]), [[0.0, 1.0]], lr=1.0, weight_decay=0.5, trust_coeff=0.1)
    share = 0.1 * 4 / (1 + 0.5 * 4)
    torch.testing.assert_close(moved, torch.tensor([[4 - share * 2, -share]]).double())


def test_momentum_adds_the_scaled_updates_before_the_rate():
    p = parameter([1.0, 0.0])
    lars = optimizer(p, trust_coeff=0.1)
    positions, velocity = [1.0], 0.0
    for rate in (1.0, 0.5, 0.25):
        lars.param_groups[0]["lr"] = rate
        p.grad = torch.tensor([[7.0, 0.0]], dtype=torch.float64)  # along w, so that everything is one-dimensional
        lars.step()
        velocity = 0.9 * velocity + 0.1 * positions[-1]
        positions.append(positions[-1] - rate * velocity)
        assert p[0, 0].item() == pytest.approx(positions[-1], rel=1e-12)


@pytest.mark.parametrize(("own", "gradient", "moved"), [([[0.0]], [[3.0]], -3.0), ([[3.0]], [[0.0]], 1.5)])
def test_nothing_is_scaled_where_a_norm_is_zero(own: list, gradient: list, moved: float):
    assert stepped(parameter(*own), gradient, lr=1.0, weight_decay=0.5).item() == moved


def test_a_run_of_the_recipe_is_that_of_the_official_code():
    """util/lars.py of facebookresearch/mae, with the recipe's decay of 0, on a matrix and a bias."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(5, 3).double()
    expected = {name: p.detach().clone() for name, p in layer.named_parameters()}
    momentum = {name: torch.zeros_like(p) for name, p in expected.items()}
    lars = optimizer(*layer.parameters())
    for rate in (0.0, 3.0, 6.4, 0.5):
        for group in lars.param_groups:
            group["lr"] = rate
        for name, p in layer.named_parameters():
            p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            update = p.grad
            if p.ndim > 1:
                update = update * torch.where(update.norm() > 0, 0.001 * expected[name].norm() / update.norm(), 1.0)
            momentum[name] = 0.9 * momentum[name] + update
            expected[name] = expected[name] - rate * momentum[name]
        lars.step()
    for name, p in layer.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], rtol=1e-12, atol=0)


def test_a_parameter_without_gradient_stays():
    still = parameter([1.0])
    optimizer(still, lr=1.0).step()
    assert still.item() == 1
