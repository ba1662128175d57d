"""VGG19's distance against the perceptual loss."""

import numpy as np
import pytest
import torch
from skimage.measure import block_reduce

from losses.features.vgg19 import DEFAULT_TAPS, VGG19, feature_distance
from losses.features.weights import load_vgg19
from recon.metrics import base as chunks
from recon.metrics.base import Undefined
from recon.metrics.deep import FeatureDistance
from recon.metrics.feature_networks import VGG19Features
from tests.losses.scenes import photographs
from tests.recon.metrics.scenes import everywhere, hidden_in, noisy


@pytest.mark.parametrize("taps", [DEFAULT_TAPS, ["pool2", "conv1_1"]])
def test_with_everything_hidden_it_is_the_perceptual_loss_image_by_image(taps):
    truth = photographs((64, 80))
    image, net = noisy(truth, 0.1), VGG19(taps)
    load_vgg19(net, "bundled")
    expected = [feature_distance(net, image[i : i + 1], truth[i : i + 1], [1] * len(taps)) for i in range(4)]
    found = FeatureDistance("bundled", taps)(image, truth, everywhere(truth))
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("tap", "stride"), [("conv1_2", 1), ("pool1", 2), ("conv3_1", 4)])
def test_a_feature_counts_by_the_share_of_its_pixels_that_is_hidden(tap, stride):
    truth = photographs((66, 83))[:1]
    image, hidden = noisy(truth, 0.1), hidden_in(truth)
    net = FeatureDistance("bundled", [tap])
    squares = (net.net(image)[0] - net.net(truth)[0]).square().mean(1)[0].numpy()
    rows, columns = squares.shape
    inside = hidden[0, 0, : rows * stride, : columns * stride].numpy().astype(float)
    expected = np.average(squares, weights=block_reduce(inside, (stride, stride), np.mean))
    assert net(image, truth, hidden).item() == pytest.approx(expected, rel=1e-5)


def test_pooled_features_are_the_mean_over_positions(monkeypatch):
    images, net = photographs(), VGG19Features("bundled", "conv2_1")
    expected = net.net(images)[0].mean((2, 3))
    assert expected.shape == (4, 128)
    for few in (1, 3 * 64 * 64, 4 * 64 * 64):
        monkeypatch.setattr(chunks, "CACHE_VALUES", 3 * few)
        torch.testing.assert_close(net(images), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(net(images.double()), expected, rtol=1e-5, atol=1e-6)


def test_images_without_a_pixel_to_pool_have_no_value(vgg19):
    small = torch.rand(1, 3, 3, 40)
    for values in (lambda: vgg19(small, small, everywhere(small)), lambda: VGG19Features()(small)):
        with pytest.raises(Undefined, match="below 4 pixels"):
            values()


def test_every_network_says_where_its_weights_are_from(vgg19):
    expected = load_vgg19(VGG19(DEFAULT_TAPS), "bundled")
    assert vgg19.provenance == expected and VGG19Features().provenance == expected
    assert FeatureDistance("random").provenance["source"] == "random"
    assert not any(p.requires_grad for net in (vgg19, VGG19Features()) for p in net.parameters())
