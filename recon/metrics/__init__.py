"""Metrics of reconstructions over hidden patches: distance to the truth, sharpness, recovered and invented detail."""

from recon.metrics import fidelity, sharpness, spectrum  # noqa: F401  (they declare `METRICS`)
from recon.metrics.base import METRICS, Metric, MetricInfo, Pair, Undefined
from recon.metrics.distribution import DISTRIBUTION
from recon.metrics.realism import REALISM
from recon.metrics.recovery import RECOVERY
from recon.metrics.sharpness import DETAIL
from recon.metrics.uncertainty import UNCERTAINTY

# Metrics of a whole set of images or of several draws; `recon.evaluation` computes them from accumulated values.
SET_METRICS: dict[str, MetricInfo] = {m.name: m for m in [DETAIL, *RECOVERY, *REALISM, *DISTRIBUTION, *UNCERTAINTY]}

# The table's columns, by what they are about. Networks compute lpips, vgg19 and hallucination: `recon.metrics.deep`.
GROUPS: dict[str, list[str]] = {
    "fidelity": ["masked_mse", "masked_l1", "masked_psnr", "excess_mse"],
    "structure": ["ssim", "ms_ssim", "lpips", "vgg19"],
    "sharpness": [
        *("detail", "variance_of_laplacian", "tenengrad", "brenner", "mean_gradient_magnitude", "blur_effect"),
        *("edge_width", "cpbd", "seam_ratio", "high_frequency_share", "spectral_slope", "log_spectral_distance"),
    ],
    "recovery": [*(m.name for m in RECOVERY), "hallucination"],
    "distribution": [m.name for m in (*REALISM, *DISTRIBUTION)],
    "uncertainty": [m.name for m in UNCERTAINTY],
}

__all__ = ["GROUPS", "METRICS", "SET_METRICS", "Metric", "MetricInfo", "Pair", "Undefined"]
