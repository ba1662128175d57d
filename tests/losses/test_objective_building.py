"""Building an objective: its head, its weights and options, and what cannot be built."""

from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional as F

import losses
from losses import TERMS, InvalidSetting, NormalisedPixelHead, PixelHead, Term, build_objective, option
from tests.losses.scenes import NAMES, SIZE, Flat, objective_of, one_line, scene

# Heads


@pytest.mark.parametrize(
    ("expression", "head"),
    [
        ("mse", PixelHead),
        ("l1 + mse", PixelHead),
        ("norm_mse", NormalisedPixelHead),
        ("l1 + norm_mse", NormalisedPixelHead),
    ],
)
def test_the_objective_chooses_the_head(expression, head):
    assert type(objective_of(expression).head) is head


def test_two_special_heads_do_not_go_together(monkeypatch):
    class Tokens(PixelHead):
        name = "tokens"

    class TokenTerm(Flat):
        head = Tokens()

    monkeypatch.setitem(TERMS, "token", TokenTerm)
    assert type(objective_of("token + mse").head) is Tokens
    with pytest.raises(InvalidSetting) as error:
        objective_of("token + norm_mse")
    assert "tokens" in one_line(error) and "normalised pixels" in one_line(error)


# Building


def test_a_new_term_is_one_class_and_one_line(monkeypatch):
    class Huber(Term):
        """Squared near zero, absolute beyond `delta`."""

        default_weight = 2.0

        @dataclass
        class Options:
            """Settings `losses.huber.<option>`."""

            delta: float = option(1.0, "where the square ends")

        def value(self, r):
            d = (r.pixels - r.true_pixels).abs()
            delta = self.options.delta
            return r.judged_mean(torch.where(d < delta, d.square() / 2, delta * (d - delta / 2)))

    monkeypatch.setitem(TERMS, "huber", Huber)
    objective = objective_of("huber+mse", huber={"delta": 0.7})
    assert str(objective.expression) == "2*huber + mse"
    r = scene(dtype=torch.float64)
    result = objective(r)
    d = r.prediction - r.true_pixels
    expected = F.huber_loss(r.prediction[r.mask], r.true_pixels[r.mask], delta=0.7)
    assert float(result.terms["huber"].value) == pytest.approx(float(expected), rel=1e-12)
    count = d[r.mask].numel()
    slope = (2 * d.clamp(-0.7, 0.7) + 2 * d) * r.mask[..., None] / count
    torch.testing.assert_close(result.gradient, slope, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_bare_name_has_the_terms_default_weight(name):
    terms = objective_of(f"{name} + mse" if name != "mse" else name).expression.terms
    assert (terms[0].weight, terms[0].share) == (TERMS[name].default_weight, TERMS[name].default_is_share)


def test_options_may_be_a_mapping_or_the_terms_own():
    own = TERMS["perceptual"].Options(weights="random", taps=["conv1_1"])
    one = objective_of("perceptual", perceptual={"weights": "random", "taps": ["conv1_1"]})
    other = objective_of("perceptual", perceptual=own)
    assert one.terms["perceptual"].options == other.terms["perceptual"].options == own


def test_surroundings_reach_the_terms():
    objective = build_objective("adversarial + mse", image_size=64, steps=10, critic_dtype=torch.bfloat16)
    surroundings = objective.terms["adversarial"].surroundings
    assert surroundings == losses.Surroundings((64, 64), 10, torch.bfloat16)
    assert objective_of("mse").terms["mse"].surroundings.image_size == SIZE


@pytest.mark.parametrize(
    ("expression", "settings", "parts"),
    [
        ("mse + perceptuall", {}, ["'perceptuall'", "did you mean 'perceptual'"]),
        ("perceptual", {"perceptual": {"weight": "random"}}, ["losses.perceptual.weight", "did you mean 'weights'"]),
        ("mse", {"mse": {"anything": 1}}, ["losses.mse.anything", "none"]),
        ("mse", {"perceptuall": {}}, ["'perceptuall'", "did you mean 'perceptual'"]),
        ("mse", {"over": "hiden"}, ["losses.over=hiden", "did you mean 'hidden'"]),
        ("mse", {"over": ""}, ["losses.over", "choose hidden or all"]),
        ("mse", {"perceptual": {"weight": "random"}}, ["losses.perceptual.weight", "did you mean 'weights'"]),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_named_in_one_line(expression, settings, parts):
    with pytest.raises(InvalidSetting) as error:
        objective_of(expression, **settings)
    message = one_line(error)
    assert all(part in message for part in parts)
