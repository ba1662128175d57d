"""Corruptions of whole images: what they do, on what they depend, and where gradients go."""

import math

import pytest
import torch

from losses import InvalidSetting, build_objective
from losses.reconstruction import patchify
from recon.model import MaskedAutoencoder, create_model
from recon.model.corruption import GaussianNoise, HiddenComponents, hashed, normal_numbers
from tests.recon.model.conftest import PATCHES, images, noise, small

BOTH = pytest.mark.parametrize("strategy", ["noise of 0.25", "components"])
VALUES = 48


def corrupting(strategy: str, **overrides) -> MaskedAutoencoder:
    """A small model with a generic basis, whose variances fall as those of photographs do."""
    model = small(mask_strategy=strategy, **overrides)
    if isinstance(model.corruption, HiddenComponents):
        axes, _ = torch.linalg.qr(torch.randn(VALUES, VALUES, generator=torch.Generator().manual_seed(1)).double())
        model.corruption.load_state_dict({"axes": axes, "deviations": 1 / torch.arange(1, VALUES + 1).double()})
    return model


def test_numbers_are_those_of_splitmix64():
    """One patch of noise 0 has the bits 0; the seed is the first number after state 0, hashed once more."""

    def mixed(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    golden = 0x9E3779B97F4A7C15
    assert mixed(golden) == 0xE220A8397B1DCDAF  # the first number of SplitMix64 with seed 0, as published
    seed = mixed(mixed(golden))
    expected = [mixed((seed + i * golden) % 2**64) for i in range(1, 6)]
    assert [int(x) % 2**64 for x in hashed(torch.zeros(1, 1), 5)[0]] == expected


def test_noise_is_gaussian_and_independent():
    x = normal_numbers(torch.rand(40, 16, generator=torch.Generator().manual_seed(0)), 10000).double()
    n = x.numel()
    assert x.mean().abs() < 4 / n**0.5 and (x.square().mean() - 1).abs() < 4 * (2 / n) ** 0.5
    assert (x.pow(3).mean()).abs() < 4 * (15 / n) ** 0.5 and (x.pow(4).mean() - 3).abs() < 4 * (96 / n) ** 0.5
    for bound in (-2.0, -0.5, 0.5, 2.0):
        p = 0.5 * (1 + math.erf(bound / 2**0.5))
        assert ((x < bound).double().mean() - p).abs() < 4 * (p * (1 - p) / n) ** 0.5
    # Between neighbours, between the two of each pair of Box and Muller, and between images.
    for a, b in ((x[:, 1:], x[:, :-1]), (x[:, :5000], x[:, 5000:]), (x[1:], x[:-1])):
        assert (a * b).mean().abs() < 4 / a.numel() ** 0.5


def test_rows_that_differ_in_one_patch_have_other_noise():
    row = torch.rand(1, PATCHES, generator=torch.Generator().manual_seed(0))
    swapped = row[:, [1, 0, *range(2, PATCHES)]]
    changed = row.clone()
    changed[0, 7] += 1e-6
    x = [normal_numbers(each, 4000) for each in (row, swapped, changed)]
    for a, b in ((x[0], x[1]), (x[0], x[2])):
        assert (a * b).mean().abs() < 4 / 4000**0.5


def test_the_noise_has_the_deviation_of_the_setting():
    truth = torch.rand(8, 3, 40, 40)
    added = GaussianNoise(0.1)(truth, torch.rand(8, 100)) - truth
    assert added.std().item() == pytest.approx(0.1, rel=4 / (2 * added.numel()) ** 0.5)


@BOTH
def test_a_corruption_depends_on_the_image_and_its_noise_alone(strategy):
    model, truth, order = corrupting(strategy), images(), torch.tensor([2, 0, 1])
    whole, permuted = model(truth, noise=noise()), model(truth[order], noise=noise()[order])
    assert torch.equal(whole.corrupted[order], permuted.corrupted)
    assert torch.equal(whole.corrupted, model(truth, noise=noise()).corrupted)
    assert torch.equal(whole.corrupted[1:2], model(truth[1:2], noise=noise()[1:2]).corrupted)
    assert torch.allclose(whole.prediction[order], permuted.prediction, rtol=0, atol=1e-12)
    assert not torch.allclose(whole.corrupted, model(truth, noise=noise(seed=1)).corrupted)


@BOTH
def test_every_patch_is_judged_and_the_composite_is_the_prediction(strategy):
    r = corrupting(strategy)(images(), noise=noise(), decoded=1.0)
    assert r.mask.all() and r.prediction.shape == (3, PATCHES, VALUES)
    assert torch.equal(r.composite, r.predicted_image) and not torch.equal(r.composite, r.corrupted)


@BOTH
def test_the_encoder_sees_every_patch_of_the_corrupted_image(strategy):
    """And nothing else: a model of the same weights that hides nothing encodes it alike."""
    model, seen = corrupting(strategy), []
    model.norm.register_forward_hook(lambda module, inputs, tokens: seen.append(tokens))
    r = model(images(), noise=noise())
    assert torch.equal(seen[0], model.encode(r.corrupted))
    assert not torch.allclose(seen[0], model.encode(images()))


@BOTH
def test_own_noise_follows_torch_s_seed(strategy):
    model, found = corrupting(strategy), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(model(images()).corrupted)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@BOTH
def test_a_corrupting_model_takes_no_mask(strategy):
    model = corrupting(strategy)
    for given in ({"mask": torch.ones(3, PATCHES, dtype=torch.bool)}, {"noise": noise(), "decoded": 0.5}):
        with pytest.raises(ValueError, match="corrupts whole images"):
            model(images(), **given)


@pytest.mark.parametrize("loss", ["mse", "norm_mse"])
@pytest.mark.parametrize("refiner_width", [0, 8])
@BOTH
def test_gradient_reaches_every_parameter_but_the_mask_token(strategy, loss, refiner_width):
    objective = build_objective(loss)
    width = refiner_width if loss == "mse" else 0
    model = corrupting(strategy, head=objective.head, refiner_width=width)
    r = model(images(), noise=noise())
    r.prediction.backward(objective(r).gradient)
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == ["mask_token"] and not model.mask_token.requires_grad
    model.train_only("decoder")
    assert not model.mask_token.requires_grad and model.decoder_embed.weight.requires_grad


@pytest.mark.parametrize("ratio", [0.05, 0.2, 0.5, 0.9])
def test_hidden_variance_is_the_ratio_to_half_a_component(ratio):
    model = corrupting("components", mask_ratio=ratio)
    hidden = model.corruption.hidden(torch.rand(200, PATCHES, generator=torch.Generator().manual_seed(0)))
    shares = model.corruption.deviations.square() / model.corruption.deviations.square().sum()
    found = (hidden * shares).sum(1)
    assert hidden.any(1).all() and not hidden.all(1).any()
    # Nearest among the sums along a random order: no step is longer than the largest share. One at least is hidden, and
    # one at least visible.
    near = (found - ratio).abs() <= shares.max() / 2 + 1e-9
    one_hidden, one_visible = hidden.sum(1) == 1, hidden.sum(1) == VALUES - 1
    assert (near | (one_hidden & (found > ratio)) | (one_visible & (found < ratio))).all()
    assert near.double().mean() > 0.8 and len(hidden.unique(dim=0)) > 100


def test_the_corrupted_image_is_the_truth_without_the_hidden_components():
    model = corrupting("components")
    c, truth = model.corruption, images()
    coefficients = patchify(model.standardise(truth), 4) @ c.axes
    left = patchify(model.standardise(c(truth, noise())), 4) @ c.axes
    hidden = c.hidden(noise())[:, None].expand_as(left)
    assert left[hidden].abs().max() < 1e-12
    assert torch.allclose(left[~hidden], coefficients[~hidden], rtol=0, atol=1e-12)


def test_the_reconstruction_is_true_in_visible_components_and_learns_in_hidden_ones_alone():
    model, objective = corrupting("components"), build_objective("mse")
    r = model(images(), noise=noise())
    hidden = model.corruption.hidden(noise())[:, None].expand(3, PATCHES, VALUES)
    error = (r.prediction - r.true_pixels) @ model.corruption.axes
    assert error[~hidden].abs().max() < 1e-12 and error[hidden].abs().min() > 0
    raw = torch.randn(3, PATCHES, VALUES, dtype=torch.float64, requires_grad=True)
    given = objective(r).gradient + torch.randn(3, PATCHES, VALUES, dtype=torch.float64)
    model.corruption.complete(raw, r.corrupted, noise()).backward(given)
    along = raw.grad @ model.corruption.axes
    assert along[~hidden].abs().max() < 1e-12
    assert torch.allclose(along[hidden], (given @ model.corruption.axes)[hidden], rtol=0, atol=1e-12)


def test_state_has_the_basis_and_nothing_else_new():
    plain, noisy, components = (small(mask_strategy=s) for s in ("random", "noise of 0.25", "components"))
    assert noisy.state_dict().keys() == plain.state_dict().keys()
    new = components.state_dict().keys() - plain.state_dict().keys()
    assert new == {"corruption.axes", "corruption.deviations"}
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, components.state_dict()[name])


@pytest.mark.parametrize("loss", ["mixture", "flow"])
@BOTH
def test_distributions_are_refused(strategy, loss):
    with pytest.raises(InvalidSetting, match="leaves no patch as it was"):
        create_model("nano", image_size=16, head=build_objective(loss).head, mask_strategy=strategy)


def test_components_of_no_variance_are_refused():
    with pytest.raises(InvalidSetting, match=r"masking.ratio=0.*variance"):
        create_model("nano", image_size=16, mask_strategy="components", mask_ratio=0.0)
