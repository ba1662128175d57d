"""Every plot of a comparison, defined once for the page and for papers."""

from pathlib import Path
from typing import Any

from recon.report.drawing import Plot, looks
from recon.report.draws_plots import calibration, perception_frontier
from recon.report.figures import write_picture
from recon.report.representation_plots import representation
from recon.report.series import curves, places, points, training, value

RETENTION, COHERENCE = "retention \u03c1", "coherence γ²"
RECOVERY = {"retention": RETENTION, "coherence": COHERENCE}


def write_plots(comparison: dict[str, Any], folder: Path) -> list[Path]:
    """Writes every plot that the comparison has data for as folder/NAME.png; returns the files."""
    look = looks(comparison["rows"])
    written = []
    for plot in plots(comparison):
        written.append(folder / f"{plot.name}.png")
        write_picture(plot, look, written[-1])
    return written


def plots(comparison: dict[str, Any]) -> list[Plot]:
    """Every plot that the comparison has data for, in the order of the page."""
    found = [
        perception_distortion(comparison),
        perception_frontier(comparison),
        *calibration(comparison),
        retention_coherence(comparison),
        *by_frequency(comparison),
        sharpness_seams(comparison),
        *by_distance(comparison),
        *by_ratio(comparison),
        *over_training(comparison),
        *representation(comparison),
    ]
    return [plot for plot in found if plot.series]


def perception_distortion(comparison: dict[str, Any]) -> Plot:
    """Distribution distance against masked MSE: Blau and Michaeli 2018, arXiv 1711.06077."""
    learnt = [row for row in comparison["rows"] if row["kind"] != "truth"]
    distance = "kid" if any(value(row, "kid") is not None for row in learnt) else "sliced_wasserstein"
    return Plot(
        name="perception_distortion",
        title="Perception against distortion",
        about="Left: close to this very image. Down: like images in general. Beyond a frontier no reconstruction can "
        "have both; MSE pulls to the left, an adversarial term down.",
        x_label="masked MSE",
        y_label={"kid": "KID", "sliced_wasserstein": "sliced Wasserstein distance"}[distance],
        series=points(comparison, "masked_mse", distance),
    )


def retention_coherence(comparison: dict[str, Any]) -> Plot:
    """Energy retention against squared coherence, per band of the hidden patch's DCT."""
    return Plot(
        name="retention_coherence",
        title="Energy kept against energy known",
        about="A point per frequency band. The best prediction under MSE lies on the diagonal: as much energy as is "
        "known. Above it energy is invented, below it known energy is left out.",
        x_label=COHERENCE,
        y_label=RETENTION,
        series=curves(comparison, "bands", "coherence", {"retention": ""}, hover=("frequency", "cycles per pixel")),
        diagonal=True,
    )


def by_frequency(comparison: dict[str, Any]) -> list[Plot]:
    recovery = Plot(
        name="bands",
        title="Retention and coherence by frequency",
        about="Where a row's two lines part, the gap is invented energy; where both fall, detail is missing.",
        x_label="frequency (cycles per pixel)",
        y_label="share",
        series=curves(comparison, "bands", "frequency", RECOVERY),
    )
    transfer = Plot(
        name="mtf",
        title="Texture transfer by frequency",
        about="The modulation transfer function, from the cross-spectrum: how much of the truth's texture comes "
        "through; noise does not count. 1 on the truth, lower where it is blurred.",
        x_label="frequency (cycles per pixel)",
        y_label="gain",
        series=curves(comparison, "bands", "frequency", {"gain": ""}),
    )
    power = Plot(
        name="spectra",
        title="Radial power spectra",
        about="A line that leaves the truth's downwards is blurred from that frequency on; upwards is noise or seams.",
        x_label="frequency (cycles per pixel)",
        y_label="power",
        series=curves(comparison, "spectra", "frequency", {"power": ""}),
        log_x=True,
        log_y=True,
    )
    return [recovery, transfer, power]


def sharpness_seams(comparison: dict[str, Any]) -> Plot:
    """Tenengrad over the truth's against the seam ratio: sharpness that is not made of patch borders."""
    truth = next((row for row in comparison["rows"] if row["kind"] == "truth"), None)
    sharpness, seams = (value(truth, name) if truth else None for name in ("tenengrad", "seam_ratio"))
    return Plot(
        name="sharpness_seams",
        title="Sharpness against seams",
        about="The truth stands where the dotted lines cross. To its right patch borders show; below it is blur.",
        x_label="seam ratio",
        y_label="Tenengrad / the truth's",
        series=points(comparison, "seam_ratio", "tenengrad", y_scale=1 / sharpness) if sharpness else [],
        log_x=True,
        guide=(seams, 1.0) if seams else None,
    )


def by_distance(comparison: dict[str, Any]) -> list[Plot]:
    error = Plot(
        name="distance_error",
        title="Error by distance to the nearest visible patch",
        about="Next to what is seen a patch can be continued; far from it, only imagined.",
        x_label="distance (patches)",
        y_label="MSE",
        series=curves(comparison, "by_distance", "distance", {"mse": ""}),
        ticks=places(comparison["by_distance"], "distance"),
    )
    recovery = Plot(
        name="distance_recovery",
        title="Retention and coherence by distance",
        about="What can be known fades with distance; retention that does not fade with it is invented.",
        x_label="distance (patches)",
        y_label="share",
        series=curves(comparison, "by_distance", "distance", RECOVERY),
        ticks=places(comparison["by_distance"], "distance"),
    )
    return [error, recovery]


def by_ratio(comparison: dict[str, Any]) -> list[Plot]:
    psnr = Plot(
        name="ratio_psnr",
        title="PSNR by mask ratio",
        about="The same runs with less or more of each image hidden.",
        x_label="mask ratio",
        y_label="masked PSNR (dB)",
        series=curves(comparison, "by_ratio", "ratio", {"psnr": ""}),
        ticks=places(comparison["by_ratio"], "ratio"),
    )
    recovery = Plot(
        name="ratio_recovery",
        title="Retention and coherence by mask ratio",
        about="The more is hidden, the less can be known; how a row's retention follows is its objective's doing.",
        x_label="mask ratio",
        y_label="share",
        series=curves(comparison, "by_ratio", "ratio", RECOVERY),
        ticks=places(comparison["by_ratio"], "ratio"),
    )
    return [psnr, recovery]


def over_training(comparison: dict[str, Any]) -> list[Plot]:
    norms = Plot(
        name="gradient_norms",
        title="Gradient norm of each term over training",
        about="A term whose gradient at the prediction vanishes teaches nothing.",
        x_label="step",
        y_label="gradient norm",
        series=training(comparison, lambda curve: curve.removesuffix("/gradient_norm")),
        log_y=True,
    )
    cosines = Plot(
        name="gradient_cosines",
        title="Cosine between the terms' gradients over training",
        about="1: two terms ask for the same; 0: for unrelated things; below 0 they pull against each other.",
        x_label="step",
        y_label="cosine",
        series=training(comparison, lambda curve: curve.removeprefix("cosine/")),
    )
    return [norms, cosines]
