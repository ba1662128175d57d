"""The objective: one gradient at the prediction, weighed as the expression says."""

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional as F

import losses
from losses import TERMS, InvalidSetting, NormalisedPixelHead, PixelHead, Term, build_objective, option
from tests.losses.scenes import NAMES, SIZE, gradient_of, norm_scene, objective_of, one_line, replaced, scene

PLAIN = [
    *NAMES,
    "mse + 0.1*l1",
    "perceptual + mse",
    "norm_mse + mse + 0.3*perceptual",
    "0.5*norm_mse + l1 + adversarial + 0.01*perceptual",
    "0*l1 + 3*mse",
]
SHARED = [
    "mse + 10%l1",
    "20%perceptual + mse",
    "mse + 0.3*l1 + 80%adversarial",
    "norm_mse + 5%mse + 150%perceptual + 0.1*l1",
    "mse + 0%l1",
]
EVERY = [*PLAIN, *SHARED]


def with_gradient(r):
    """The same reconstruction as a model would hand it over: its prediction requires a gradient."""
    return replaced(r, prediction=r.prediction.detach().clone().requires_grad_())


def gradients_of(objective, r) -> dict[str, torch.Tensor]:
    """Every term's gradient by autograd, one at a time."""
    return {name: gradient_of(term, r, objective.over) for name, term in objective.terms.items()}


# The gradient


# A discriminator judges in float32; `test_double_precision_reaches_every_term` says so.
DOUBLE = [expression for expression in EVERY if "adversarial" not in expression]


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


@pytest.mark.parametrize("name", NAMES)
def test_double_precision_reaches_every_term(name):
    result = objective_of(name).double()(scene(dtype=torch.float64))
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
    (expected,) = torch.autograd.grad(r.head.own_loss(r.at(r.prediction, "hidden")), r.prediction)
    for weight in ("1", "7"):
        gradient = objective_of(f"{weight}*mse")(r).gradient
        torch.testing.assert_close(gradient[..., -2:], expected[..., -2:], rtol=1e-13, atol=0)


def test_the_heads_own_loss_is_no_part_of_the_value():
    r = norm_scene(dtype=torch.float64)
    objective = objective_of("mse")
    assert float(objective(r).value) == pytest.approx(float(objective.terms["mse"].value(r)), rel=1e-14)
    assert float(objective.loss(r).detach()) == pytest.approx(float(objective(r).value), rel=1e-14)


@pytest.mark.parametrize("expression", EVERY)
def test_visible_patches_get_nothing(expression):
    r = norm_scene()
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


# Percentages


@pytest.mark.parametrize(
    ("expression", "dtype"),
    [(e, torch.float32) for e in SHARED] + [(e, torch.float64) for e in SHARED if e in DOUBLE],
    ids=str,
)
def test_a_share_is_that_percentage_of_the_plain_terms_push(expression, dtype):
    objective = objective_of(expression).to(dtype)
    r = norm_scene(dtype=dtype, shift=(0.3, 0.3))
    result, gradients = objective(r), gradients_of(objective, r)
    weighted = {t.name: t.weight * gradients[t.name] for t in objective.expression.terms if not t.share}
    reference = float(sum(weighted.values()).norm())
    for t in objective.expression.terms:
        if t.share:
            push = float(result.terms[t.name].weight) * float(gradients[t.name].norm())
            assert push == pytest.approx(t.weight / 100 * reference, rel=1e-6)
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
    result = objective_of("adversarial + 10%mse", steps=100)(scene(), 0)
    assert float(result.terms["mse"].weight) == 0
    assert not result.gradient.any()


class Flat(Term):
    """A term that is blind to the prediction."""

    def value(self, r):
        return 0 * r.pixels.sum() + 3


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


# Critics


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


@pytest.mark.parametrize(("game", "calls"), [("hinge", 3), ("nonsaturating", 3), ("relativistic", 4)])
def test_the_discriminator_judges_for_the_model_and_learns_once(game, calls):
    """For the model: the composite, and the truth where the game compares. To learn: truth and composite."""
    objective = objective_of("mse + adversarial", adversarial={"width": 8, "game": game})
    r, seen = with_gradient(scene()), []
    images_seen_by(objective.terms["adversarial"].discriminator, seen)
    r.prediction.backward(objective(r).gradient)
    assert len(seen) == calls
    true = r.shifted(r.image, objective.terms["adversarial"].discriminator.stride) * 2 - 1
    assert sum(torch.equal(images, true) for images in seen) == calls // 2
    assert {tuple(images.shape) for images in seen} == {tuple(true.shape)}


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
    assert sum(torch.equal(images, whole) for images in seen) == 2


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
    (term,) = objective_of(name).expression.terms
    assert term.weight == TERMS[name].default_weight


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
        ("mse", {"over": ""}, ["losses.over", "'hidden' or 'all'"]),
        ("mse", {"perceptual": {"weight": "random"}}, ["losses.perceptual.weight", "did you mean 'weights'"]),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_named_in_one_line(expression, settings, parts):
    with pytest.raises(InvalidSetting) as error:
        objective_of(expression, **settings)
    message = one_line(error)
    assert all(part in message for part in parts)
