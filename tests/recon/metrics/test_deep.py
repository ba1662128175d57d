"""Laws of both distances of frozen networks: LPIPS, and VGG19's."""

import math

import pytest
import torch

from recon.metrics import base as chunks
from recon.metrics import deep
from recon.metrics.base import Pair, Undefined
from recon.metrics.deep import LPIPS, network_metrics
from tests.losses.scenes import photographs
from tests.recon.metrics.scenes import blurred, everywhere, hidden_in, noisy


def test_the_truth_is_exactly_zero(net):
    truth = photographs()
    assert torch.equal(net(truth, truth, hidden_in(truth)), torch.zeros(4))


def test_image_and_truth_may_change_places(net):
    truth = photographs()
    image, hidden = noisy(truth, 0.1), hidden_in(truth)
    torch.testing.assert_close(net(image, truth, hidden), net(truth, image, hidden), rtol=1e-6, atol=0)


def test_every_image_is_judged_alone(net, monkeypatch):
    truth = photographs()
    image, hidden = noisy(truth, 0.1), hidden_in(truth)
    alone = torch.cat([net(image[i : i + 1], truth[i : i + 1], hidden[i : i + 1]) for i in range(4)])
    for few in (1, 3 * 64 * 64, 4 * 64 * 64):
        monkeypatch.setattr(chunks, "CACHE_VALUES", 3 * few)
        monkeypatch.setattr(deep, "LPIPS_VALUES", 3 * few)
        torch.testing.assert_close(net(image, truth, hidden), alone, rtol=1e-5, atol=0)


def test_single_precision_is_near_double(net):
    truth = photographs()
    image, hidden = noisy(truth, 0.1), hidden_in(truth)
    single = net(image, truth, hidden)
    assert torch.equal(net(image.double(), truth.double(), hidden), single)
    double = net.double()(image.double(), truth.double(), hidden)
    net.float()
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=0)


def test_an_image_without_a_value_leaves_the_others_theirs(net):
    truth = photographs()
    image, hidden = noisy(truth, 0.1), hidden_in(truth)
    expected = net(image, truth, hidden)[2:]
    image[0, 1, 30, 40], hidden[1] = math.nan, False
    value = net(image, truth, hidden)
    assert value[:2].isnan().all()
    torch.testing.assert_close(value[2:], expected, rtol=1e-5, atol=0)


def test_flat_and_black_images_have_a_value(net):
    black, white = torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)
    assert net(black, black, everywhere(black)).item() == 0 < net(black, white, everywhere(black)).item() < math.inf


@pytest.mark.parametrize("degrade", [blurred, noisy])
def test_more_blur_and_more_noise_are_worse(net, degrade):
    truth = photographs()
    amounts = (0.5, 1, 2, 4) if degrade is blurred else (0.01, 0.03, 0.1, 0.3)
    values = torch.stack(
        [net(image, truth, hidden_in(truth)) for image in (truth, *(degrade(truth, a) for a in amounts))]
    )
    assert (values.diff(dim=0) > 0).all(), values


def test_hiding_what_is_wrong_is_worse_than_hiding_what_is_right(net):
    truth = photographs()
    image, hidden = truth.clone(), torch.zeros(4, 1, 64, 64, dtype=torch.bool)
    image[..., :32], hidden[..., :32] = noisy(truth, 0.2)[..., :32], True
    assert (net(image, truth, hidden) > net(image, truth, everywhere(truth))).all()
    assert (net(image, truth, everywhere(truth)) > net(image, truth, ~hidden)).all()


def test_the_metrics_lead_to_the_network_and_to_hidden_patches_alone(squeeze, vgg19):
    truth = photographs()
    mask = torch.rand(4, 64, generator=torch.Generator().manual_seed(0)) < 0.75
    image = noisy(truth, 0.1)
    pair = Pair(image, truth, mask)
    repainted = Pair(torch.where(pair.hidden, image, 1 - image), truth, mask)
    for metric, net, name in (
        (network_metrics(squeeze, LPIPS["squeeze"])[0], squeeze, "lpips"),
        (network_metrics(vgg19, LPIPS["squeeze"])[0], vgg19, "vgg19"),
    ):
        assert (metric.name, metric.better, metric.paired) == (name, "lower", True)
        assert torch.equal(metric(pair), net(pair.image, truth, pair.hidden))
        assert torch.equal(metric(pair), metric(repainted))


def test_hallucination_is_the_part_of_the_distance_where_texture_was_added(vgg19):
    """None for the truth and for the truth made weaker, all where there is nothing but noise, half where half is."""
    truth = photographs()
    distance, hallucination = network_metrics(vgg19, LPIPS["squeeze"])
    mask = torch.rand(4, 64, generator=torch.Generator().manual_seed(0)) < 0.75
    weaker = Pair(truth.mean((2, 3), keepdim=True), truth, mask)
    assert hallucination(Pair(truth, truth, mask)).max() == 0 < distance(weaker).min()
    assert hallucination(weaker).max() < 1e-6 * distance(weaker).min()
    values = torch.stack([hallucination(Pair(noisy(truth, s), truth, mask)) for s in (0.01, 0.03, 0.1, 0.3)])
    assert (values.diff(dim=0) > 0).all()
    flat = torch.full_like(truth, 0.5)
    noise = Pair(noisy(flat, 0.2), flat, mask)
    share = hallucination(noise) / distance(noise)
    assert ((share > 0.9) & (share <= 1)).all()


def test_hallucination_has_no_value_where_patches_are_too_small_for_bands(vgg19):
    truth = photographs()
    with pytest.raises(Undefined, match="patches below 4 pixels"):
        network_metrics(vgg19, LPIPS["squeeze"])[1](Pair(truth, truth, torch.ones(4, 32 * 32, dtype=torch.bool)))
