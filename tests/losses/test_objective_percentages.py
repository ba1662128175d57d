"""Percentages of the plain terms' gradient norm, whatever the size of the term, and never NaN."""

import pytest
import torch

from losses import TERMS
from tests.losses.scenes import DOUBLE, SHARED, Flat, gradients_of, norm_scene, objective_of, replaced, scene


@pytest.mark.parametrize(
    ("expression", "dtype"),
    [(e, torch.float32) for e in SHARED] + [(e, torch.float64) for e in SHARED if e in DOUBLE],
    ids=str,
)
def test_a_share_is_that_percentage_of_the_plain_terms_gradient_norm(expression, dtype):
    objective = objective_of(expression).to(dtype)
    r = norm_scene(dtype=dtype, shift=(0.3, 0.3))
    result, gradients = objective(r), gradients_of(objective, r)
    weighted = {t.name: t.weight * gradients[t.name] for t in objective.expression.terms if not t.share}
    reference = float(sum(weighted.values()).norm())
    for t in objective.expression.terms:
        if t.share:
            norm = float(result.terms[t.name].weight) * float(gradients[t.name].norm())
            assert norm == pytest.approx(t.weight / 100 * reference, rel=1e-6)
        else:
            assert float(result.terms[t.name].weight) == pytest.approx(t.weight, rel=1e-7)


def test_a_share_does_not_depend_on_the_terms_own_scale(monkeypatch):
    class Loud(TERMS["l1"]):
        def value(self, r):
            return 1000 * super().value(r)

    monkeypatch.setitem(TERMS, "loud", Loud)
    r = scene(dtype=torch.float64)
    one, other = (objective_of(f"mse + 30%{name}")(r).gradient for name in ("l1", "loud"))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("step", "ramp"), [(0, 0), (10, 0), (12, 0.2), (15, 0.5), (20, 1), (99, 1)])
@pytest.mark.parametrize("kind", ["0.5*", "40%"])
def test_a_ramp_scales_weight_and_share_alike(kind, step, ramp):
    objective, r = objective_of(f"mse + {kind}adversarial", steps=100), scene(shift=(0.2, 0.6))
    result = objective(r, step)
    gradients = gradients_of(objective, r)
    full = 0.5 if kind == "0.5*" else 0.4 * float(gradients["mse"].norm() / gradients["adversarial"].norm())
    assert float(result.terms["adversarial"].weight) == pytest.approx(ramp * full, rel=1e-5)
    torch.testing.assert_close(
        result.gradient, gradients["mse"] + ramp * full * gradients["adversarial"], rtol=1e-4, atol=1e-8
    )


def test_a_share_of_a_plain_term_that_is_not_yet_on_is_nothing():
    result = objective_of("0.01*adversarial + 10%mse", steps=100)(scene(), 0)
    assert float(result.terms["mse"].weight) == 0
    assert not result.gradient.any()


@pytest.mark.parametrize("expression", ["mse + 10%flat", "mse + 2*flat"])
def test_a_term_without_gradient_is_no_nan(monkeypatch, expression):
    monkeypatch.setitem(TERMS, "flat", Flat)
    r = scene()
    objective = objective_of(expression)
    result = objective(r)
    assert torch.equal(result.gradient, objective_of("mse")(r).gradient)
    assert float(result.terms["flat"].gradient_norm) == 0
    assert float(result.terms["flat"].weight) == (0 if "%" in expression else 2)
    assert float(result.cosines["mse", "flat"]) == 0
    assert result.value.isfinite()


def test_a_share_of_nothing_is_nothing(monkeypatch):
    monkeypatch.setitem(TERMS, "flat", Flat)
    result = objective_of("flat + 10%mse")(scene())
    assert float(result.terms["mse"].weight) == 0
    assert not result.gradient.any()


def test_a_perfect_prediction_is_no_nan():
    r = scene(mean=(0.0,) * 3, std=(1.0,) * 3)
    result = objective_of("mse + 10%l1 + 10%perceptual")(replaced(r, prediction=r.true_pixels))
    assert float(result.value) == 0 and not result.gradient.any()
    assert all(float(cosine) == 0 for cosine in result.cosines.values())
