"""A flow's velocity: what it is taught and where it is asked, and where the midpoint method ends."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from losses import FlowHead, build_objective
from losses.reconstruction import expand_to_pixels, patchify
from recon.model import create_model
from tests.recon.model.conftest import small
from tests.recon.model.drawn import (
    GRID,
    HEADS,
    PATCH,
    PATCHES,
    SIDES,
    VALUES,
    every_flow,
    learning,
    made,
    masks,
    pictures,
    repainted,
)


class Field(nn.Module):
    """A velocity that is known, in place of the network's; `seen` are the states and times it was asked at."""

    def __init__(self, velocity: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.velocity, self.seen = velocity, []

    def forward(self, x, mean, covered, features, time):
        self.seen.append((x, mean, time))
        return self.velocity(x, time.view(-1, 1, 1, 1))


def drawn_by(velocity, head: FlowHead = HEADS["flow"], number: int = 3, draw: int = 0):
    """Model, field, where the way began and where it ended, (B, 3, H, W) standardised."""
    model = small(image_size=SIDES, patch_size=PATCH, head=replace(head, network="patch")).eval()
    model.distribution.network = field = Field(velocity)
    r = model.render(pictures(number), masks(number), "sample", draw)
    return model, field, field.seen[0][0], (r.predicted_image - model.mean) / model.std


# What a flow learns


@every_flow
def test_in_training_a_flow_s_prediction_is_mean_velocity_and_source_and_in_evaluation_the_mean(kind):
    model = made(kind)
    evaluated = model(pictures(), mask=masks()).prediction
    trained = learning(model).prediction
    assert evaluated.shape == (3, PATCHES, VALUES) and trained.shape == (3, PATCHES, 3 * VALUES)
    assert torch.equal(trained[..., :VALUES], evaluated)


@every_flow
def test_a_visible_patch_stays_where_it_is(kind):
    """So that its velocity and what is asked of it are zero, where all patches are judged too."""
    r = learning(made(kind))
    shown = ~r.mask
    assert not r.head.velocity(r.prediction, r.values)[shown].any()
    assert torch.equal(r.head.source_pixels(r.prediction, r.values)[shown], r.true_pixels[shown])
    assert r.head.velocity(r.prediction, r.values)[r.mask].all()


@every_flow
def test_hidden_patches_alone_are_learnt_as_they_are_among_all(kind):
    model, noise = made(kind), torch.rand(3, PATCHES, generator=torch.Generator().manual_seed(0))
    full, hidden = (learning(model, mask=None, noise=noise, decoded=decoded) for decoded in (None, 1.0))
    rows = full.prediction.gather(1, hidden.indices.unsqueeze(-1).expand(-1, -1, 3 * VALUES))
    torch.testing.assert_close(hidden.prediction, rows, rtol=1e-10, atol=1e-10)
    objective = build_objective("flow")
    torch.testing.assert_close(objective(full).value, objective(hidden).value, rtol=1e-10, atol=0)


@every_flow
def test_the_network_is_asked_on_the_straight_way_from_source_to_truth(kind):
    model = made(kind)
    model.distribution.network = field = Field(lambda x, t: x)
    r = learning(model)
    (x, mean, time), t = field.seen[0], field.seen[0][2].view(-1, 1, 1)
    source, truth = r.head.source_pixels(r.prediction, r.values), r.true_pixels
    torch.testing.assert_close(patchify(x, PATCH), (1 - t) * source + t * truth, rtol=1e-12, atol=1e-12)
    expected = torch.where(r.mask.unsqueeze(-1), r.pixels, truth)
    assert torch.equal(patchify(mean, PATCH), expected)
    assert torch.equal((time * 3).floor(), torch.arange(3).float())  # one in each third


@pytest.mark.parametrize(("kind", "deviation"), [("flow", 0.1), ("flow-noise", None)])
def test_a_source_is_the_mean_and_noise_of_a_deviation_in_intensities_or_noise_alone(kind, deviation):
    """5 standard errors of 8,640 values per channel."""
    model, truth, mask = made(kind).train(), pictures(36), masks(36)
    torch.manual_seed(0)
    r = model(truth, mask=mask)
    noise = r.head.source_pixels(r.prediction, r.values) - (r.pixels if deviation else 0)
    by_channel = noise[mask].detach().view(-1, 3)
    if deviation:
        by_channel = by_channel * model.std.flatten() / deviation
    many = len(by_channel)
    assert (by_channel.mean(0).abs() < 5 / many**0.5).all()
    assert ((by_channel.std(0) - 1).abs() < 5 / (2 * many) ** 0.5).all()


@pytest.mark.parametrize(("kind", "reads"), [("flow", True), ("flow-patch", False)])
def test_the_network_reads_across_the_borders_of_patches_or_it_does_not(kind, reads):
    model, mask = made(kind), torch.ones(1, PATCHES, dtype=torch.bool)
    x, mean = pictures(1), pictures(1, seed=1)
    features = torch.randn(1, 32, *GRID, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    covered, time = expand_to_pixels(mask, GRID, PATCH), torch.full((1,), 0.3)
    moved = torch.zeros_like(mask)
    moved[0, 9] = True
    one, other = (model.distribution.network(s, mean, covered, features, time) for s in (x, repainted(x, moved)))
    changed = (patchify(one, PATCH) != patchify(other, PATCH)).any(-1)
    assert torch.equal(changed, torch.ones_like(moved) if reads else moved)


@every_flow
def test_torch_s_seed_tells_times_and_noise_of_a_training_step(kind):
    model = made(kind)
    first, same, other = (learning(model, seed).prediction for seed in (0, 0, 1))
    assert torch.equal(first, same)
    mean, velocity, source = (first != other).split(VALUES, dim=-1)
    assert not mean.any()
    assert torch.equal(velocity.any(-1), masks()) and torch.equal(source.any(-1), masks())


@every_flow
def test_the_velocity_teaches_decoder_and_encoder_but_not_the_mean(kind):
    """Through the features that it reads; the mean is a constant to it."""
    model = made(kind)
    build_objective("flow").terms["flow"].value(learning(model)).backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert silent == {"decoder_pred.weight", "decoder_pred.bias"}


# The midpoint method


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_a_field_that_points_at_a_picture_ends_at_it(steps):
    """(y - x) / (1 - t): every straight way to y, whatever the steps."""
    target = pictures(seed=7)
    *_, end = drawn_by(lambda x, t: (target - x) / (1 - t), FlowHead(steps=steps))
    hidden = expand_to_pixels(masks(), GRID, PATCH).expand_as(end)
    torch.testing.assert_close(end[hidden], target[hidden], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_a_field_that_grows_with_the_state_ends_where_the_midpoint_method_does(steps):
    """dx/dt = a x: (1 + h + h² / 2)^n times the beginning, h = a / n; asked at begin and middle of each step."""
    _, field, begin, end = drawn_by(lambda x, t: 0.8 * x, FlowHead(steps=steps))
    hidden, h = expand_to_pixels(masks(), GRID, PATCH).expand_as(end), 0.8 / steps
    torch.testing.assert_close(end[hidden], begin[hidden] * (1 + h + h**2 / 2) ** steps, rtol=1e-10, atol=1e-12)
    asked = [(i + half) / steps for i in range(steps) for half in (0, 0.5)]
    assert [float(time[0]) for *_, time in field.seen] == pytest.approx(asked)


def test_the_velocity_of_a_gaussian_carries_noise_to_it():
    """From N(0, 1) to N(m, s²): E[x₁ - x₀ | x_t], whose ways are x₀ -> m + s x₀. 40 steps leave less than 0.01."""
    m, s = 0.7, 0.4

    def velocity(x, t):
        spread = (t * s) ** 2 + (1 - t) ** 2
        return m + (t * s**2 - (1 - t)) / spread * (x - t * m)

    _, _, begin, end = drawn_by(velocity, FlowHead(source="noise", steps=40))
    hidden = expand_to_pixels(masks(), GRID, PATCH).expand_as(end)
    torch.testing.assert_close(end[hidden], m + s * begin[hidden], rtol=0, atol=0.01)
    assert (begin[hidden] - end[hidden]).abs().max() > 1


def test_on_the_way_visible_pixels_are_the_truth_whatever_the_velocity():
    model, field, *_ = drawn_by(lambda x, t: torch.full_like(x, 100.0))
    shown = ~expand_to_pixels(masks(), GRID, PATCH).expand(3, 3, *SIDES)
    truth = (pictures() - model.mean) / model.std
    assert len(field.seen) == 6
    assert all(torch.equal(state[shown], truth[shown]) for x, mean, _ in field.seen for state in (x, mean))


@pytest.mark.parametrize("network", ["conv", "patch"])
def test_a_new_network_leaves_the_source_as_it_is(network):
    """The mean with noise of deviation 0.1, intensities of [0, 1]; or noise. 5 standard errors."""
    for source in ("mean", "noise"):
        torch.manual_seed(0)
        head = FlowHead(source, network, steps=2)
        model = create_model("nano", image_size=32, patch_size=8, depth=1, decoder_depth=1, head=head).eval()
        truth = torch.rand(8, 3, 32, 32)
        mask = torch.rand(8, 16).argsort(1) >= 4
        draw, mean = (model.render(truth, mask, rendering) for rendering in ("sample", "mean"))
        if source == "mean":
            noise = (draw.predicted_image - mean.predicted_image) / 0.1
        else:
            noise = (draw.predicted_image - model.mean) / model.std
        noise = noise[expand_to_pixels(mask, (4, 4), 8).expand_as(noise)]
        assert abs(float(noise.mean())) < 5 / noise.numel() ** 0.5
        assert abs(float(noise.std()) - 1) < 5 / (2 * noise.numel()) ** 0.5
