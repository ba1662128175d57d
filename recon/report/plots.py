"""Every plot of a comparison, defined once for the page and for papers."""

from dataclasses import replace
from pathlib import Path

from recon.metrics.uncertainty import frontier
from recon.report.drawing import row_styles, write_png
from recon.report.series import Plot, Series, curves, points, training, x_values
from recon.result_table import PLACES, Comparison

RETENTION, COHERENCE = "retention \u03c1", "coherence γ²"
RECOVERY = {"retention": RETENTION, "coherence": COHERENCE}
LEAST, BLEND = "least possible", "from the mean to a draw"
# Which accuracy stands for a run: that of the first of these probes that was run.
PROBES = ("linear_mean", "linear", "attentive", "efficient", "finetune", "knn", "paper_linear")
BLOCKS = "The last blocks trained on the labels, the others frozen: figure 9 of the MAE paper."
LABELS = "How much of the labels a representation can do without."


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
    titles = {column.name: column.title for column in comparison.columns}
    distance, label = ("kid", titles["kid"]) if has_kid else ("sliced_wasserstein", "sliced Wasserstein distance")
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


def perception_frontier(comparison: Comparison) -> Plot:
    """Distance of Gaussians against squared error, both of the luminance of hidden patches, and what bounds them.

    Blau and Michaeli 2018 (arXiv 1711.06077). The frontier is that of Freirich, Michaeli and Meir 2021 (arXiv
    2107.02555) through the row of least error; rows that have seen the truth do not count.
    """
    planes: dict[str, tuple[float, float]] = {}
    for row in comparison.rows:
        mse, w2 = (comparison.results.number(row.key, name) for name in ("luma_mse", "luma_w2"))
        if mse is not None and w2 is not None and row.kind != "truth":
            planes[row.key] = mse, w2
    rows = [row for row in comparison.rows if row.key in planes]
    series = [Series(row.key, row.label, *([number] for number in planes[row.key]), line=False) for row in rows]
    for row in rows:
        if blend := comparison.results.curves(row.key, "blends"):
            notes = [f"alpha {alpha:g}" for alpha in blend.at]
            x, y = blend.columns["mse"], blend.columns["w2"]
            series.append(Series(row.key, row.label, x, y, mark_every=0, variant=BLEND, notes=notes))
    if honest := [row for row in rows if not row.key.startswith("oracle/")]:
        best = min(honest, key=lambda row: planes[row.key][0])
        series.append(Series(best.key, best.label, *frontier(*planes[best.key]), mark_every=0, variant=LEAST))
    return Plot(
        "frontier",
        "Error against realism, and the least that is possible",
        "Luminance of hidden patches (above 8 pixels their 64 lowest frequencies). If the row of least error were the "
        "best prediction there is, no reconstruction could lie left of its line: error grows with the square of the "
        "distance that is gained.",
        "MSE",
        "Wasserstein distance of Gaussians",
        series,
    )


def calibration(comparison: Comparison) -> list[Plot]:
    """Where the truth lies among a run's draws."""
    ranks = []
    for series in curves(comparison, "ranks", "draws_below", {"share": ""}):
        times = [None if share is None else share * len(series.x) for share in series.y]
        ranks.append(replace(series, y=times))
    return [
        Plot(
            "ranks",
            "Where the truth lies among the draws",
            "Of each coefficient of hidden patches, how many draws lie below the truth. Flat, at 1: the truth could be "
            "one of the draws. Higher at the ends: the model is too sure; in the middle: not sure enough.",
            "share of draws below the truth",
            "times as often as if it were one of them",
            ranks,
        ),
        Plot(
            "coverage",
            "Central intervals",
            "How often the truth lies within the central interval of the draws. Below the diagonal the model is too "
            "sure.",
            "expected share",
            "found share",
            curves(comparison, "coverage", "expected", {"coverage": ""}),
            diagonal=True,
        ),
    ]


def sharpness_accuracy(comparison: Comparison) -> Plot:
    """Does a sharper reconstruction make a better encoder?"""
    sharpness = comparison.results.number("truth", "tenengrad")
    measured = [column.name for column in comparison.columns if column.group == "representation"]
    name = next((name for probe in PROBES for name in measured if name.startswith(probe)), None)
    return Plot(
        "sharpness_accuracy",
        "Sharpness against accuracy",
        "Does a sharper reconstruction make a better encoder? To the right: sharper, as the truth at 1. Up: a better "
        "representation.",
        "Tenengrad / the truth's",
        f"accuracy, {name.replace('_', ' ')}" if name else "",
        points(comparison, "tenengrad", name, x_scale=1 / sharpness) if name and sharpness else [],
    )


def accuracy_curves(comparison: Comparison) -> list[Plot]:
    """Accuracy of probes by depth, trained blocks and labels."""
    found = []
    for kind, title, about, label in (
        ("by_depth", "depth", "Where in the encoder the classes can be told apart.", "block"),
        ("by_blocks", "trained blocks", BLOCKS, "trained blocks"),
        ("by_labels", "share of the labels", LABELS, "share of the training labels"),
    ):
        found_curves = [comparison.results.curves(row.key, kind) for row in comparison.rows]
        lines = {line: line for curve in found_curves if curve for line in curve.columns}
        series, ticks = curves(comparison, kind, PLACES[kind], lines), x_values(comparison, kind)
        axes = (label, "accuracy", series)
        found.append(Plot(f"accuracy_{kind}", f"Accuracy by {title}", about, *axes, kind == "by_labels", ticks=ticks))
    return found
