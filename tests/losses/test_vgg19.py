"""VGG19 against torchvision's, and what being frozen means."""

import pytest
import torch
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from losses import InvalidSetting
from losses.features.vgg19 import DEFAULT_TAPS, VGG19, tap_index
from losses.features.weights import he_initialised, load_vgg19
from losses.reconstruction import IMAGENET_MEAN, IMAGENET_STD
from tests.losses.scenes import one_line

INDEX = {"conv1_1": 1, "conv1_2": 3, "conv2_1": 6, "conv2_2": 8, "conv3_1": 11, "conv3_4": 17, "conv5_4": 35}
EVERY_LAYER = [f"features.{i}" for i in range(37)]


@pytest.fixture(scope="module")
def deep():
    """Torchvision's `vgg19().features` and the weights it shares with this project's."""
    weights = he_initialised(VGG19(["pool5"]))
    features = make_layers(cfgs["E"])
    features.load_state_dict({key.removeprefix("features."): value for key, value in weights.items()})
    for layer in features:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    return features, weights


def network(taps, weights) -> VGG19:
    net = VGG19(taps)
    net.load_state_dict({key: weights[key] for key in net.state_dict()})
    return net


@torch.no_grad()
def torchvision_outputs(features, images):
    x = (images - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    outputs = []
    for layer in features:
        x = layer(x)
        outputs.append(x)
    return outputs


@pytest.mark.parametrize(
    "taps",
    [
        DEFAULT_TAPS,
        EVERY_LAYER,
        ["features.0", "conv1_1"],
        ["conv1_1", "features.0"],
        ["features.2"],
        ["pool1", "pool2", "pool5"],
        ["relu3_4", "conv5_4"],
        ["conv3_1", "conv1_2", "conv3_1"],
    ],
    ids=lambda taps: f"{len(taps)} taps to {taps[-1]}",
)
def test_equals_torchvisions_network_at_its_taps(deep, taps):
    features, weights = deep
    images = torch.rand(2, 3, 32, 48)
    expected = torchvision_outputs(features, images)
    found = network(taps, weights)(images)
    assert len(found) == len(taps)
    for tap, feature in zip(taps, found, strict=True):
        torch.testing.assert_close(feature, expected[tap_index(tap)], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("tap", "index"), INDEX.items())
def test_a_conv_tap_is_the_output_of_its_relu(deep, tap, index):
    features, _ = deep
    assert tap_index(tap) == tap_index(tap.replace("conv", "relu")) == tap_index(f"features.{index}") == index
    assert isinstance(features[index], nn.ReLU)


def test_pool_taps_are_poolings(deep):
    features, _ = deep
    assert all(isinstance(features[tap_index(f"pool{i}")], nn.MaxPool2d) for i in range(1, 6))


def test_the_default_taps_are_the_first_five_relus():
    assert [tap_index(tap) for tap in DEFAULT_TAPS] == [1, 3, 6, 8, 11]


def test_the_images_it_is_given_stay_as_they_are(deep):
    images = torch.rand(1, 3, 16, 16)
    before = images.clone()
    network(EVERY_LAYER[:12], deep[1])(images)
    assert torch.equal(images, before)


def test_an_in_place_relu_does_not_spoil_the_gradient(deep):
    """The gradient through every tap at once equals that through torchvision's out-of-place layers."""
    features, weights = deep
    images = torch.rand(1, 3, 16, 16)
    gradients = []
    for outputs in (
        lambda x: network(EVERY_LAYER[:12], weights)(x),
        lambda x: torchvision_outputs.__wrapped__(features[:12], x),
    ):
        leaf = images.clone().requires_grad_()
        sum(output.square().mean() for output in outputs(leaf)).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_nothing_beyond_the_deepest_tap_exists():
    net = VGG19(["conv2_1", "conv1_1"])
    assert len(net.features) == 7
    assert VGG19(["pool2"]).features[-1].__class__ is nn.MaxPool2d


def test_no_parent_can_wake_it():
    net = VGG19(["conv1_1"])
    parent = nn.Sequential(net)
    parent.train()
    assert parent.training and not any(module.training for module in net.modules())


def test_no_parameter_requires_a_gradient():
    assert not any(parameter.requires_grad for parameter in VGG19(["conv2_1"]).parameters())


@pytest.mark.parametrize(
    ("tap", "remedy"),
    [
        ("conv3_9", "did you mean 'conv3_"),
        ("con3_1", "did you mean 'conv3_1'"),
        ("pool6", "did you mean 'pool"),
        ("features.37", "features.36"),
        ("features.-1", "features.36"),
        ("features.", "features.36"),
        ("features.²", "features.36"),
        ("preact1_1", "features.0"),
        ("", "conv1_1"),
    ],
)
def test_an_unknown_tap_is_named_with_the_nearest_known(tap, remedy):
    with pytest.raises(InvalidSetting) as error:
        VGG19([tap])
    message = one_line(error)
    assert f"'{tap}'" in message and remedy in message


def test_the_shared_weights_load_as_deep_as_they_reach(shared):
    net = VGG19(["conv3_4"])
    source = load_vgg19(net, str(shared / "weights/vgg19_features_to_conv3_4.safetensors"))
    assert len(source["sha256"]) == 64
    assert any(parameter.any() for parameter in net.parameters())


def test_the_shared_weights_end_at_conv3_4(shared):
    path = shared / "weights/vgg19_features_to_conv3_4.safetensors"
    with pytest.raises(InvalidSetting) as error:
        load_vgg19(VGG19(["conv1_1", "conv4_1"]), str(path))
    message = one_line(error)
    assert "end at conv3_4" in message and "conv4_1" in message
