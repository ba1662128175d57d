"""Critics that look less often, at fewer images, or through a window: what stays as it was, and what is saved."""

import pytest
import torch

from losses import InvalidSetting
from losses.reconstruction import unpatchify
from losses.term import spaced_indices, window
from tests.losses.scenes import (
    SIZE,
    SMALL,
    adversarial,
    equal,
    gradient_of,
    gradients_of,
    norm_scene,
    objective_of,
    one_line,
    replaced,
    scene,
)
from tests.losses.test_perceptual import perceptual

# Which images


@pytest.mark.parametrize(
    ("count", "fraction", "drawn"), [(8, 0.5, 4), (10, 0.3, 3), (7, 0.5, 4), (5, 0.1, 1), (3, 0.9, 3)]
)
def test_each_image_is_drawn_equally_often(count, fraction, drawn):
    draws = [spaced_indices(count, fraction, (s + 0.5) / count, torch.device("cpu")).tolist() for s in range(count)]
    assert all(len(set(draw)) == len(draw) == drawn for draw in draws)
    assert sorted(i for draw in draws for i in draw) == sorted(list(range(count)) * drawn)


@pytest.mark.parametrize("first", [0.0, 0.2, 0.55, 0.999])
@pytest.mark.parametrize(("parts", "size", "fraction"), [(2, 8, 0.25), (4, 6, 0.5), (3, 5, 0.6)])
def test_parts_of_a_batch_draw_the_images_that_the_whole_would(parts, size, fraction, first):
    cpu = torch.device("cpu")
    of_parts = [size * part + spaced_indices(size, fraction, first, cpu) for part in range(parts)]
    assert torch.equal(torch.cat(of_parts), spaced_indices(parts * size, fraction, first, cpu))


@pytest.mark.parametrize("make", [perceptual, lambda dtype, **o: adversarial(**o).to(dtype)], ids=["vgg19", "patches"])
def test_over_the_draws_of_images_the_gradient_is_that_of_all(make):
    r = scene(5, dtype=torch.float64, shift=(0.3, 0.3))
    draws = [replaced(r, sampling=((i + 0.5) / 5, 0.0, 0.0)) for i in range(5)]
    gradients = [gradient_of(make(dtype=torch.float64, images=0.4), draw) for draw in draws]
    assert all(int(g.flatten(1).any(1).sum()) == 2 for g in gradients)
    expected = gradient_of(make(dtype=torch.float64), r)
    torch.testing.assert_close(sum(gradients) / 5, expected, rtol=1e-9, atol=1e-16)


# Which window


@pytest.mark.parametrize(
    ("size", "side", "windows"), [(32, 16, 2), (29, 16, 2), (221, 96, 3), (48, 47, 2), (45, 48, 1)]
)
def test_the_fewest_windows_cover_every_pixel_alike(size, side, windows):
    found = [window(size, side, (i + 0.5) / windows) for i in range(windows)]
    seen = torch.zeros(size)
    for place in found:
        seen[place] += 1
    assert all(place.stop - place.start == min(side, size) for place in found)
    assert seen.min() == 1 and seen.max() <= 2 and (windows - 1) * side < size
    assert [window(size, side, u) for u in (0.0, 1 - 2**-24)] == [found[0], found[-1]]


@pytest.mark.parametrize("chance", [(0.0, 0.1, 0.2), (0.0, 0.9, 0.5), (0.0, 0.4, 0.99)])
@pytest.mark.parametrize("make", [perceptual, adversarial], ids=["vgg19", "patches"])
def test_no_gradient_leaves_the_window(make, chance):
    r = scene(shift=(0.6, 0.3), sampling=chance)
    term = make(crop=16)
    stride = term.stride if make is perceptual else term.discriminator.stride
    inside = torch.zeros(1, 1, *SIZE)
    shifted = r.shifted(inside, stride)
    shifted[:, :, window(shifted.shape[2], 16, chance[1]), window(shifted.shape[3], 16, chance[2])] = 1
    gradient = unpatchify(gradient_of(term, r, "all"), r.grid)
    assert int(inside.sum()) == 16 * 16 and not (gradient * (1 - inside)).any()
    assert (gradient * inside).ne(0).float().mean() > 0.1


def test_over_the_windows_the_gradient_is_that_of_the_whole_but_at_their_rims():
    """Two convolutions of 3x3: what lies 4 pixels inside a window neither feels nor is felt beyond it."""
    r, taps = scene(dtype=torch.float64), ["conv1_1", "conv1_2"]
    whole = unpatchify(gradient_of(perceptual(torch.float64, taps=taps), r, "all"), r.grid)
    term = perceptual(torch.float64, taps=taps, crop=16)
    places = [(0.0, u, v) for u in (0.2, 0.7) for v in (0.1, 0.5, 0.9)]
    mean = sum(unpatchify(gradient_of(term, replaced(r, sampling=p), "all"), r.grid) for p in places) / 6
    inside = torch.zeros(1, 1, 16, 16)
    inside[:, :, 4:-4, 4:-4] = 1
    inside = inside.repeat(1, 1, 2, 3)
    torch.testing.assert_close(mean * inside, whole * inside, rtol=1e-10, atol=1e-15)
    assert not torch.allclose(mean, whole, rtol=1e-3)


def test_a_window_as_large_as_the_image_is_the_whole():
    r = scene(1, size=(32, 32), shift=(0.4, 0.4))
    assert torch.equal(gradient_of(perceptual(crop=32), r), gradient_of(perceptual(), r))


def test_the_discriminator_learns_from_the_images_and_windows_that_it_judges():
    term, seen = adversarial(crop=16, images=0.5, gan_loss="relativistic"), []
    term.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    r = scene(4)
    term.value(r)
    term.learn(r)
    fake, true, both = seen
    assert fake.shape == (2, 3, 16, 16) and torch.equal(both, torch.cat([true, fake]))


