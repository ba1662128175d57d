"""Predicted distributions: how a model learns them, and how it answers with their mean, mode and draws."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cache
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from losses import FlowHead, InvalidSetting, MixtureHead, PixelHead, build_objective
from losses.mixture import Basis
from losses.patches import patchify, spread
from recon.model import SIZES, MaskedAutoencoder, create_model, flow
from recon.model.distributions import chance_of
from tests.recon.model.conftest import small

SIDES, GRID, PATCH, PATCHES, VALUES = (16, 24), (4, 6), 4, 24, 48
HEADS = {
    "flow": FlowHead(steps=3),
    "flow-patch": FlowHead(network="patch", steps=3),
    "flow-noise": FlowHead(source="noise", steps=3),
    "mixture": MixtureHead(3, 10),
}
FLOWS = [name for name in HEADS if name.startswith("flow")]
RENDERINGS = [(name, rendering) for name, head in HEADS.items() for rendering in head.renderings]

every_kind = pytest.mark.parametrize("kind", HEADS)
every_flow = pytest.mark.parametrize("kind", FLOWS)


@cache
def original(kind: str, **overrides) -> MaskedAutoencoder:
    with patch.object(flow, "WIDTHS", (16, 32, 64)), patch.object(flow.PatchVelocity, "WIDTH", 64):
        return small(image_size=SIDES, patch_size=PATCH, head=HEADS[kind], **overrides).eval()


def made(kind: str, **overrides) -> MaskedAutoencoder:
    """A small model, no part of it silent, in double precision and in evaluation."""
    return deepcopy(original(kind, **overrides))  # a copy takes less time than weights that are drawn


def pictures(number: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    images = torch.rand(number, 3, *SIDES, generator=torch.Generator().manual_seed(seed))
    return images.to(dtype)  # the same numbers in every precision


def masks(number: int = 3, seed: int = 0) -> Tensor:
    noise = torch.rand(number, PATCHES, generator=torch.Generator().manual_seed(100 + seed))
    return noise.argsort(1).argsort(1) >= 9


def repainted(truth: Tensor, where: Tensor) -> Tensor:
    """Other pixels in the patches `where` (B, N)."""
    return torch.where(spread(where, GRID, PATCH), 1 - truth, truth)


def learning(model: MaskedAutoencoder, seed: int = 0, **arguments):
    """A training step's prediction, under the times and noise of a seed."""
    torch.manual_seed(seed)
    return model.train()(pictures(), **({"mask": masks()} | arguments))


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


# Answers


@pytest.mark.parametrize(("kind", "rendering"), RENDERINGS)
def test_every_answer_shows_the_truth_where_it_is_visible_and_another_elsewhere(kind, rendering):
    truth, mask = pictures(), masks()
    r = made(kind).render(truth, mask, rendering)
    same = (patchify(r.composite, PATCH) == patchify(truth, PATCH)).all(-1)
    assert torch.equal(same, ~mask)
    assert r.prediction.shape == (3, PATCHES, VALUES) and type(r.head) is PixelHead


@every_flow
def test_a_flow_s_draw_is_the_truth_where_it_is_visible(kind):
    """Not in the composite alone: there the network sees the truth at every time."""
    truth, mask = pictures(), masks()
    r = made(kind).render(truth, mask, "sample")
    assert torch.equal(r.pixels[~mask], r.true_pixels[~mask])


@pytest.mark.parametrize(("kind", "rendering"), RENDERINGS)
def test_hidden_pixels_change_no_bit_of_an_answer(kind, rendering):
    model, truth, mask = made(kind), pictures(), masks()
    one, other = (model.render(images, mask, rendering, 5) for images in (truth, repainted(truth, mask)))
    assert torch.equal(one.prediction[mask], other.prediction[mask])


@pytest.mark.parametrize(("kind", "rendering"), RENDERINGS)
def test_an_image_is_answered_alone_as_among_others(kind, rendering):
    model, truth, mask = made(kind), pictures(), masks()
    among = model.render(truth, mask, rendering, 2).prediction
    for i in range(3):
        alone = model.render(truth[i : i + 1], mask[i : i + 1], rendering, 2).prediction
        torch.testing.assert_close(alone[0], among[i], rtol=1e-9, atol=1e-9)


