"""Everything that is measured: metrics that need no network, those that do, and what each says of itself."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from losses import InvalidSetting
from recon.data import Source, StreamedSource
from recon.evaluation.protocol import Protocol
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
class Instruments:
    """All that is measured on a pair.

    metrics: per image, by name. features: of KID, where its network can be had. missing: metric -> why it cannot.
    colour: (3,), the data's mean.
    """

    metrics: Mapping[str, Metric]
    features: PooledFeatures | None
    missing: Mapping[str, str]
    colour: Tensor


@dataclass(frozen=True)
class Networks:
    """Those that some metrics need, where their weights came from, and why one is missing."""

    metrics: dict[str, Metric]
    features: PooledFeatures | None
    missing: dict[str, str]
    provenance: dict[str, dict[str, str]]
    modules: list[torch.nn.Module]


def networks(measuring: Measuring) -> Networks:
    """LPIPS, the feature distance and KID's features, on the CPU; one that cannot be had is a reason."""
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


def make_instruments(
    nets: Networks, protocol: Protocol, source: Source | StreamedSource, device: torch.device
) -> Instruments:
    """All metrics, on the device."""
    for module in nets.modules:
        module.to(device)
    features, missing = nets.features, dict(nets.missing)
    if features is not None:
        try:
            features(torch.zeros(1, 3, *protocol.image_size, device=device))
        except Undefined as reason:
            features, missing["kid"] = None, str(reason)
    colour = torch.tensor(source.mean, dtype=torch.float64)
    return Instruments({**METRICS, **nets.metrics}, features, missing, colour)


def metric_infos(measuring: Measuring, bound: bool) -> dict[str, MetricInfo]:
    """What every column means, in the table's order; those that could not be had too.

    `bound`: whether the least possible error is known, and so the excess over it.
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
    names = [name for group in GROUPS.values() for name in group]
    return {name: known[name] for name in names if name != EXCESS.name or bound}
