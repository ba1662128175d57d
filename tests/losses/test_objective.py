"""The objective: one gradient at the prediction, weighed as the expression says."""

import pytest
import torch

from losses import TERMS
from tests.losses.scenes import (
    DISTRIBUTED,
    DOUBLE,
    EVERY,
    PLAIN,
    gradients_of,
    norm_scene,
    objective_of,
    replaced,
    scene,
    scene_for,
    with_gradient,
)


@pytest.mark.parametrize("over", ["hidden", "all"])
@pytest.mark.parametrize("make", [scene, norm_scene], ids=["pixels", "normalised"])
@pytest.mark.parametrize(
    ("expression", "dtype", "tolerance"),
    [(e, torch.float32, 2e-5) for e in EVERY] + [(e, torch.float64, 1e-12) for e in DOUBLE],
    ids=str,
)
def test_the_gradient_is_that_of_the_loss(expression, over, make, dtype, tolerance):
    objective = objective_of(expression, over=over).to(dtype)
    r = with_gradient(make(dtype=dtype))
    result = objective(r, 3)
    objective.loss(r, 3).backward()
    scale = float(result.gradient.abs().max())
    torch.testing.assert_close(result.gradient, r.prediction.grad, rtol=tolerance, atol=tolerance * scale)
    assert scale > 0


@pytest.mark.parametrize("over", ["hidden", "all"])
@pytest.mark.parametrize("expression", DISTRIBUTED)
def test_behind_the_head_of_a_distribution_too_it_is(expression, over):
    objective = objective_of(expression, over=over).double()
    r = with_gradient(scene_for(expression, dtype=torch.float64))
    result = objective(r, 3)
    objective.loss(r, 3).backward()
    scale = float(result.gradient.abs().max())
    torch.testing.assert_close(result.gradient, r.prediction.grad, rtol=1e-12, atol=1e-12 * scale)
    assert scale > 0


@pytest.mark.parametrize("name", sorted(TERMS))
def test_double_precision_reaches_every_term(name):
    result = objective_of(name).double()(scene_for(name, dtype=torch.float64))
    assert result.value.dtype == result.gradient.dtype == torch.float64


@pytest.mark.parametrize("expression", PLAIN)
def test_the_gradient_is_the_weighted_sum_of_its_terms(expression):
    objective, r = objective_of(expression), scene()
    weights = {term.name: term.weight for term in objective.expression.terms}
    expected = sum(weights[name] * g for name, g in gradients_of(objective, r).items())
    torch.testing.assert_close(objective(r).gradient, expected, rtol=1e-5, atol=1e-9)


def test_handing_the_gradient_to_backward_trains_like_the_loss():
    torch.manual_seed(0)
    model, r = torch.nn.Linear(192, 192), scene()
    objective, gradients = objective_of("perceptual + mse"), []
    for use in ("gradient", "loss"):
        model.zero_grad()
        seen = replaced(r, prediction=model(r.prediction))
        if use == "gradient":
            seen.prediction.backward(objective(seen).gradient)
        else:
            objective.loss(seen).backward()
        gradients.append(model.weight.grad.clone())
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_the_head_learns_its_statistics_beside_any_term():
    r = with_gradient(norm_scene(dtype=torch.float64))
    (expected,) = torch.autograd.grad(r.at(r.prediction, "hidden").head_loss, r.prediction)
    for weight in ("1", "7"):
        gradient = objective_of(f"{weight}*mse")(r).gradient
        torch.testing.assert_close(gradient[..., -2:], expected[..., -2:], rtol=1e-13, atol=0)


def test_the_heads_own_loss_is_no_part_of_the_value():
    r = norm_scene(dtype=torch.float64)
    objective = objective_of("mse")
    assert float(objective(r).value) == pytest.approx(float(objective.terms["mse"].value(r)), rel=1e-14)
    assert float(objective.loss(r).detach()) == pytest.approx(float(objective(r).value), rel=1e-14)


@pytest.mark.parametrize("expression", [*EVERY, *DISTRIBUTED])
def test_visible_patches_get_nothing(expression):
    r = scene_for(expression) if expression in DISTRIBUTED else norm_scene()
    gradient = objective_of(expression)(r).gradient
    assert torch.equal(gradient.ne(0).any(-1), r.mask)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("expression", ["mse", "perceptual + mse", "mse + 10%adversarial", "norm_mse"])
def test_a_half_precision_prediction_gets_the_rounded_gradient(expression, dtype):
    r = norm_scene(shift=(0.1, 0.2))
    half = replaced(r, prediction=r.prediction.to(dtype))
    full = replaced(r, prediction=half.prediction.float())
    result, expected = objective_of(expression)(half), objective_of(expression)(full)
    assert result.gradient.dtype == dtype
    assert torch.equal(result.gradient, expected.gradient.to(dtype))
    assert torch.equal(result.value, expected.value) and result.value.dtype == torch.float32
