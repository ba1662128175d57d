"""Everything that is measured: metrics that need no network, those that do, and the columns of the table."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch

from losses import InvalidSetting
from recon.metrics import GROUPS, METRICS, SET_METRICS, Metric, MetricInfo, Undefined
from recon.metrics.deep import LPIPS, VGG, FeatureDistance, Lpips, PooledFeatures, network_metric
from recon.result_table import Column, rounded
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

    Args:
        metrics: per image, by name.
        features: KID's; None where they are not available.
        missing: metric -> why its network is not available.
        provenance: metric -> where its network's weights came from.
    """

    metrics: dict[str, Metric]
    features: PooledFeatures | None
    missing: dict[str, str]
    provenance: dict[str, dict[str, str]]
    networks: list[torch.nn.Module]

    def to(self, device: torch.device, image_size: tuple[int, int]) -> "MetricSuite":
        """Moves the networks to the device; without KID where the images are too small for its features."""
        for network in self.networks:
            network.to(device)
        try:
            if self.features is not None:
                self.features(torch.zeros(1, 3, *image_size, device=device))
        except Undefined as reason:
            return replace(self, features=None, missing=self.missing | {"kid": str(reason)})
        return self


def load_suite(measuring: Measuring) -> MetricSuite:
    """All metrics, with LPIPS, the feature distance and KID's features on the CPU, as far as they are available."""
    suite = MetricSuite(dict(METRICS), None, {}, {}, [])
    makers: dict[str, tuple[Callable[[], Lpips | FeatureDistance | PooledFeatures], MetricInfo | None]] = {
        "lpips": (lambda: Lpips(measuring.lpips.net, measuring.lpips.weights), LPIPS[measuring.lpips.net]),
        "vgg19": (lambda: FeatureDistance(measuring.features.weights), VGG),
        "kid": (lambda: PooledFeatures(measuring.features.weights, measuring.features.tap), None),
    }
    for name, (make, info) in makers.items():
        try:
            network = make()
        except InvalidSetting as reason:
            suite.missing[name] = str(reason)
            continue
        suite.networks.append(network)
        suite.provenance[name] = network.provenance
        if info is None:
            suite = replace(suite, features=network)
        else:
            suite.metrics[name] = network_metric(network, info)
    return suite


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
        _column(group, known[name]) for group, names in GROUPS.items() for name in names if bound or name != EXCESS.name
    ]


def _column(group: str, info: MetricInfo) -> Column:
    known = {field.name: getattr(info, field.name) for field in fields(MetricInfo)}
    return Column(group, **known | {"low": rounded(info.low), "high": rounded(info.high)})
