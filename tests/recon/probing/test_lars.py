"""LARS against its formula."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from recon.probing.heads import LARS, trust_ratio
from recon.probing.recipes import paper_linear, small
from recon.training.optim import learning_rate


def parameter(*values: object) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def stepped(p: nn.Parameter, gradient: list, **settings: float) -> torch.Tensor:
    """The parameter after one step."""
    p.grad = torch.tensor(gradient, dtype=torch.float64)
    LARS([p], **settings).step()
    return p.detach()


def test_a_matrix_moves_by_the_trusted_share_of_its_own_norm():
    # ||w|| = 5, and the gradient's direction is (0.6, 0.8)
    moved = stepped(parameter([3.0, 4.0]), [[300.0, 400.0]], lr=2.0, trust=0.01)
    torch.testing.assert_close(moved, torch.tensor([[3 - 2 * 0.01 * 5 * 0.6, 4 - 2 * 0.01 * 5 * 0.8]]).double())


def test_a_bias_moves_by_plain_gradient_without_decay():
    moved = stepped(parameter(3.0, 4.0), [1.0, 2.0], lr=0.5, weight_decay=0.1)
    torch.testing.assert_close(moved, torch.tensor([2.5, 3.0]).double())


def test_decay_is_part_of_the_update_that_is_measured():
    # u = (0, 1) + 0.5 (4, 0) = (2, 1); ||w|| = 4
    moved = stepped(parameter([4.0, 0.0]), [[0.0, 1.0]], lr=1.0, weight_decay=0.5, trust=0.1)
    share = 0.1 * 4 / 5**0.5
    torch.testing.assert_close(moved, torch.tensor([[4 - share * 2, -share]]).double())


def test_momentum_adds_the_scaled_updates_before_the_rate():
    p = parameter([1.0, 0.0])
    optimizer = LARS([p], lr=1.0, momentum=0.9, trust=0.1)
    positions, velocity = [1.0], 0.0
    for rate in (1.0, 0.5, 0.25):
        optimizer.param_groups[0]["lr"] = rate
        p.grad = torch.tensor([[7.0, 0.0]], dtype=torch.float64)  # along w, so that everything is one-dimensional
        optimizer.step()
        velocity = 0.9 * velocity + 0.1 * positions[-1]
        positions.append(positions[-1] - rate * velocity)
        assert p[0, 0].item() == pytest.approx(positions[-1], rel=1e-12)


@pytest.mark.parametrize(("own", "update"), [([[0.0]], [[3.0]]), ([[3.0]], [[0.0]])])
def test_nothing_is_scaled_where_a_norm_is_zero(own: list, update: list):
    assert trust_ratio(torch.tensor(own), torch.tensor(update), 0.001) == 1


def test_a_parameter_without_gradient_stays():
    still = parameter([1.0])
    LARS([still], lr=1.0).step()
    assert still.item() == 1


@pytest.mark.parametrize(
    ("recipe", "images", "norms"),
    [
        (paper_linear(), 1_281_167, 225),
        (replace(paper_linear(), batch=256), 9_000, 1.58),
        (small(paper_linear(), epochs=90), 9_000, 101),
    ],
)
def test_how_far_the_paper_s_linear_probe_can_move(recipe, images, norms):
    """The sum over the run of each step's largest share of the weights' norm: trust * rate / (1 - momentum)."""
    steps = recipe.steps(images)
    rates = sum(learning_rate(k, steps=steps, peak=recipe.rate, warmup=recipe.warmup) for k in range(steps))
    assert rates * 0.001 / (1 - 0.9) == pytest.approx(norms, rel=0.02)