@every_kind
def test_draws_differ_in_every_hidden_patch_and_each_is_always_the_same(kind):
    model, truth, mask = made(kind), pictures(), masks()
    first, second, again = (model.render(truth, mask, "sample", draw).prediction for draw in (0, 1, 0))
    assert torch.equal(first, again)
    assert (first != second).any(-1)[mask].all()


@every_kind
def test_other_answers_than_draws_are_one(kind):
    model, truth, mask = made(kind), pictures(), masks()
    for rendering in set(HEADS[kind].renderings) - {"sample"}:
        assert torch.equal(*(model.render(truth, mask, rendering, draw).prediction for draw in (0, 1)))


@every_kind
def test_the_mean_is_what_the_model_predicts_in_evaluation(kind):
    model, truth, mask = made(kind), pictures(), masks()
    assert torch.equal(model.render(truth, mask, "mean").composite, model(truth, mask=mask).composite)


def test_mean_mode_and_draw_of_a_mixture_are_three():
    model, truth, mask = made("mixture"), pictures(), masks()
    mean, mode, draw = (model.render(truth, mask, of).prediction for of in ("mean", "mode", "sample"))
    assert (mean != mode).any(-1).all() and (mode != draw).any(-1).all() and (mean != draw).any(-1).all()


@pytest.mark.parametrize(("kind", "named"), [("flow", "mean, sample"), ("mixture", "mean, mode, sample")])
def test_an_answer_that_a_head_does_not_have_is_refused(kind, named):
    with pytest.raises(ValueError, match=f"no rendering 'median' .{named}"):
        made(kind).render(pictures(), masks(), "median")


def test_a_model_of_pixels_has_one_answer_alone():
    with pytest.raises(ValueError, match="pixels has no rendering 'sample'"):
        small(image_size=SIDES).render(pictures(), masks(), "sample")


# Chance


@every_kind
def test_answers_move_no_generator(kind):
    model, truth, mask = made(kind), pictures(), masks()
    state = torch.get_rng_state()
    for rendering in HEADS[kind].renderings:
        model.render(truth, mask, rendering)
    model(truth, mask=mask)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_a_draw_is_made_with_depends_on_the_draw_the_mask_and_visible_pixels_alone():
    truth, mask = pictures(), masks()
    numbers = chance_of(truth, mask, 0)
    assert numbers[0].shape == (3, PATCHES) and numbers[1].shape == (3, PATCHES, VALUES)
    same = [(repainted(truth, mask), mask), (truth.float(), mask)]
    for images, hidden in same:
        assert all(torch.equal(a, b) for a, b in zip(chance_of(images, hidden, 0), numbers, strict=True))
    one = torch.arange(PATCHES) == (~mask).float().argmax(1, keepdim=True)  # the first visible patch of each
    for images, hidden, draw in [(truth, mask, 1), (repainted(truth, one), mask, 0), (truth, masks(seed=1), 0)]:
        assert not any((a == b).any() for a, b in zip(chance_of(images, hidden, draw), numbers, strict=True))
    black = torch.zeros_like(truth)  # shows the same under every mask
    pairs = zip(chance_of(black, mask, 0), chance_of(black, masks(seed=1), 0), strict=True)
    assert not any((a == b).any() for a, b in pairs)


def test_every_image_has_numbers_of_its_own_and_they_are_uniform_and_normal():
    """5 standard errors of mean and variance."""
    uniform, normal = chance_of(pictures(200), masks(200), 0)
    assert len(uniform[:, 0].unique()) == 200
    assert (uniform >= 0).all() and (uniform < 1).all()
    for found, mean, variance, of_variance in [(uniform, 1 / 2, 1 / 12, 1 / 180), (normal, 0, 1, 2)]:
        assert abs(float(found.mean()) - mean) < 5 * (variance / found.numel()) ** 0.5
        assert abs(float(found.var()) - variance) < 5 * (of_variance / found.numel()) ** 0.5


