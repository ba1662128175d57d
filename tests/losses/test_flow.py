"""Flow: what its head shows and learns, the velocity it asks for, and the times it is asked at."""

import pytest
import torch

from losses import FlowHead, InvalidSetting, head_of
from losses.posterior import random_times
from tests.losses.scenes import (
    NAMES,
    VALUES,
    gradient_of,
    objective_of,
    one_line,
    replaced,
    scene_for,
    term_of,
)

VELOCITY = slice(VALUES, 2 * VALUES)


def flow_scene(*args, **settings):
    return scene_for("flow", *args, **({"dtype": torch.float64} | settings))


def slots(r):
    """Mean, velocity and source of a prediction."""
    return r.prediction.split(r.values, dim=-1)


# What its head shows


@pytest.mark.parametrize("view", ["pixels", "oracle_pixels", "patches"])
def test_everything_but_a_draw_sees_the_mean(view):
    r = flow_scene()
    assert torch.equal(getattr(r, view), r.prediction[..., :VALUES])


def test_a_model_in_evaluation_shows_the_same_picture():
    r = flow_scene()
    alone = replaced(r, prediction=slots(r)[0])
    for view in ("pixels", "predicted_image", "composite", "oracle_composite"):
        assert torch.equal(getattr(alone, view), getattr(r, view)), view


def test_a_prediction_of_evaluation_has_no_loss_and_says_what_to_do():
    r = flow_scene()
    alone = replaced(r, prediction=slots(r)[0])
    numbers = alone.prediction, alone.values
    for asked, arguments in (
        (term_of("flow").value, (alone,)),
        (r.head.velocity, numbers),
        (r.head.source_pixels, numbers),
    ):
        with pytest.raises(ValueError, match=r"mean alone; call model\.train\(\)") as error:
            asked(*arguments)
        one_line(error)


@pytest.mark.parametrize("name", NAMES)
def test_terms_that_read_pixels_read_the_mean(name):
    r = flow_scene(shift=(0.3, 0.6))
    alone, term = replaced(r, prediction=slots(r)[0]), term_of(name, torch.float64)
    gradient = gradient_of(term, r)
    assert torch.equal(term.value(r), term.value(alone))
    assert torch.equal(gradient[..., :VALUES], gradient_of(term, alone))
    assert not gradient[..., VALUES:].any()


# What is learnt


@pytest.mark.parametrize("over", ["hidden", "all"])
def test_the_head_s_own_loss_is_the_squared_error_of_the_mean(over):
    r = flow_scene()
    r = r.at(r.prediction, over)
    assert torch.equal(r.head_loss, term_of("mse").value(r))


@pytest.mark.parametrize("over", ["hidden", "all"])
def test_gradient_in_closed_form(over):
    """2 (v - (x₁ - x₀)) at the velocity; nothing at the mean, nor at the source."""
    r = flow_scene()
    _, velocity, source = slots(r)
    judged = (r.mask if over == "hidden" else torch.ones_like(r.mask)).unsqueeze(-1)
    expected = torch.zeros_like(r.prediction)
    expected[..., VELOCITY] = 2 * (velocity - r.true_pixels + source) * judged / (judged.sum() * VALUES)
    torch.testing.assert_close(gradient_of(term_of("flow"), r, over), expected, rtol=1e-13, atol=1e-18)


def test_an_objective_teaches_mean_and_velocity_and_never_the_source():
    """The mean by its own squared error at whatever weight, the velocity by the term's."""
    r = flow_scene()
    found = [objective_of(f"{weight}*flow")(r).gradient for weight in (1, 3)]
    mean = gradient_of(term_of("mse"), r)[..., :VALUES]
    velocity = gradient_of(term_of("flow"), r)[..., VELOCITY]
    for weight, gradient in zip((1, 3), found, strict=True):
        torch.testing.assert_close(gradient[..., :VALUES], mean, rtol=1e-13, atol=0)
        torch.testing.assert_close(gradient[..., VELOCITY], weight * velocity, rtol=1e-13, atol=0)
        assert not gradient[..., 2 * VALUES :].any()


