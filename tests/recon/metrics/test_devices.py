"""A number does not depend on the device that computed it."""

import pytest
import skimage.data
import torch

from recon.metrics import METRICS, Pair
from recon.metrics.deep import FeatureDistance
from recon.metrics.distribution import SlicedWasserstein
from recon.metrics.feature_networks import VGG19Features
from recon.metrics.realism import feature_scores
from recon.metrics.recovery import added_texture, band_moments
from tests.recon.metrics.scenes import normal

pytestmark = pytest.mark.gpu


@pytest.fixture
def pairs(device) -> list[Pair]:
    """The same pair on the CPU and on the device."""
    truth = torch.from_numpy(skimage.data.astronaut()[:192, 100:292]).permute(2, 0, 1)[None].float() / 255
    truth = torch.cat([truth, truth.flip(3)])
    generator = torch.Generator().manual_seed(0)
    image = truth + 0.05 * torch.randn(truth.shape, generator=generator)
    mask = torch.rand(2, 144, generator=generator) < 0.75
    return [Pair(image.to(d), truth.to(d), mask.to(d)) for d in ("cpu", device)]


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_the_same_on_cpu_and_cuda(pairs, name):
    cpu, gpu = (METRICS[name](pair).cpu() for pair in pairs)
    torch.testing.assert_close(gpu, cpu, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("net", [FeatureDistance, VGG19Features])
def test_features_are_the_same_on_cpu_and_cuda(pairs, net):
    found = []
    for pair in pairs:
        arguments = (pair.image, pair.truth, pair.hidden) if net is FeatureDistance else (pair.image,)
        found.append(net("random").to(pair.image.device)(*arguments).cpu())
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


def test_sets_of_features_and_added_texture_are_the_same_on_cpu_and_cuda(pairs):
    textures = [added_texture(pair).cpu() for pair in pairs]
    torch.testing.assert_close(textures[1], textures[0], rtol=1e-6, atol=1e-8)
    x, y = normal(40, 30), 0.2 + normal(40, 30, seed=1)
    cpu, gpu = (feature_scores(x.to(pair.image.device), y.to(pair.image.device))[0] for pair in pairs)
    for name, values in cpu.items():
        torch.testing.assert_close(gpu[name].cpu(), values, rtol=1e-6, atol=1e-8, msg=name)


def test_sets_of_numbers_are_the_same_on_cpu_and_cuda(pairs):
    moments = [
        band_moments(p.patches, p.true_patches, p.mask, torch.full((3,), 0.5, dtype=torch.float64)).cpu() for p in pairs
    ]
    torch.testing.assert_close(moments[1], moments[0], rtol=1e-6, atol=1e-9)
    distances = []
    for pair in pairs:
        texture = SlicedWasserstein(16)
        texture.update(pair)
        distances.append(texture.compute())
    assert distances[1] == pytest.approx(distances[0], rel=1e-4)
