"""Rows of an evaluation share what is derived from the truth, and metrics of a pair what is derived from the pair."""

import pytest
import torch

from recon.metrics import METRICS, Pair
from recon.metrics.base import Images
from recon.metrics.deep import LPIPS, network_metrics
from recon.metrics.feature_networks import VGG19Features
from tests.losses.scenes import photographs
from tests.recon.metrics.scenes import blurred, noisy

MASK = torch.rand(4, 64, generator=torch.Generator().manual_seed(0)) < 0.75


def rows(truth: torch.Tensor) -> list[torch.Tensor]:
    return [noisy(truth, 0.1), blurred(truth, 1), truth]


@pytest.mark.parametrize("net", ["squeeze", "vgg19", None])
def test_pairs_with_one_truth_have_the_numbers_of_pairs_alone(net, request):
    truth = photographs()
    network = net and request.getfixturevalue(net)
    metrics = network_metrics(network, LPIPS["squeeze"]) if net else METRICS.values()
    shared = Images(truth, 8)
    for image in rows(truth):
        pair = Pair(image, shared, MASK)
        for metric in metrics:
            torch.testing.assert_close(
                metric(pair), metric(Pair(image, truth, MASK)), equal_nan=True, rtol=1e-6, atol=0
            )


def test_one_pass_through_vgg19_gives_every_number_of_an_image(vgg19, monkeypatch):
    truth, seen = photographs(), []
    shared, own = Images(truth, 8), VGG19Features()
    forward = type(vgg19.net).forward
    monkeypatch.setattr(type(vgg19.net), "forward", lambda net, x: seen.append(len(x)) or forward(net, x))
    pairs = [Pair(image, shared, MASK) for image in rows(truth)]
    for pair in pairs:
        for metric in network_metrics(vgg19, LPIPS["squeeze"]):
            metric(pair)
        own.of(pair.predicted)
    assert sum(seen) == len(pairs) * len(truth)  # the last pair is the truth itself
    for pair in pairs:
        torch.testing.assert_close(own.of(pair.predicted), own(pair.image), rtol=1e-5, atol=1e-6)
