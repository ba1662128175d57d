"""Every plot of a comparison, defined once for the page and for papers."""

from pathlib import Path

from recon.report.drawing import row_styles, write_png
from recon.report.series import Plot, curves, points, training, x_values
from recon.report.study_plots import accuracy_curves, calibration, perception_frontier, sharpness_accuracy
from recon.result_table import Comparison

RETENTION, COHERENCE = "retention \u03c1", "coherence γ²"
RECOVERY = {"retention": RETENTION, "coherence": COHERENCE}


def write_plots(comparison: Comparison, folder: Path) -> list[Path]:
    """Writes every plot that the comparison has data for as folder/NAME.png; returns the files."""
    styles = row_styles(comparison.rows)
    written = []
    for plot in plots(comparison):
        written.append(folder / f"{plot.name}.png")
        write_png(plot, styles, written[-1])
    return written


def plots(comparison: Comparison) -> list[Plot]:
    """Every plot that the comparison has data for, in the order of the page."""
    found = [
        perception_distortion(comparison),
        perception_frontier(comparison),
        *calibration(comparison),
        *by_frequency(comparison),
        sharpness_seams(comparison),
        *by_distance(comparison),
        *by_ratio(comparison),
        *over_training(comparison),
        sharpness_accuracy(comparison),
        *accuracy_curves(comparison),
    ]
    return [plot for plot in found if plot.series]


def perception_distortion(comparison: Comparison) -> Plot:
    """Distribution distance against masked MSE: Blau and Michaeli 2018, arXiv 1711.06077."""
    reconstructions = [row.key for row in comparison.rows if row.kind != "truth"]
    has_kid = any(comparison.results.number(key, "kid") is not None for key in reconstructions)
    distance, label = ("kid", "KID") if has_kid else ("sliced_wasserstein", "sliced Wasserstein distance")
    return Plot(
        "perception_distortion",
        "Perception against distortion",
        "Left: close to this very image. Down: like images in general. Beyond a frontier no reconstruction can have "
        "both; MSE pulls to the left, an adversarial term down.",
        "masked MSE",
        label,
        points(comparison, "masked_mse", distance),
    )


def by_frequency(comparison: Comparison) -> list[Plot]:
    """Energy and what is known of it per band of the hidden patch's DCT, and power spectra of whole images."""
    frequency = "frequency (cycles per pixel)"
    return [
        Plot(
            "retention_coherence",
            "Energy kept against energy known",
            "A point per frequency band. The best prediction under MSE lies on the diagonal: as much energy as is "
            "known. Above it energy is invented, below it known energy is left out.",
            COHERENCE,
            RETENTION,
            curves(comparison, "bands", "coherence", {"retention": ""}, note=("frequency", "cycles per pixel")),
            diagonal=True,
        ),
        Plot(
            "bands",
            "Retention and coherence by frequency",
            "Where a row's two lines part, the gap is invented energy; where both fall, detail is missing.",
            frequency,
            "share",
            curves(comparison, "bands", "frequency", RECOVERY),
        ),
        Plot(
            "mtf",
            "Texture transfer by frequency",
            "The modulation transfer function, from the cross-spectrum: how much of the truth's texture comes through; "
            "noise does not count. 1 on the truth, lower where it is blurred.",
            frequency,
            "gain",
            curves(comparison, "bands", "frequency", {"gain": ""}),
        ),
        Plot(
            "spectra",
            "Radial power spectra",
            "A line that leaves the truth's downwards is blurred from that frequency on; upwards is noise or seams.",
            frequency,
            "power",
            curves(comparison, "spectra", "frequency", {"power": ""}),
            log_x=True,
            log_y=True,
        ),
    ]


def sharpness_seams(comparison: Comparison) -> Plot:
    """Tenengrad over the truth's against the seam ratio: sharpness that is not made of patch borders."""
    sharpness, seams = (comparison.results.number("truth", name) for name in ("tenengrad", "seam_ratio"))
    return Plot(
        "sharpness_seams",
        "Sharpness against seams",
        "The truth stands where the dotted lines cross. To its right patch borders show; below it is blur.",
        "seam ratio",
        "Tenengrad / the truth's",
        points(comparison, "seam_ratio", "tenengrad", y_scale=1 / sharpness) if sharpness else [],
        log_x=True,
        guide=(seams, 1.0) if seams else None,
    )


def by_distance(comparison: Comparison) -> list[Plot]:
    table, label = "by_distance", "distance (patches)"
    ticks = x_values(comparison, table)
    return [
        Plot(
            "distance_error",
            "Error by distance to the nearest visible patch",
            "Next to what is seen a patch can be continued; far from it, only imagined.",
            label,
            "MSE",
            curves(comparison, table, "distance", {"mse": ""}),
            ticks=ticks,
        ),
        Plot(
            "distance_recovery",
            "Retention and coherence by distance",
            "What can be known fades with distance; retention that does not fade with it is invented.",
            label,
            "share",
            curves(comparison, table, "distance", RECOVERY),
            ticks=ticks,
        ),
    ]


def by_ratio(comparison: Comparison) -> list[Plot]:
    table, label = "by_ratio", "mask ratio"
    ticks = x_values(comparison, table)
    return [
        Plot(
            "ratio_psnr",
            "PSNR by mask ratio",
            "The same runs with less or more of each image hidden.",
            label,
            "masked PSNR (dB)",
            curves(comparison, table, "ratio", {"psnr": ""}),
            ticks=ticks,
        ),
        Plot(
            "ratio_recovery",
            "Retention and coherence by mask ratio",
            "The more is hidden, the less can be known; how a row's retention follows is its objective's doing.",
            label,
            "share",
            curves(comparison, table, "ratio", RECOVERY),
            ticks=ticks,
        ),
    ]


def over_training(comparison: Comparison) -> list[Plot]:
    return [
        Plot(
            "gradient_norms",
            "Gradient norm of each term over training",
            "A term whose gradient at the prediction vanishes teaches nothing.",
            "step",
            "gradient norm",
            training(comparison, lambda curve: curve.removesuffix("/gradient_norm")),
            log_y=True,
        ),
        Plot(
            "gradient_cosines",
            "Cosine between the terms' gradients over training",
            "1: two terms ask for the same; 0: for unrelated things; below 0 they pull against each other.",
            "step",
            "cosine",
            training(comparison, lambda curve: curve.removeprefix("cosine/")),
        ),
    ]
