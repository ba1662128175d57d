"""Networks on random weights for the tests of deep metrics, and torchvision's where they are to be had."""

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from recon.metrics.deep import FeatureDistance, Lpips
from tests.recon.metrics.scenes import BUILDERS

FILES = {"alex": "alexnet_features.safetensors", "squeeze": "squeezenet1_1_features.safetensors"}


@pytest.fixture(scope="module")
def random_trunks(tmp_path_factory):
    """A file of random weights for each trunk."""
    folder, files = tmp_path_factory.mktemp("trunks"), {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for net, builder in BUILDERS.items():
            features = getattr(torchvision.models, builder)(weights=None).features
            files[net] = folder / f"{net}.safetensors"
            save_file({f"features.{key}": value for key, value in features.state_dict().items()}, files[net])
    return files


@pytest.fixture(params=["random", "shared"])
def trunks(request, random_trunks):
    """Files of random trunks, and of torchvision's where they are to be had."""
    if request.param == "random":
        return random_trunks
    return {net: request.getfixturevalue("shared") / "weights" / name for net, name in FILES.items()}


@pytest.fixture(scope="module")
def squeeze(random_trunks):
    return Lpips("squeeze", str(random_trunks["squeeze"]))


@pytest.fixture(scope="module")
def vgg19():
    return FeatureDistance()


@pytest.fixture(params=["squeeze", "vgg19"])
def net(request):
    return request.getfixturevalue(request.param)
