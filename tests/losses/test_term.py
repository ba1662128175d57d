"""Laws that hold for every registered term."""

import dataclasses
from functools import partial

import pytest
import torch

from losses import TERMS, Term, option
from tests.losses.scenes import (
    DISTRIBUTIONS,
    NAMES,
    TARGETS,
    gradient_of,
    norm_scene,
    perfect,
    replaced,
    scene,
    scene_for,
    term_of,
)

SHIFTS = [(i / 8, (3 * i + 1) % 8 / 8) for i in range(8)] + [(0.999, 0.0), (0.0, 0.999), (0.999, 0.999)]

ROUNDING = {"ssim": 1e-6, "ms_ssim": 1e-6}  # a quotient of sums that are equal but for rounding


@pytest.fixture(params=sorted(TERMS))
def name(request):
    return request.param


def value_and_gradient(term, r):
    with torch.no_grad():
        value = term.value(r)
    return value, gradient_of(term, r)


# Terms that read pixels do so behind every head.
BEHIND = [
    *(pytest.param(name, scene, id=f"{name}-pixels") for name in NAMES),
    *(pytest.param(name, norm_scene, id=f"{name}-normalised") for name in NAMES),
    *(pytest.param(name, partial(scene_for, name), id=name) for name in (*DISTRIBUTIONS, *TARGETS)),
]


@pytest.mark.parametrize(("name", "make"), BEHIND)
def test_gradient_reaches_every_hidden_patch_and_no_visible_one(name, make):
    term = term_of(name)
    for seed, shift in enumerate(SHIFTS):
        r = make(1, seed=seed, shift=shift)
        gradient = gradient_of(term, r)
        assert torch.equal(gradient.ne(0).any(-1), r.mask)


@pytest.mark.parametrize(("size", "patch"), [((32, 64), 16), ((32, 32), 4), ((64, 64), 32)])
def test_gradient_reaches_hidden_patches_of_any_size(name, size, patch):
    term = term_of(name, image_size=size)
    for seed, shift in enumerate(SHIFTS[-5:]):
        r = scene_for(name, 1, size=size, patch=patch, seed=seed, shift=shift)
        assert torch.equal(gradient_of(term, r).ne(0).any(-1), r.mask)


def test_judged_over_all_patches_gradient_reaches_every_patch(name):
    term = term_of(name)
    for seed, shift in enumerate(SHIFTS):
        assert gradient_of(term, scene_for(name, 1, seed=seed, shift=shift), "all").ne(0).any(-1).all()


def test_visible_predictions_change_neither_value_nor_gradient(name):
    term, r = term_of(name), scene_for(name)
    other = torch.where(r.mask[..., None], r.prediction, 100 * torch.randn_like(r.prediction))
    assert not torch.equal(other, r.prediction)
    value, gradient = value_and_gradient(term, r)
    other_value, other_gradient = value_and_gradient(term, replaced(r, prediction=other))
    assert torch.equal(other_value, value)
    assert torch.equal(other_gradient, gradient)


def test_hidden_predictions_change_the_value(name):
    term, r = term_of(name, torch.float64), scene_for(name, dtype=torch.float64)
    other = r.prediction.clone()
    other[r.mask] *= 1.5
    assert not torch.equal(term.value(replaced(r, prediction=other)), term.value(r))


