"""AdamW against its textbook, and the learning rate against its formula."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from losses.heads import NormalisedPixelHead
from recon.model import create_model
from recon.training.optim import adamw, learning_rate, set_learning_rate


def rates(steps: int, warmup: float) -> list[float]:
    return [learning_rate(step, steps=steps, peak=2.0, warmup=warmup) for step in range(steps)]


def test_the_rate_rises_linearly_to_its_peak_and_falls_as_a_half_cosine():
    found = rates(120, warmup=0.1667)
    warm = 0.1667 * 120
    for step, rate in enumerate(found):
        cosine = 1 + math.cos(math.pi * (step - warm) / (120 - warm))
        assert rate == pytest.approx(2.0 * (step + 1) / (warm + 1) if step < warm else cosine, rel=1e-12)


def test_landmarks_of_the_schedule():
    found = rates(100, warmup=0.2)
    assert found[20] == 2.0 == max(found)
    assert found[60] == pytest.approx(1.0)  # half way down the cosine
    steps_up = [b - a for a, b in pairwise(found[:21])]
    assert steps_up == pytest.approx([steps_up[0]] * 20) and steps_up[0] == pytest.approx(found[0])
    assert learning_rate(100, steps=100, peak=2.0, warmup=0.2) == pytest.approx(0.0, abs=1e-12)


def test_without_warm_up_the_peak_comes_first():
    found = rates(10, warmup=0.0)
    assert found[0] == 2.0 and found == sorted(found, reverse=True)


def test_all_warm_up_rises_to_the_end():
    found = rates(10, warmup=1.0)
    assert found == pytest.approx([2.0 * (step + 1) / 11 for step in range(10)])


@given(steps=st.integers(1, 3000), warmup=st.floats(0, 1))
def test_every_step_learns_and_none_exceeds_the_peak(steps, warmup):
    for step in {
        0,
        steps // 3,
        steps - 1,
        *range(max(0, int(warmup * steps) - 2), min(steps, int(warmup * steps) + 3)),
    }:
        assert 0 < learning_rate(step, steps=steps, peak=2.0, warmup=warmup) <= 2.0


def test_matrices_alone_decay_and_every_parameter_is_in_one_group():
    model = create_model("tiny", image_size=16, patch_size=4, depth=1, decoder_depth=1, head=NormalisedPixelHead())
    decayed, free = adamw(model, weight_decay=0.05, betas=(0.9, 0.95)).param_groups
    name_of = {p: name for name, p in model.named_parameters()}
    assert decayed["weight_decay"] == 0.05 and free["weight_decay"] == 0.0
    names = [[name_of[p] for p in group["params"]] for group in (decayed, free)]
    assert sorted(names[0] + names[1]) == sorted(name_of.values())
    block = ["attn.proj", "attn.qkv", "mlp.fc1", "mlp.fc2"]
    assert sorted(names[0]) == sorted(
        [
            "patch_embed.proj.weight",
            "decoder_embed.weight",
            "decoder_pred.weight",
            "statistics.0.weight",
            "statistics.2.weight",
            *(f"{place}.0.{part}.weight" for place in ("blocks", "decoder_blocks") for part in block),
        ]
    )


def test_parameters_that_do_not_train_are_left_out():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    groups = adamw(model, weight_decay=0.1, betas=(0.9, 0.95)).param_groups
    assert [p for group in groups for p in group["params"]] == [model[1].weight, model[1].bias]


def test_steps_are_the_textbook_s():
    """Loshchilov & Hutter 2017 (arXiv 1711.05101), algorithm 2, in float64."""
    torch.manual_seed(0)
    model = nn.Linear(3, 4).double()
    optimizer = adamw(model, weight_decay=0.3, betas=(0.8, 0.95))
    expected = {name: (p.detach().clone(), 0.0, 0.0) for name, p in model.named_parameters()}
    for t in range(1, 5):
        rate = 0.1 / t
        set_learning_rate(optimizer, rate)
        for name, p in model.named_parameters():
            p.grad = torch.randn_like(p) * 10.0 ** (t - 3)
            value, m, v = expected[name]
            m, v = 0.8 * m + 0.2 * p.grad, 0.95 * v + 0.05 * p.grad**2
            value = value * (1 - rate * (0.3 if name == "weight" else 0.0))
            value = value - rate * (m / (1 - 0.8**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-8)
            expected[name] = value, m, v
        optimizer.step()
        for name, p in model.named_parameters():
            assert torch.allclose(p.detach(), expected[name][0], rtol=1e-12, atol=1e-14)
