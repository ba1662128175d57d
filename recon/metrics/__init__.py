"""Metrics of reconstructions over hidden patches: distance to the truth, sharpness, recovered and invented detail."""

from recon.metrics.base import Metric, MetricInfo, Pair, Undefined
from recon.metrics.distribution import DISTRIBUTION
from recon.metrics.edges import EDGES, SEAMS
from recon.metrics.fidelity import FIDELITY, STRUCTURE
from recon.metrics.recovery import RECOVERY
from recon.metrics.sharpness import SHARPNESS
from recon.metrics.spectrum import SPECTRUM
from recon.metrics.uncertainty import UNCERTAINTY

# Numbers per image that need no network's weights; `recon.metrics.deep` makes those that do: lpips and vgg19.
METRICS: dict[str, Metric] = {m.name: m for m in [*FIDELITY, *STRUCTURE, *SHARPNESS, *EDGES, *SEAMS, *SPECTRUM]}

# Metrics of a whole set of images or of several draws; `recon.evaluation` computes them from accumulated values.
SET_METRICS: dict[str, MetricInfo] = {m.name: m for m in [*RECOVERY, *DISTRIBUTION, *UNCERTAINTY]}

# The table's columns, by what they are about.
GROUPS: dict[str, list[str]] = {
    "fidelity": [*(m.name for m in FIDELITY), "excess_mse"],
    "structure": [*(m.name for m in STRUCTURE), "lpips", "vgg19"],
    "sharpness": [m.name for m in [*SHARPNESS, *EDGES, *SEAMS, *SPECTRUM]],
    "recovery": [m.name for m in RECOVERY],
    "distribution": [m.name for m in DISTRIBUTION],
    "uncertainty": [m.name for m in UNCERTAINTY],
}

__all__ = ["GROUPS", "METRICS", "SET_METRICS", "Metric", "MetricInfo", "Pair", "Undefined"]