def test_the_order_of_images_permutes_the_gradient(name):
    term, r = term_of(name, torch.float64), scene_for(name, 4, dtype=torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    permuted = replaced(r, prediction=r.prediction[order], image=r.image[order], mask=r.mask[order])
    value, gradient = value_and_gradient(term, r)
    permuted_value, permuted_gradient = value_and_gradient(term, permuted)
    torch.testing.assert_close(permuted_value, value, rtol=1e-12, atol=0)
    torch.testing.assert_close(permuted_gradient, gradient[order], rtol=1e-9, atol=1e-15)


def test_images_that_hide_equally_many_patches_count_equally(name):
    """The value of a batch is the mean of its images' values: no image sees another."""
    term, r = term_of(name, torch.float64), scene_for(name, 3, dtype=torch.float64)
    alone = [
        term.value(replaced(r, prediction=r.prediction[i : i + 1], image=r.image[i : i + 1], mask=r.mask[i : i + 1]))
        for i in range(3)
    ]
    value = term.value(r)
    tolerance = 1e-12 if value.dtype == torch.float64 else 1e-6
    torch.testing.assert_close(value, torch.stack(alone).mean(), rtol=tolerance, atol=0)


# The slopes of l1 and gradient jump, fourier's weights are constants, a discriminator computes in float32, and a flow's
# source is a constant that is no constant here; test_pixel, test_filtered, test_adversarial and test_flow have their
# gradients.
@pytest.mark.parametrize(
    "name",
    [
        name
        for name in sorted(TERMS)
        if name not in ("l1", "gradient", "fourier", "feature_matching", "adversarial", "flow")
    ],
)
@pytest.mark.parametrize("over", ["hidden", "all"])
def test_gradient_is_the_slope_of_the_value(name, over):
    """Against central differences along random directions, in double precision."""
    term, r = term_of(name, torch.float64), scene_for(name, dtype=torch.float64, shift=(0.4, 0.7))
    gradient, step = gradient_of(term, r, over), 1e-6
    for seed in range(3):
        direction = torch.randn(r.prediction.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        ahead, behind = (term.value(r.at(r.prediction + s * step * direction, over)) for s in (1, -1))
        slope = float((gradient * direction).sum())
        assert float(ahead - behind) / (2 * step) == pytest.approx(slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("adversarial", "low_pass")]
)  # another target than the truth
@pytest.mark.parametrize("over", ["hidden", "all"])
def test_a_perfect_prediction_costs_nothing_and_has_no_gradient(name, over):
    r = scene(shift=(0.2, 0.9), mean=(0.0,) * 3, std=(1.0,) * 3)  # so that prediction to image is exact
    head = TERMS[name].head
    r = replaced(r, head=head)
    truth = replaced(r, prediction=perfect(r))
    assert float(term_of(name).value(truth.at(truth.prediction, over))) == pytest.approx(0, abs=ROUNDING.get(name, 0))
    assert gradient_of(term_of(name), truth, over).abs().max() <= ROUNDING.get(name, 0)


def test_a_value_is_one_finite_number(name):
    value = term_of(name).value(scene_for(name))
    assert value.shape == () and value.dtype == torch.float32 and value.isfinite()


def test_a_double_precision_prediction_has_a_double_precision_value(name):
    assert term_of(name, torch.float64).value(scene_for(name, dtype=torch.float64)).dtype == torch.float64


def test_a_reduced_precision_critic_gives_a_value_and_gradient_in_full_precision(name):
    term, r = term_of(name, dtype=torch.float32), scene_for(name)
    reduced = TERMS[name](term.options, dataclasses.replace(term.context, dtype=torch.bfloat16))
    reduced.load_state_dict(term.state_dict())
    assert reduced.value(r).dtype == gradient_of(reduced, r).dtype == torch.float32
    assert float(reduced.value(r)) == pytest.approx(float(term.value(r)), rel=0.05, abs=0.02)


def test_a_term_without_a_trainable_critic_has_no_state(name):
    term = term_of(name)
    trainable = any(p.requires_grad for p in term.parameters())
    assert bool(term.state()) == trainable == (name in ("feature_matching", "adversarial"))


def test_without_a_context_a_term_has_its_full_weight(name):
    term = term_of(name)
    assert [term.ramp(step) for step in (0, 1, 10**6)] == [1, 1, 1]


def test_every_option_is_documented(name):
    fields = dataclasses.fields(TERMS[name].Options)
    assert all(field.metadata["doc"] for field in fields)
    assert TERMS[name].__doc__ != Term.__doc__


def test_a_list_option_is_not_shared():
    @dataclasses.dataclass
    class Options:
        numbers: list[float] = option([1.0], "numbers")

    Options().numbers.append(2.0)
    assert Options().numbers == [1.0]