def test_what_critics_look_at_changes_no_later_draw():
    """So that two runs with one seed see the same masks, crops and shifts."""
    states = []
    for cheaper in ({}, {"crop": 16, "images": 0.5, "every": 2}):
        objective = objective_of("mse + perceptual", perceptual=SMALL["perceptual"] | cheaper)
        torch.manual_seed(0)
        for step in range(3):
            objective(norm_scene(), step)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


# How often

SPARSE = ["mse + {}", "0.3*l1 + mse + 0.2*{}", "mse + 20%{}"]


@pytest.mark.parametrize("name", ["perceptual", "adversarial"])
def test_between_its_steps_a_term_does_nothing(name):
    objective, calls = objective_of(f"mse + {name}", **{name: SMALL[name] | {"every": 3}}), []
    term = objective.terms[name]
    layers = term.net.features if name == "perceptual" else term.discriminator.layers
    layers[0].register_forward_pre_hook(lambda *_: calls.append(step))
    alone = objective_of("mse")
    for step in range(7):
        before = [p.clone() for p in (*term.parameters(), *term.buffers())]
        r = scene(seed=step, shift=(0.5, 0.5))
        result = objective(r, step)
        objective.update(step)
        if step % 3:
            assert torch.equal(result.gradient, alone(r).gradient)
            assert list(result.terms) == ["mse"] and not result.cosines
            assert equal([*term.parameters(), *term.buffers()], before)
    assert calls == [0, 0, 3, 3, 6, 6]


@pytest.mark.parametrize("name", ["perceptual", "adversarial"])
@pytest.mark.parametrize("expression", SPARSE)
def test_over_k_steps_the_mean_gradient_is_that_of_a_term_at_every_step(expression, name):
    """Plainly weighted or a percentage; by a call or by the loss."""
    r = scene(dtype=torch.float64, shift=(0.2, 0.8))
    options = [{name: SMALL[name] | {"every": k}} for k in (1, 4)]
    always, sparse = (objective_of(expression.format(name), **o).double().eval() for o in options)
    expected = always(r).gradient
    results = [sparse(r, step) for step in range(4)]
    torch.testing.assert_close(sum(x.gradient for x in results) / 4, expected, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(sum(x.value for x in results) / 4, always(r).value, rtol=1e-6, atol=0)
    for step, result in enumerate(results):
        leaf = r.prediction.clone().requires_grad_()
        sparse.loss(replaced(r, prediction=leaf), step).backward()
        torch.testing.assert_close(leaf.grad, result.gradient, rtol=1e-6, atol=1e-12)


def test_a_percentage_refers_to_the_mean_gradient_norm_of_plain_terms():
    """Two critics at every second step: 10% of the plain terms' mean gradient norm, times two."""
    cheaper = {name: SMALL[name] | {"every": 2} for name in ("perceptual", "adversarial")}
    objective, r = objective_of("mse + 3*adversarial + 10%perceptual", **cheaper).double(), scene(dtype=torch.float64)
    gradients = gradients_of(objective, r)
    expected = 2 * 0.1 * (gradients["mse"] + 3 * gradients["adversarial"]).norm()
    result = objective(r, 4).terms["perceptual"]
    assert float(result.weight * result.gradient_norm) == pytest.approx(float(expected), rel=1e-6)


# Resumption


def test_an_objective_that_looks_less_goes_on_bit_for_bit():
    cheaper = {
        "perceptual": SMALL["perceptual"] | {"every": 2, "crop": 16},
        "adversarial": SMALL["adversarial"]
        | {"images": 0.5, "every": 3, "gan_loss": "relativistic", "penalty_every": 2, "crop": 24},
    }

    def play(objective, steps):
        results = []
        for step in steps:
            results.append(objective(scene(4, seed=step), step).gradient)
            objective.update(step)
        return results

    def new(seed):
        return objective_of("mse + 10%perceptual + adversarial", seed=seed, **cheaper)

    whole, first, second = new(0), new(0), new(1)
    torch.manual_seed(5)
    expected = play(whole, range(12))
    torch.manual_seed(5)
    play(first, range(4))
    state, draws = first.state(), torch.get_rng_state()
    torch.manual_seed(6)
    second.load_state(state)
    torch.set_rng_state(draws)
    assert equal(play(second, range(4, 12)), expected[4:])
    assert equal(second.parameters(), whole.parameters())


# What cannot be used


@pytest.mark.parametrize("name", ["perceptual", "adversarial"])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"every": 0}, "every=0"),
        ({"images": 0.0}, "images=0.0"),
        ({"images": 1.5}, "images=1.5"),
        ({"images": float("nan")}, "images=nan"),
        ({"crop": 33}, "crop=33"),  # the image has 32 rows
        ({"crop": 1}, "crop=1"),
        ({"crop": 0}, "crop=0"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_used_is_an_error_of_one_line(name, options, named):
    with pytest.raises(InvalidSetting) as error:
        objective_of(f"mse + {name}", **{name: SMALL[name] | options})
    assert f"losses.{name}.{named}" in one_line(error)


@pytest.mark.parametrize("expression", ["perceptual", "0.01*perceptual + 10%mse", "0.01*perceptual + 10%l1 + 10%mse"])
def test_every_step_has_a_plainly_weighted_term(expression):
    with pytest.raises(InvalidSetting) as error:
        objective_of(expression, perceptual=SMALL["perceptual"] | {"every": 2})
    assert "losses.perceptual.every=2" in one_line(error) and "such as mse" in str(error.value)