def test_the_velocity_from_source_to_truth_costs_nothing():
    r = flow_scene()
    mean, _, source = slots(r)
    right = replaced(r, prediction=torch.cat([mean, r.true_pixels - source, source], dim=-1))
    assert float(term_of("flow").value(right)) == 0
    assert not gradient_of(term_of("flow"), right).any()


def test_the_best_single_velocity_is_the_mean_way():
    """Its squared error is then the ways' variance: what is left where nothing tells one way from another."""
    r = flow_scene(8)
    mean, velocity, source = slots(r)
    ways = (r.true_pixels - source)[r.mask]
    best = replaced(r, prediction=torch.cat([mean, ways.mean(0).expand_as(velocity), source], dim=-1))
    assert float(term_of("flow").value(best)) == pytest.approx(float(ways.var(0, correction=0).mean()), rel=1e-12)


# Settings


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"source": "nois"}, ["losses.flow.source=nois", "mean or noise", "did you mean 'noise'"]),
        ({"network": "unet"}, ["losses.flow.network=unet", "conv or patch"]),
        ({"noise": 0.0}, ["losses.flow.noise=0.0", "above 0"]),
        ({"noise": 10.0}, ["losses.flow.noise=10.0", "below 10"]),
        ({"noise": float("nan")}, ["losses.flow.noise=nan"]),
        ({"steps": 0}, ["losses.flow.steps=0", "above 0"]),
        ({"step": 5}, ["losses.flow.step", "did you mean 'steps'"]),
    ],
    ids=str,
)
def test_what_cannot_be_set_is_named_in_one_line(options, parts):
    for build in (objective_of, head_of):
        with pytest.raises(InvalidSetting) as error:
            build("flow", flow=options)
        message = one_line(error)
        assert all(part in message for part in parts), message


def test_options_reach_the_head_that_a_model_is_made_with():
    options = {"source": "noise", "network": "patch", "noise": 0.2, "steps": 7}
    expected = FlowHead("noise", "patch", 0.2, 7)
    assert objective_of("mse + flow", flow=options).head == head_of("mse + flow", flow=options) == expected
    assert head_of("flow") == FlowHead() != expected


@pytest.mark.parametrize("expression", ["flow + mixture", "mixture + 10%flow", "flow + norm_mse", "norm_mse + mixture"])
def test_two_heads_in_one_expression_are_refused_in_one_line(expression):
    for build in (objective_of, head_of):
        with pytest.raises(InvalidSetting, match="different heads") as error:
            build(expression)
        assert "separate runs" in one_line(error)


# Times


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_every_part_of_a_batch_s_time_has_one(count):
    times = random_times(count, torch.Generator().manual_seed(0))
    assert times.shape == (count,)
    assert (times * count - torch.arange(count) - 0.5).abs().max() <= 0.5 + 1e-5  # rounded to float32


def test_times_are_uniform():
    """Of the middle of each of 20 bins, 5 standard deviations of a binomial count; and at each place of a batch."""
    generator, bins, many = torch.Generator().manual_seed(0), 20, 5_000
    single = torch.cat([random_times(1, generator) for _ in range(many)])
    assert single.min() >= 0 and single.max() <= 1
    counts = torch.histc(single, bins, 0, 1)
    assert (counts - many / bins).abs().max() < 5 * (many / bins) ** 0.5
    within = torch.stack([random_times(3, generator) for _ in range(many)]) * 3 - torch.arange(3)
    assert (within.mean(0) - 0.5).abs().max() < 5 * (1 / 12 / many) ** 0.5
    assert (within.var(0) - 1 / 12).abs().max() < 5 * (1 / 180 / many) ** 0.5


def test_times_follow_their_generator_and_move_no_other():
    state = torch.get_rng_state()
    one, same, other = (random_times(5, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)
