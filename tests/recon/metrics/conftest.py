"""Networks on random weights for the tests of deep metrics, and torchvision's where they are to be had."""

import pytest
from safetensors.torch import save_file

from recon.metrics.deep import FeatureDistance, Lpips
from tests.recon.metrics.scenes import BUILDERS, untrained

FILES = {"alex": "alexnet_features.safetensors", "squeeze": "squeezenet1_1_features.safetensors"}


@pytest.fixture(scope="session")
def random_trunks(tmp_path_factory):
    """A file of random weights for each trunk."""
    folder, files = tmp_path_factory.mktemp("trunks"), {}
    for net, builder in BUILDERS.items():
        files[net] = folder / f"{net}.safetensors"
        weights = untrained(builder).state_dict()
        save_file({f"features.{key}": value for key, value in weights.items()}, files[net])
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
