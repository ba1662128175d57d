"""LPIPS against the package called directly."""

from copy import deepcopy
from types import SimpleNamespace

import lpips
import pytest
import torch
from safetensors.torch import load_file

from recon.metrics.base import Undefined
from recon.metrics.deep import SMALLEST, Lpips
from tests.losses.scenes import photographs
from tests.recon.metrics.scenes import BUILDERS, NETS, everywhere, hidden_in, noisy, untrained


def package(net: str, file, **settings) -> lpips.LPIPS:
    """The package's own network, on a trunk that torchvision would hand it."""
    features = deepcopy(untrained(BUILDERS[net]))
    features.load_state_dict({key.removeprefix("features."): value for key, value in load_file(file).items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            lpips.pretrained_networks.tv, BUILDERS[net], lambda pretrained: SimpleNamespace(features=features)
        )
        return lpips.LPIPS(net=net, verbose=False, **settings)


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_lpips_is_the_package_s_map_averaged_over_hidden_pixels(name, trunks):
    truth = photographs((64, 80))
    image, hidden = noisy(truth, 0.1), hidden_in(truth)
    spatial = package(name, trunks[name], spatial=True)(image, truth, normalize=True)
    found = Lpips(name, str(trunks[name]))(image, truth, hidden)
    expected = torch.stack([values[chosen].mean() for values, chosen in zip(spatial, hidden, strict=True)])
    assert found.shape == (4,) and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_with_everything_hidden_lpips_is_near_the_package_s_plain_value(name, trunks):
    """The package averages each layer before it is upsampled: bilinear weights at the border make the difference."""
    truth = photographs((128, 128))
    image = noisy(truth, 0.1)
    plain = package(name, trunks[name])(image, truth, normalize=True).flatten()
    found = Lpips(name, str(trunks[name]))(image, truth, everywhere(truth))
    torch.testing.assert_close(found, plain, rtol=5e-4, atol=0)


@pytest.mark.parametrize("name", NETS)
def test_the_smallest_image_is_what_the_package_can_pool(name, random_trunks):
    net, size = Lpips(name, str(random_trunks[name])), SMALLEST[name]
    images = torch.rand(2, 1, 3, size, size + 3)
    assert net(*images, everywhere(images[0])).isfinite().all()
    images = images[..., 1:, :]
    with pytest.raises(Undefined, match=f"below {size} pixels"):
        net(*images, everywhere(images[0]))
    with pytest.raises(RuntimeError, match="too small"):
        package(name, random_trunks[name])(*images)


def test_lpips_never_wakes_up(squeeze):
    parent = torch.nn.Sequential(squeeze).train()
    assert parent.training and not any(module.training for module in squeeze.modules())
    assert not any(parameter.requires_grad for parameter in squeeze.parameters())


def test_lpips_takes_nothing_from_torchs_generator(random_trunks):
    before = torch.get_rng_state()
    Lpips("squeeze", str(random_trunks["squeeze"]))
    assert torch.equal(torch.get_rng_state(), before)
