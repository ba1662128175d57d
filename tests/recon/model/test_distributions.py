"""Predicted distributions: what a model answers with, what its draws depend on, and what is made and trained."""

import pytest
import torch

from losses import FlowHead, InvalidSetting, MixtureHead, PixelHead, build_objective
from losses.posterior import PrincipalComponents
from losses.reconstruction import patchify
from recon.model import SIZES, create_model
from recon.model.distributions import random_numbers, time_and_noise
from tests.recon.model.conftest import small
from tests.recon.model.drawn import (
    HEADS,
    PATCH,
    PATCHES,
    RENDERINGS,
    SIDES,
    VALUES,
    every_flow,
    every_kind,
    learning,
    made,
    masks,
    pictures,
    repainted,
)

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
    with torch.no_grad():  # a picture while it trains
        model.train()(truth, mask=mask)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_a_draw_is_made_with_depends_on_the_draw_the_mask_and_visible_pixels_alone():
    truth, mask = pictures(), masks()
    numbers = random_numbers(truth, mask, 0)
    assert numbers[0].shape == (3, PATCHES) and numbers[1].shape == (3, PATCHES, VALUES)
    same = [(repainted(truth, mask), mask), (truth.float(), mask)]
    for images, hidden in same:
        assert all(torch.equal(a, b) for a, b in zip(random_numbers(images, hidden, 0), numbers, strict=True))
    one = torch.arange(PATCHES) == (~mask).float().argmax(1, keepdim=True)  # the first visible patch of each
    for images, hidden, draw in [(truth, mask, 1), (repainted(truth, one), mask, 0), (truth, masks(seed=1), 0)]:
        assert not any((a == b).any() for a, b in zip(random_numbers(images, hidden, draw), numbers, strict=True))
    black = torch.zeros_like(truth)  # shows the same under every mask
    pairs = zip(random_numbers(black, mask, 0), random_numbers(black, masks(seed=1), 0), strict=True)
    assert not any((a == b).any() for a, b in pairs)


def test_every_image_has_numbers_of_its_own_and_they_are_uniform_and_normal():
    """5 standard errors of mean and variance."""
    uniform, normal = random_numbers(pictures(200), masks(200), 0)
    assert len(uniform[:, 0].unique()) == 200
    assert (uniform >= 0).all() and (uniform < 1).all()
    for found, mean, variance, of_variance in [(uniform, 1 / 2, 1 / 12, 1 / 180), (normal, 0, 1, 2)]:
        assert abs(float(found.mean()) - mean) < 5 * (variance / found.numel()) ** 0.5
        assert abs(float(found.var()) - variance) < 5 * (of_variance / found.numel()) ** 0.5


# Gradients


@every_kind
def test_gradient_reaches_every_parameter(kind):
    objective, model = build_objective(kind.partition("-")[0]), made(kind)
    r = learning(model)
    r.prediction.backward(objective(r).gradient)
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


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
    basis = PrincipalComponents.fit(patchify(pictures(9), PATCH).flatten(0, 1))
    model.distribution.load_state_dict(basis._asdict(), strict=False)
    other.load_state_dict(model.state_dict())
    r, copy = (m(pictures(), mask=masks()) for m in (model, other))
    assert torch.equal(
        r.head.negative_log_likelihood(r.prediction, r.true_pixels, r.std),
        copy.head.negative_log_likelihood(copy.prediction, copy.true_pixels, copy.std),
    )
    fresh = made("mixture")
    assert not torch.equal(fresh(pictures(), mask=masks()).pixels, r.pixels)


def test_a_new_mixture_is_about_as_wide_as_the_data_and_its_gaussians_stand_apart():
    torch.manual_seed(0)
    model = create_model("nano", image_size=16, patch_size=4, depth=1, decoder_depth=1, head=MixtureHead(5, 10))
    r = model(torch.rand(2, 3, 16, 16))
    q = r.head.parameters(r.prediction, r.values, r.std)
    assert torch.equal(q.centre, r.prediction[..., :VALUES])
    for log_std in (q.log_std, q.rest_log_std):
        assert log_std.mean().abs() < 0.1 and log_std.std() < 0.3
    apart = torch.cdist(q.means, q.means)[..., ~torch.eye(5, dtype=torch.bool)]
    assert apart.min() > 0.5
    assert (q.log_weights.exp() - 1 / 5).abs().max() < 0.1


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


def test_a_new_mixture_has_the_decoder_s_prediction_for_its_mean():
    torch.manual_seed(0)
    model = create_model("nano", image_size=32, patch_size=8, depth=1, decoder_depth=1, head=MixtureHead()).eval()
    truth, mask = torch.rand(2, 3, 32, 32), torch.arange(16).expand(2, -1) < 12
    mean = model.render(truth, mask, "mean").predicted_image
    model.head, model.distribution = PixelHead(), None
    torch.testing.assert_close(mean, model(truth, mask=mask).predicted_image, rtol=0, atol=1e-5)


def test_processes_draw_other_times_and_noise(monkeypatch):
    """They have torch's CPU generator in common."""
    found = []
    for rank in range(2):
        torch.manual_seed(0)
        monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        found.append(time_and_noise(torch.zeros(4, 3, 8, 8)))
    assert not any((a == b).any() for a, b in zip(*found, strict=True))
