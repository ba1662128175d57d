"""Plots of single studies: what predicted distributions are worth, and what representations are."""

from recon.metrics.uncertainty import frontier
from recon.report.series import Plot, Series, curves, points, x_values
from recon.result_table import Comparison

LEAST, BLEND = "least possible", "from the mean to a draw"
# Which accuracy stands for a run: that of the first of these probes that was run.
PROBES = ("linear_mean", "linear", "attentive", "finetune", "knn", "paper_linear")
BLOCKS = "The last blocks trained on the labels, the others frozen: figure 9 of the MAE paper."
LABELS = "How much of the labels a representation can do without."


def perception_frontier(comparison: Comparison) -> Plot:
    """Distance of Gaussians against squared error, both of the luminance of hidden patches, and what bounds them.

    Blau and Michaeli 2018 (arXiv 1711.06077). The frontier is that of Freirich, Michaeli and Meir 2021 (arXiv
    2107.02555) through the row of least error; rows that have seen the truth do not count.
    """
    results = comparison.results
    planes = {
        row.key: (results.number(row.key, "luma_mse"), results.number(row.key, "luma_w2")) for row in comparison.rows
    }
    rows = [row for row in comparison.rows if None not in planes[row.key] and row.kind != "truth"]
    series = [Series(row.key, row.label, *([number] for number in planes[row.key]), line=False) for row in rows]
    for row in rows:
        if blend := results.curves(row.key, "blends"):
            notes = [f"alpha {alpha:g}" for alpha in blend.at]
            mse, w2 = blend.columns["mse"], blend.columns["w2"]
            series.append(Series(row.key, row.label, mse, w2, mark_every=0, variant=BLEND, notes=notes))
    if honest := [row for row in rows if not row.key.startswith("oracle/")]:
        best = min(honest, key=lambda row: planes[row.key][0])
        mse, w2 = frontier(*planes[best.key])
        series.append(Series(best.key, best.label, mse, w2, mark_every=0, variant=LEAST))
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
    for row in comparison.rows:
        if found := comparison.results.curves(row.key, "ranks"):
            share = [None if share is None else share * len(found.at) for share in found.columns["share"]]
            ranks.append(Series(row.key, row.label, found.at, share))
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
    for table, x, title, about, label in (
        ("by_depth", "layer", "depth", "Where in the encoder the classes can be told apart.", "block"),
        ("by_blocks", "blocks", "trained blocks", BLOCKS, "trained blocks"),
        ("by_labels", "fraction", "share of the labels", LABELS, "share of the training labels"),
    ):
        found_curves = [comparison.results.curves(row.key, table) for row in comparison.rows]
        lines = {line: line for curve in found_curves if curve for line in curve.columns}
        series, ticks = curves(comparison, table, x, lines), x_values(comparison, table)
        found.append(
            Plot(
                f"accuracy_{table}",
                f"Accuracy by {title}",
                about,
                label,
                "accuracy",
                series,
                ticks=ticks,
                log_x=table == "by_labels",
            )
        )
    return found