@every_flow
def test_torch_s_seed_tells_times_and_noise_of_a_training_step(kind):
    model = made(kind)
    first, same, other = (learning(model, seed).prediction for seed in (0, 0, 1))
    assert torch.equal(first, same)
    mean, velocity, source = (first != other).split(VALUES, dim=-1)
    assert not mean.any()
    assert torch.equal(velocity.any(-1), masks()) and torch.equal(source.any(-1), masks())


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
    assert not r.head.velocity(r)[shown].any()
    assert torch.equal(r.head.source_pixels(r)[shown], r.true_pixels[shown])
    assert r.head.velocity(r)[r.mask].all()


@every_flow
def test_hidden_patches_alone_are_learnt_as_they_are_among_all(kind):
    model, noise = made(kind), torch.rand(3, PATCHES, generator=torch.Generator().manual_seed(0))
    full, hidden = (learning(model, mask=None, noise=noise, decoded=decoded) for decoded in (None, 1.0))
    rows = full.prediction.gather(1, hidden.where.unsqueeze(-1).expand(-1, -1, 3 * VALUES))
    torch.testing.assert_close(hidden.prediction, rows, rtol=1e-10, atol=1e-10)
    objective = build_objective("flow")
    torch.testing.assert_close(objective(full).value, objective(hidden).value, rtol=1e-10, atol=0)


@every_flow
def test_the_network_is_asked_on_the_straight_way_from_source_to_truth(kind):
    model = made(kind)
    model.distribution.network = field = Field(lambda x, t: x)
    r = learning(model)
    (x, mean, time), t = field.seen[0], field.seen[0][2].view(-1, 1, 1)
    source, truth = r.head.source_pixels(r), r.true_pixels
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
    noise = r.head.source_pixels(r) - (r.pixels if deviation else 0)
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
    covered, time = spread(mask, GRID, PATCH), torch.full((1,), 0.3)
    moved = torch.zeros_like(mask)
    moved[0, 9] = True
    one, other = (model.distribution.network(s, mean, covered, features, time) for s in (x, repainted(x, moved)))
    changed = (patchify(one, PATCH) != patchify(other, PATCH)).any(-1)
    assert torch.equal(changed, torch.ones_like(moved) if reads else moved)


