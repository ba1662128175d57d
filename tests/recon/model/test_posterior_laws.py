"""Heads that draw, taught beside the best possible prediction: what theory says of draws from the posterior holds.

On Gaussian fields the conditional mean is known, so what is measured is the layers that draw and nothing else: they are
given that mean and no features.
"""

from functools import cache
from unittest.mock import patch

import pytest
import torch

from losses import FlowHead, MixtureHead, Reconstruction, build_objective
from losses.posterior import PrincipalComponents, random_times
from losses.reconstruction import patchify
from recon.baselines.bayes import Bayes
from recon.data import create_dataset, evaluation_crop
from recon.data.synthetic import MEAN, STD
from recon.metrics.base import Pair
from recon.metrics.fidelity import masked_mse
from recon.metrics.recovery import Recovery, band_moments
from recon.metrics.uncertainty import per_image_scores
from recon.model import distributions
from recon.model.distributions import FlowLayers, MixtureLayers

SIZE, PATCH, IMAGES, WIDTH = 16, 4, 200, 8
BATCH, RATE, DRAWS = 64, 2e-3, 4


def fields(split: str, count: int) -> torch.Tensor:
    source = create_dataset("gaussian_field", split)
    crops = [evaluation_crop(source.read(i)[0], (SIZE, SIZE), native=True) for i in range(count)]
    return torch.stack(crops).float() / 255


def masks(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 16, generator=torch.Generator().manual_seed(seed)).argsort(1) < 12


def standardised(images: torch.Tensor) -> torch.Tensor:
    return (images - MEAN) / STD


def reconstruction(prediction, images, mask, head=None) -> Reconstruction:
    return Reconstruction(prediction, images, mask, head, mean=[MEAN] * 3, std=[STD] * 3)


def turned(square: torch.Tensor) -> torch.Tensor:
    """(n, ..., side, side) under the eight symmetries of a square, which a field does not tell apart."""
    both = torch.cat([square, square.flip(-1)])
    return torch.cat([both.rot90(quarters, (-2, -1)) for quarters in range(4)])


@cache
def training(count: int):
    """Images, masks and best predictions, eight times as many as are read, so that none is learnt by heart."""
    images, mask = fields("train", count), masks(count, 3)
    mean = standardised(Bayes((SIZE, SIZE))(images, mask))
    return turned(images), turned(mask.unflatten(1, (4, 4))).flatten(1), patchify(turned(mean), PATCH)


@pytest.fixture(scope="module")
def held_out():
    images, mask = fields("val", IMAGES), masks(IMAGES, 1)
    return images, mask, Bayes((SIZE, SIZE))(images, mask)


def taught(layers, term: str, steps: int, training, predict):
    """The layers after so many steps under their term; `predict(mean, images, mask, generator)` is their prediction."""
    objective = build_objective(term, image_size=SIZE)
    optimizer = torch.optim.AdamW(layers.parameters(), lr=RATE)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 50) * (1 - step / steps)
        chosen = torch.randint(len(training[0]), (BATCH,), generator=generator)
        images, mask, mean = (each[chosen] for each in training)
        r = reconstruction(predict(mean, images, mask, generator), images, mask, layers.head)
        r.prediction.backward(objective(r, step).gradient)
        torch.nn.utils.clip_grad_norm_(layers.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return layers


@torch.no_grad()
def drawn(layers, prediction, held_out) -> torch.Tensor:
    """(DRAWS, IMAGES, 3, SIZE, SIZE), composites."""
    images, mask, _ = held_out
    r, found = reconstruction(prediction, images, mask, layers.head), []
    for draw in range(DRAWS):
        generator = torch.Generator().manual_seed(draw)
        uniform, normal = (
            torch.rand(mask.shape, generator=generator),
            torch.randn(r.true_pixels.shape, generator=generator),
        )
        patches = layers.draw(r, torch.zeros(IMAGES, 16, WIDTH), uniform, normal)
        found.append(reconstruction(patches, images, mask).composite.clamp(0, 1))
    return torch.stack(found)


def assert_laws(draws: torch.Tensor, held_out, within: float) -> None:
    """Retention 1, coherence that of the best, squared error 1 + 1/S of the least."""
    images, mask, best = held_out
    hidden = Pair(best, images, mask).hidden
    least = masked_mse(best, images, hidden).mean()
    for count in (1, 2, 4):
        error = masked_mse(draws[:count].mean(0), images, hidden).mean()
        assert (error / least).item() == pytest.approx(1 + 1 / count, rel=within), count
    pair = Pair(draws[0], images, mask)
    recovery = Recovery(band_moments(pair.patches, pair.true_patches, mask, torch.full((3,), MEAN)).sum(0))
    exact = Bayes((SIZE, SIZE)).exact_retention(mask[::10])
    torch.testing.assert_close(recovery.retention, torch.ones_like(exact), rtol=0, atol=2 * within)
    torch.testing.assert_close(recovery.coherence, exact.square(), rtol=0, atol=within)


def test_a_mixture_draws_from_the_posterior(held_out):
    torch.manual_seed(0)
    layers = MixtureLayers(MixtureHead(gaussians=1), WIDTH, PATCH)
    images, mask, mean = known = training(100)  # its layers see no image: they learn one distribution
    basis = PrincipalComponents.fit((patchify(standardised(images), PATCH) - mean)[mask])
    layers.load_state_dict(basis._asdict(), strict=False)
    features = torch.zeros(BATCH, 16, WIDTH)
    taught(layers, "mixture", 200, known, lambda mean, *_: layers(mean, features))
    with torch.no_grad():
        prediction = layers(patchify(standardised(held_out[2]), PATCH), torch.zeros(IMAGES, 16, WIDTH))
    assert_laws(drawn(layers, prediction, held_out), held_out, within=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["mean", "noise"])
def test_a_flow_draws_from_the_posterior(held_out, source):
    torch.manual_seed(0)
    with patch.object(distributions, "WIDTHS", (32, 64, 128)):
        layers = FlowLayers(FlowHead(source=source), WIDTH, PATCH, (SIZE, SIZE), torch.full((3, 1, 1), STD))
    features = torch.zeros(BATCH, 16, WIDTH)

    def predict(mean, images, mask, generator):
        time, noise = random_times(BATCH, generator), torch.randn(images.shape, generator=generator)
        return layers(mean, features, standardised(images), mask, time, noise)

    taught(layers, "flow", 1000, training(600), predict)
    draws = drawn(layers, patchify(standardised(held_out[2]), PATCH), held_out)
    assert_laws(draws, held_out, within=0.12)
    # The network sees what is visible, and with it the class, whose textures differ in strength.
    ranks = per_image_scores(draws, *held_out[:2])["ranks"].sum(0)
    torch.testing.assert_close(ranks / ranks.sum(), torch.full_like(ranks, 1 / (DRAWS + 1)), rtol=0.15, atol=0)
