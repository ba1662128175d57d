"""Building an objective: its head, its weights and options, and what cannot be built."""

from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional as F

import losses
from losses import (
    TERM_OPTIONS,
    TERMS,
    InvalidSetting,
    NormalisedPixelHead,
    PixelHead,
    Term,
    TermOptions,
    build_objective,
    option,
)
from tests.losses.scenes import NAMES, SIZE, Flat, equal, objective_of, one_line, scene, with_gradient


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


@pytest.mark.parametrize("expression", ["hog + mse", "10%l1 + features"])
def test_a_head_without_pixels_goes_with_no_term_that_reads_them(expression):
    with pytest.raises(InvalidSetting) as error:
        objective_of(expression)
    assert "predicts no pixels" in one_line(error)


# Building
def test_a_new_term_is_one_class_and_one_line(monkeypatch):
    class Huber(Term):
        """Squared near zero, absolute beyond `delta`."""

        @dataclass
        class Options(TermOptions):
            """Settings `losses.huber.<option>`."""

            default_weight = 2.0

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
    assert (terms[0].weight, terms[0].share) == (TERM_OPTIONS[name].default_weight, TERM_OPTIONS[name].default_is_share)


def test_options_may_be_a_mapping_or_the_terms_own():
    own = TERMS["perceptual"].Options(weights="random", taps=["conv1_1"])
    one = objective_of("perceptual", perceptual={"weights": "random", "taps": ["conv1_1"]})
    other = objective_of("perceptual", perceptual=own)
    assert one.terms["perceptual"].options == other.terms["perceptual"].options == own


def test_the_context_reaches_the_terms():
    objective = build_objective("adversarial + mse", image_size=64, steps=10, critic_dtype=torch.bfloat16)
    context = objective.terms["adversarial"].context
    assert context == losses.TermContext((64, 64), 10, torch.bfloat16)
    assert objective_of("mse").terms["mse"].context.image_size == SIZE


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


def images_seen_by(module, seen):
    return module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))


@pytest.mark.parametrize("expression", ["mse + perceptual", "10%perceptual + mse"])
def test_the_frozen_critic_runs_once_for_the_prediction_and_once_for_the_truth(expression):
    """Seen from its first layer, which nothing can skip; a second run of either would be a second backward's price."""
    objective, r, calls = objective_of(expression), with_gradient(scene()), []
    objective.terms["perceptual"].net.features[0].register_forward_hook(lambda *_: calls.append(1))
    result = objective(r)
    r.prediction.backward(result.gradient)
    assert len(calls) == 2


@pytest.mark.parametrize(("gan_loss", "calls"), [("hinge", 1), ("nonsaturating", 1), ("relativistic", 2)])
def test_the_discriminator_judges_for_the_model_and_learns_once(gan_loss, calls):
    """For the model: the composite, and the truth where the gan_loss compares. To learn: both in one pass."""
    objective = objective_of("mse + adversarial", adversarial={"width": 8, "gan_loss": gan_loss})
    r, seen = with_gradient(scene()), []
    images_seen_by(objective.terms["adversarial"].discriminator, seen)
    r.prediction.backward(objective(r).gradient)
    stride = objective.terms["adversarial"].discriminator.stride
    true, fake = (r.shifted(image, stride).detach() * 2 - 1 for image in (r.image, r.composite))
    assert equal([images[:, :3] for images in seen], [*[fake, true][:calls], torch.cat([true, fake])])


def test_all_terms_see_one_shift():
    r, shifts = scene(), []
    objective = objective_of("mse + perceptual + adversarial")
    for term in objective.terms.values():

        def watched(seen, value=term.value):
            shifts.append(seen.shift)
            return value(seen)

        term.value = watched
    objective(r)
    assert shifts == [r.shift] * 3


def test_update_lets_every_critic_take_one_step():
    objective, r = objective_of("mse + adversarial"), scene()
    discriminator = objective.terms["adversarial"].discriminator
    before = [p.detach().clone() for p in discriminator.parameters()]
    objective(r)
    assert all(torch.equal(a, b) for a, b in zip(discriminator.parameters(), before, strict=True))
    objective.update(0)
    assert not any(torch.equal(a, b) for a, b in zip(discriminator.parameters(), before, strict=True))


def test_the_critic_learns_while_its_term_is_not_yet_on():
    objective = objective_of("mse + adversarial", steps=100)
    before = objective.terms["adversarial"].discriminator.layers[0].weight.detach().clone()
    result = objective(scene(), 0)
    objective.update(0)
    assert float(result.terms["adversarial"].weight) == 0
    assert not torch.equal(objective.terms["adversarial"].discriminator.layers[0].weight, before)


def test_an_objective_that_judges_all_patches_shows_its_critic_the_whole_prediction():
    objective, r, seen = objective_of("mse + adversarial", over="all"), scene(), []
    term = objective.terms["adversarial"]
    images_seen_by(term.discriminator, seen)
    objective(r)
    whole = r.shifted(r.predicted_image, term.discriminator.stride) * 2 - 1
    judged, learnt = seen
    assert torch.equal(judged[:, :3], whole) and torch.equal(learnt[len(whole) :, :3], whole)


def test_state_and_load_state_go_on_bit_for_bit():
    def play(objective, steps):
        results = []
        for step in steps:
            results.append(objective(scene(seed=step, shift=(0.5, 0.5)), step).gradient)
            objective.update(step)
        return results

    expression = "mse + 10%adversarial + perceptual"
    whole, first, second = objective_of(expression), objective_of(expression), objective_of(expression, seed=1)
    expected = play(whole, range(4))
    play(first, range(2))
    assert set(first.state()) == {"adversarial"}
    second.load_state(first.state())
    assert all(torch.equal(a, b) for a, b in zip(play(second, range(2, 4)), expected[2:], strict=True))


def test_provenance_is_that_of_pretrained_weights():
    assert objective_of("mse + adversarial").provenance() == {}
    assert objective_of("mse + perceptual").provenance()["perceptual"]["source"] == "random"
