"""The moving average of the weights: its closed form, and that a model gets its own back."""

import pytest
import torch
from torch import nn

from recon.training.optim import WeightAverage


def followed(decay: float, values: list[float], good: list[bool] | None = None) -> float:
    """The average after one number, at first 0, has taken these values."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = WeightAverage(model, decay)
    for step, value in enumerate(values):
        nn.init.constant_(model.weight, value)
        average.update(model, step, torch.tensor(good[step] if good else True))
    return float(average.weights["weight"])


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_its_closed_form(decay):
    values, expected = [1.0, -2.0, 5.0, 0.5, 3.0], 0.0
    for step, value in enumerate(values):
        d = min(decay, (1 + step) / (10 + step))
        expected = d * expected + (1 - d) * value
    assert followed(decay, values) == pytest.approx(expected, rel=1e-6)


def test_a_step_that_was_skipped_does_not_move_it():
    assert followed(0.5, [1.0, 7.0, 7.0], [True, False, False]) == followed(0.5, [1.0])


def test_weights_that_never_change_are_their_own_average():
    assert followed(0.9, [0.0] * 20) == 0.0


def test_a_model_has_its_own_weights_again_to_the_bit():
    model = nn.Linear(3, 2)
    average, own = WeightAverage(model, 0.9), [p.detach().clone() for p in model.parameters()]
    average.weights = {name: torch.full_like(w, 4.0) for name, w in average.weights.items()}
    with average.applied(model):
        assert all((p == 4).all() for p in model.parameters())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), own, strict=True))


def test_a_frozen_weight_is_not_followed():
    model = nn.Linear(3, 2)
    model.weight.requires_grad_(False)
    assert set(WeightAverage(model, 0.9).weights) == {"bias"}
