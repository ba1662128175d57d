"""Everything that is measured: metrics that need no network, those that do, and the columns of the table."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from losses import InvalidSetting
from recon.data import Source, StreamedSource
from recon.evaluation.protocol import Protocol
from recon.evaluation.results import Column
from recon.metrics import GROUPS, METRICS, SET_METRICS, Metric, MetricInfo, Undefined
from recon.metrics.deep import LPIPS, VGG, FeatureDistance, Lpips, PooledFeatures, feature_distance_metric, lpips_metric
from recon.study_config import Measuring

EXCESS = MetricInfo(
    name="excess_mse",
    description="Mean squared error over hidden pixels beyond the least possible one, which this data's law gives.",
    unit="squared intensity",
    low=-math.inf,
    high=math.inf,
    better="lower",
    reference="the conditional mean given the visible pixels, recon.baselines.bayes",
    paired=True,
)


@dataclass(frozen=True)
class MetricSuite:
    """All that is measured on a pair.

    metrics: per image, by name. features: KID's, where its network is available. missing: metric -> why it is not
    available. colour: (3,), the dataset's mean.
    """

    metrics: Mapping[str, Metric]
    features: PooledFeatures | None
    missing: Mapping[str, str]
    colour: Tensor


@dataclass(frozen=True)
class Networks:
    """The networks that some metrics need, where their weights came from, and why one is missing."""

    metrics: dict[str, Metric]
    features: PooledFeatures | None
    missing: dict[str, str]
    provenance: dict[str, dict[str, str]]
    modules: list[torch.nn.Module]


def load_networks(measuring: Measuring) -> Networks:
    """Loads LPIPS, the feature distance and KID's features onto the CPU; one that is not available has a reason."""
    found = Networks({}, None, {}, {}, [])
    makers = {
        "lpips": (lambda: Lpips(measuring.lpips.net, measuring.lpips.weights), lpips_metric),
        "vgg19": (lambda: FeatureDistance(measuring.features.weights), feature_distance_metric),
        "kid": (lambda: PooledFeatures(measuring.features.weights, measuring.features.tap), None),
    }
    for name, (make, as_metric) in makers.items():
        try:
            net = make()
        except InvalidSetting as reason:
            found.missing[name] = str(reason)
            continue
        found.modules.append(net)
        found.provenance[name] = net.provenance()
        if as_metric is None:
            found = replace(found, features=net)
        else:
            found.metrics[name] = as_metric(net)
    return found


def make_suite(
    networks: Networks, protocol: Protocol, source: Source | StreamedSource, device: torch.device
) -> MetricSuite:
    """All metrics, with their networks on the device."""
    for module in networks.modules:
        module.to(device)
    features, missing = networks.features, dict(networks.missing)
    if features is not None:
        try:
            features(torch.zeros(1, 3, *protocol.image_size, device=device))
        except Undefined as reason:
            features, missing["kid"] = None, str(reason)
    colour = torch.tensor(source.mean, dtype=torch.float64)
    return MetricSuite({**METRICS, **networks.metrics}, features, missing, colour)


def columns_of(measuring: Measuring, bound: bool) -> list[Column]:
    """The columns of an evaluation's table, in order, those of metrics that are not available too.

    Args:
        bound: whether the least possible error is known, and with it the excess over it.
    """
    kid = SET_METRICS["kid"]
    features = f" Features: {measuring.features.tap} of VGG19 ({measuring.features.weights}), not Inception's."
    known = {
        **METRICS,
        **SET_METRICS,
        "kid": replace(kid, description=kid.description + features),
        "lpips": LPIPS[measuring.lpips.net],
        "vgg19": VGG,
        EXCESS.name: EXCESS,
    }
    return [
        Column.of(group, known[name])
        for group, names in GROUPS.items()
        for name in names
        if bound or name != EXCESS.name
    ]