# Euler's method


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_a_field_that_points_at_a_picture_ends_at_it(steps):
    """(y - x) / (1 - t): every straight way to y, whatever the steps."""
    target = pictures(seed=7)
    *_, end = drawn_by(lambda x, t: (target - x) / (1 - t), FlowHead(steps=steps))
    hidden = spread(masks(), GRID, PATCH).expand_as(end)
    torch.testing.assert_close(end[hidden], target[hidden], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_a_field_that_grows_with_the_state_ends_where_euler_s_method_does(steps):
    """dx/dt = a x: (1 + a / n)^n times the beginning."""
    _, field, begin, end = drawn_by(lambda x, t: 0.8 * x, FlowHead(steps=steps))
    hidden = spread(masks(), GRID, PATCH).expand_as(end)
    torch.testing.assert_close(end[hidden], begin[hidden] * (1 + 0.8 / steps) ** steps, rtol=1e-10, atol=1e-12)
    assert [float(time[0]) for *_, time in field.seen] == pytest.approx([i / steps for i in range(steps)])


def test_the_velocity_of_a_gaussian_carries_noise_to_it():
    """From N(0, 1) to N(m, s²): E[x₁ - x₀ | x_t], whose ways are x₀ -> m + s x₀. 400 steps leave less than 0.01."""
    m, s = 0.7, 0.4

    def velocity(x, t):
        spread = (t * s) ** 2 + (1 - t) ** 2
        return m + (t * s**2 - (1 - t)) / spread * (x - t * m)

    _, _, begin, end = drawn_by(velocity, FlowHead(source="noise", steps=400))
    hidden = spread(masks(), GRID, PATCH).expand_as(end)
    torch.testing.assert_close(end[hidden], m + s * begin[hidden], rtol=0, atol=0.01)
    assert (begin[hidden] - end[hidden]).abs().max() > 1


def test_on_the_way_visible_pixels_are_the_truth_whatever_the_velocity():
    model, field, *_ = drawn_by(lambda x, t: torch.full_like(x, 100.0))
    shown = ~spread(masks(), GRID, PATCH).expand(3, 3, *SIDES)
    truth = (pictures() - model.mean) / model.std
    assert len(field.seen) == 3
    assert all(torch.equal(state[shown], truth[shown]) for x, mean, _ in field.seen for state in (x, mean))


@pytest.mark.parametrize("network", ["conv", "patch"])
def test_a_new_network_leaves_the_source_as_it_is(network):
    """The mean with noise of deviation 0.1, intensities of [0, 1]; or noise. 5 standard errors."""
    for source in ("mean", "noise"):
        torch.manual_seed(0)
        head = FlowHead(source, network, steps=2)
        model = create_model("nano", image_size=32, patch_size=8, depth=1, decoder_depth=1, head=head).eval()
        truth = torch.rand(24, 3, 32, 32)
        mask = torch.rand(24, 16).argsort(1) >= 4
        draw, mean = (model.render(truth, mask, rendering) for rendering in ("sample", "mean"))
        if source == "mean":
            noise = (draw.predicted_image - mean.predicted_image) / 0.1
        else:
            noise = (draw.predicted_image - model.mean) / model.std
        noise = noise[spread(mask, (4, 4), 8).expand_as(noise)]
        assert abs(float(noise.mean())) < 5 / noise.numel() ** 0.5
        assert abs(float(noise.std()) - 1) < 5 / (2 * noise.numel()) ** 0.5


# Gradients


@every_kind
def test_gradient_reaches_every_parameter(kind):
    objective, model = build_objective(kind.partition("-")[0]), made(kind)
    r = learning(model)
    r.prediction.backward(objective(r).gradient)
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@every_flow
def test_the_velocity_teaches_decoder_and_encoder_but_not_the_mean(kind):
    """Through the features that it reads; the mean is a constant to it."""
    model = made(kind)
    build_objective("flow").terms["flow"].value(learning(model)).backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert silent == {"decoder_pred.weight", "decoder_pred.bias"}


@every_kind
@pytest.mark.parametrize("decoded", [None, 1.0])
def test_the_head_alone_learns_and_no_bit_of_encoder_and_decoder_moves(kind, decoded):
    model = made(kind)
    model.train_only("head")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    r = learning(model, decoded=decoded)
    r.prediction.backward(build_objective(kind.partition("-")[0])(r).gradient)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name, p in model.named_parameters() if p.grad is not None} == trained
    optimizer.step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == trained == {name for name, _ in model.named_parameters() if name.startswith("distribution.")}


# What is made


@every_kind
def test_one_seed_gives_one_encoder_and_decoder_under_every_head(kind):
    states = []
    for head in (PixelHead(), HEADS[kind]):
        torch.manual_seed(0)
        model = create_model("nano", image_size=16, patch_size=4, depth=1, decoder_depth=1, head=head)
        states.append(model.state_dict())
    plain, wide = states
    assert all(torch.equal(tensor, wide[name]) for name, tensor in plain.items())
    assert {name for name in wide if name not in plain} == {n for n in wide if n.startswith("distribution.")} != set()


@every_kind
def test_an_untrained_copy_draws_too_and_is_the_same_for_a_seed(kind):
    torch.manual_seed(0)
    model = create_model("nano", image_size=SIDES, patch_size=4, depth=1, decoder_depth=1, head=HEADS[kind])
    truth, mask = pictures(dtype=torch.float32), masks()
    before = torch.get_rng_state()
    copies = [model.untrained(seed).eval() for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), before)
    draws = [copy.render(truth, mask, "sample").prediction for copy in copies[:2]]
    assert torch.equal(*draws) and draws[0].isfinite().all()
    drawn = [torch.cat([p.flatten() for p in m.distribution.parameters()]) for m in [*copies, model]]
    assert torch.equal(drawn[0], drawn[1])
    assert not any(torch.equal(drawn[0], other) for other in drawn[2:])
    plain = create_model("nano", image_size=SIDES, patch_size=4, depth=1, decoder_depth=1).untrained(3)
    assert all(torch.equal(tensor, copies[0].state_dict()[name]) for name, tensor in plain.state_dict().items())


