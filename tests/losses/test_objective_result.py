"""What an objective returns: values that add up, norms and cosines of its terms, and nothing changed on the way."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from losses import TERMS
from tests.losses.scenes import EVERY, gradients_of, norm_scene, objective_of, replaced, scene, with_gradient

# The result


@pytest.mark.parametrize("expression", EVERY)
def test_the_value_is_the_weighted_sum_of_its_terms_values(expression):
    objective, r = objective_of(expression), norm_scene()
    result = objective(r)
    assert list(result.terms) == [term.name for term in objective.expression.terms]
    total = sum(float(t.weight) * float(t.value) for t in result.terms.values())
    assert float(result.value) == pytest.approx(total, rel=1e-5)
    for name, term in result.terms.items():
        expected = term_value(objective, name, r)
        assert float(term.value) == pytest.approx(float(expected), rel=1e-6)


def term_value(objective, name, r):
    with torch.no_grad():
        return objective.terms[name].value(r.at(r.prediction, objective.over))


@pytest.mark.parametrize("expression", EVERY)
def test_loss_and_call_have_the_same_value(expression):
    objective, r = objective_of(expression), scene()
    assert float(objective.loss(r).detach()) == pytest.approx(float(objective(r).value), rel=1e-5)


@pytest.mark.parametrize("expression", EVERY)
def test_gradient_norms_are_those_of_the_unweighted_terms(expression):
    objective, r = objective_of(expression), scene()
    result = objective(r)
    for name, gradient in gradients_of(objective, r).items():
        assert float(result.terms[name].gradient_norm) == pytest.approx(float(gradient.norm()), rel=1e-5)


@pytest.mark.parametrize("expression", EVERY)
def test_the_result_is_detached(expression):
    r = with_gradient(norm_scene())
    result = objective_of(expression)(r)
    tensors = [result.value, result.gradient, *result.cosines.values()]
    tensors += [v for term in result.terms.values() for v in (term.value, term.weight, term.gradient_norm)]
    assert not any(tensor.requires_grad for tensor in tensors)
    assert r.prediction.grad is None
    assert result.gradient.shape == r.prediction.shape
    assert all(tensor.shape == () for tensor in tensors if tensor is not result.gradient)


def test_a_call_works_where_gradients_are_off():
    r = scene(shift=(0.5, 0.5))
    with torch.no_grad():
        off = objective_of("mse + 10%perceptual + adversarial")(r)
    assert torch.equal(off.gradient, objective_of("mse + 10%perceptual + adversarial")(r).gradient)


def test_the_reconstruction_stays_as_it_is():
    r = with_gradient(norm_scene())
    before = r.prediction.detach().clone(), r.image.clone()
    objective_of("mse + perceptual + adversarial")(r)
    assert torch.equal(r.prediction, before[0]) and torch.equal(r.image, before[1])
    assert r.over == "hidden" and r.prediction.requires_grad


def test_every_objective_draws_the_same_random_numbers():
    """So that two objectives with one seed are trained on the same masks and crops."""
    states = []
    for expression in EVERY:
        objective = objective_of(expression)
        torch.manual_seed(0)
        for _ in range(2):
            objective(norm_scene())
            objective.update(0)
        states.append(torch.get_rng_state())
    assert all(torch.equal(state, states[0]) for state in states)


# Cosines


def test_cosines_are_those_of_the_terms_gradients():
    objective = objective_of("norm_mse + mse + 10%l1 + perceptual + adversarial")
    r = norm_scene(shift=(0.6, 0.1))
    result, gradients = objective(r), gradients_of(objective, r)
    assert set(result.cosines) == set(itertools.combinations(gradients, 2))
    for (a, b), cosine in result.cosines.items():
        expected = F.cosine_similarity(gradients[a].double().flatten(), gradients[b].double().flatten(), dim=0)
        assert float(cosine) == pytest.approx(float(expected), abs=1e-6)
        assert -1 <= float(cosine) <= 1


def test_the_cosine_of_mse_and_l1_in_closed_form():
    """d and sign(d): |d|_1 / (|d|_2 sqrt(n)) over the hidden values."""
    r = scene(dtype=torch.float64)
    d = (r.prediction - r.true_pixels)[r.mask].flatten()
    expected = float(d.abs().sum() / (d.norm() * len(d) ** 0.5))
    assert float(objective_of("mse + l1")(r).cosines["mse", "l1"]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_errors_of_one_size_make_mse_and_l1_agree(scale):
    r = scene(dtype=torch.float64)
    sign = r.prediction.sign()
    result = objective_of("mse + l1")(replaced(r, prediction=r.true_pixels + scale * sign))
    assert float(result.cosines["mse", "l1"]) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_cosines_do_not_depend_on_the_size_of_the_gradients(monkeypatch, scale):
    class Scaled(TERMS["l1"]):
        def value(self, r):
            return scale * super().value(r)

    class ScaledMSE(TERMS["mse"]):
        def value(self, r):
            return scale * super().value(r)

    monkeypatch.setitem(TERMS, "scaled", Scaled)
    monkeypatch.setitem(TERMS, "scaled_mse", ScaledMSE)
    r = scene()
    expected = float(objective_of("mse + l1")(r).cosines["mse", "l1"])
    found = objective_of("scaled_mse + scaled")(r).cosines["scaled_mse", "scaled"]
    assert float(found) == pytest.approx(expected, rel=1e-5)
