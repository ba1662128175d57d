"""How near, how sharp, how much recovered and how much invented: numbers over hidden patches, with their passports."""

from recon.metrics.distribution import DISTRIBUTION
from recon.metrics.edges import EDGES
from recon.metrics.fidelity import FIDELITY
from recon.metrics.pair import Pair
from recon.metrics.passport import Metric, Passport, SetMetric, Undefined
from recon.metrics.recovery import RECOVERY
from recon.metrics.seams import SEAMS
from recon.metrics.sharpness import SHARPNESS
from recon.metrics.spectrum import SPECTRUM
from recon.metrics.structure import STRUCTURE

# Numbers per image that need no network's weights; `recon.metrics.deep` makes those that do: lpips and vgg19.
METRICS: dict[str, Metric] = {m.name: m for m in [*FIDELITY, *STRUCTURE, *SHARPNESS, *EDGES, *SEAMS, *SPECTRUM]}

# Numbers of a whole set of images.
SET_METRICS: dict[str, SetMetric] = {m.name: m for m in [*RECOVERY, *DISTRIBUTION]}

# The table's columns, by what they are about.
GROUPS: dict[str, list[str]] = {
    "fidelity": [*(m.name for m in FIDELITY), "excess_mse"],
    "structure": [*(m.name for m in STRUCTURE), "lpips", "vgg19"],
    "sharpness": [m.name for m in [*SHARPNESS, *EDGES, *SEAMS, *SPECTRUM]],
    "recovery": [m.name for m in RECOVERY],
    "distribution": [m.name for m in DISTRIBUTION],
}

__all__ = ["GROUPS", "METRICS", "SET_METRICS", "Metric", "Pair", "Passport", "SetMetric", "Undefined"]