def test_a_file_of_weights_has_the_principal_components():
    model, other = made("mixture"), made("mixture", seed=1)
    model.distribution.take(Basis.of(patchify(pictures(9), PATCH).flatten(0, 1)))
    other.load_state_dict(model.state_dict())
    r, copy = (m(pictures(), mask=masks()) for m in (model, other))
    assert torch.equal(r.head.nats(r), copy.head.nats(copy))
    fresh = made("mixture")
    assert not torch.equal(fresh(pictures(), mask=masks()).pixels, r.pixels)


def test_a_new_mixture_is_about_as_wide_as_the_data_and_its_gaussians_stand_apart():
    torch.manual_seed(0)
    model = create_model("nano", image_size=16, patch_size=4, depth=1, decoder_depth=1, head=MixtureHead(5, 10))
    r = model(torch.rand(2, 3, 16, 16))
    q = r.head.parameters(r)
    assert torch.equal(q.centre, r.prediction[..., :VALUES])
    for log_std in (q.log_std, q.rest):
        assert log_std.mean().abs() < 0.1 and log_std.std() < 0.3
    apart = torch.cdist(q.means, q.means)[..., ~torch.eye(5, dtype=torch.bool)]
    assert apart.min() > 0.5
    assert (q.log_share.exp() - 1 / 5).abs().max() < 0.1


@pytest.mark.parametrize("head", [FlowHead(steps=1), FlowHead(network="patch", steps=1), MixtureHead()])
@pytest.mark.parametrize("name", SIZES)
def test_every_size_draws(name, head):
    """Their patches of 8, 14 and 16 pixels, in a network that is less deep and wide."""
    less = dict(width=48, heads=3, depth=1, decoder_width=32, decoder_depth=1)
    model = create_model(name, image_size=112, head=head, **less).eval()
    truth, mask = torch.rand(1, 3, 112, 112), torch.arange(model.patches)[None] % 2 == 0
    r = model.render(truth, mask, "sample")
    assert r.predicted_image.isfinite().all() and r.patch_size == SIZES[name]["patch_size"]


@pytest.mark.parametrize("name", SIZES)
def test_every_size_is_made(name):
    with torch.device("meta"):
        for head in (FlowHead(), FlowHead(network="patch"), MixtureHead()):
            assert create_model(name, image_size=224, head=head).distribution.head.name == head.name


@pytest.mark.parametrize(
    ("head", "overrides", "parts"),
    [
        (FlowHead(), {"image_size": 28, "patch_size": 14}, ["losses.flow.network=conv", "of 8", "28x28", "=patch"]),
        (FlowHead(), {"image_size": (16, 20), "patch_size": 4}, ["losses.flow.network=conv", "16x20"]),
        (MixtureHead(components=49), {"image_size": 16, "patch_size": 4}, ["losses.mixture.components=49", "48"]),
        (FlowHead(), {"image_size": 16, "refiner_width": 8}, ["model.refiner_width=8", "flow", "set it to 0"]),
        (MixtureHead(), {"image_size": 16, "refiner_width": 8}, ["model.refiner_width=8", "mixture"]),
    ],
    ids=str,
)
def test_what_cannot_be_made_is_told_in_one_line(head, overrides, parts):
    with pytest.raises(InvalidSetting) as error:
        create_model("nano", head=head, **overrides)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert all(part in message for part in parts), message


def test_patches_by_themselves_ask_for_no_side_in_particular():
    model = create_model("nano", image_size=28, patch_size=14, head=FlowHead(network="patch", steps=1), depth=1)
    mask = torch.tensor([[True, True, False, True]])
    assert model.render(torch.rand(1, 3, 28, 28), mask, "sample").prediction.isfinite().all()


@every_kind
def test_in_reduced_precision_a_draw_is_the_same_but_for_rounding(kind):
    """Which is less than what tells one draw from another."""
    model, truth, mask = made(kind, dtype=torch.float32), pictures(dtype=torch.float32), masks()
    full = model.render(truth, mask, "sample").prediction
    with torch.autocast("cpu", torch.bfloat16):
        low = model.render(truth, mask, "sample").prediction
        other = model.render(truth, mask, "sample", 1).prediction
    assert (low - full)[mask].std() < 0.5 * (other - low)[mask].std()
