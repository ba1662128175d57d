"""Plots of single studies: what predicted distributions are worth, and what representations are."""

from collections.abc import Callable
from typing import Any

from recon.metrics.uncertainty import frontier
from recon.report.series import Plot, Series, curves, points, value, x_values

LEAST, BLEND = "least possible", "from the mean to a draw"
# Which accuracy stands for a run: that of the first of these probes that was run.
PROBES = ("linear_mean", "linear", "attentive", "finetune", "knn", "paper_linear")
BLOCKS = "The last blocks trained on the labels, the others frozen: figure 9 of the MAE paper."
LABELS = "How much of the labels a representation can do without."


def perception_frontier(comparison: dict[str, Any]) -> Plot:
    """Distance of Gaussians against squared error, both of the luminance of hidden patches, and what bounds them.

    Blau and Michaeli 2018 (arXiv 1711.06077). The frontier is that of Freirich, Michaeli and Meir 2021 (arXiv
    2107.02555) through the row of least error; rows that have seen the truth do not count.
    """
    planes = {key: plane for key, plane in comparison["planes"].items() if None not in plane.values()}
    rows = [row for row in comparison["rows"] if row["key"] in planes and row["kind"] != "truth"]
    series = []
    for row in rows:
        plane = planes[row["key"]]
        series.append(Series(row["key"], row["label"], [plane["mse"]], [plane["w2"]], line=False))
    for row in rows:
        if blend := comparison["blends"].get(row["key"]):
            notes = [f"alpha {alpha:g}" for alpha in blend["alpha"]]
            series.append(
                Series(row["key"], row["label"], blend["mse"], blend["w2"], mark_every=0, variant=BLEND, notes=notes)
            )
    if honest := [row for row in rows if not row["key"].startswith("oracle/")]:
        best = min(honest, key=lambda row: planes[row["key"]]["mse"])
        mse, w2 = frontier(planes[best["key"]]["mse"], planes[best["key"]]["w2"])
        series.append(Series(best["key"], best["label"], mse, w2, mark_every=0, variant=LEAST))
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


def calibration(comparison: dict[str, Any]) -> list[Plot]:
    """Where the truth lies among a run's draws."""
    found = comparison["calibration"]
    rows = [row for row in comparison["rows"] if row["key"] in found]

    def lines(x: Callable[[Any], list], y: Callable[[Any], list]) -> list[Series]:
        return [Series(row["key"], row["label"], x(found[row["key"]]), y(found[row["key"]])) for row in rows]

    return [
        Plot(
            "ranks",
            "Where the truth lies among the draws",
            "Of each coefficient of hidden patches, how many draws lie below the truth. Flat, at 1: the truth could be "
            "one of the draws. Higher at the ends: the model is too sure; in the middle: not sure enough.",
            "share of draws below the truth",
            "times as often as if it were one of them",
            lines(
                lambda c: [i / c["draws"] for i in range(c["draws"] + 1)],
                lambda c: [None if share is None else share * (c["draws"] + 1) for share in c["ranks"]],
            ),
        ),
        Plot(
            "coverage",
            "Central intervals",
            "How often the truth lies within the central interval of the draws. Below the diagonal the model is too "
            "sure.",
            "expected share",
            "found share",
            lines(lambda c: c["expected"], lambda c: c["coverage"]),
            diagonal=True,
        ),
    ]


def sharpness_accuracy(comparison: dict[str, Any]) -> Plot:
    """Does a sharper reconstruction make a better encoder?"""
    truth = next(row for row in comparison["rows"] if row["kind"] == "truth")
    sharpness = value(truth, "tenengrad")
    measured = [metric["name"] for metric in comparison["metrics"] if metric["group"] == "representation"]
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


def accuracy_curves(comparison: dict[str, Any]) -> list[Plot]:
    """Accuracy of probes by depth, trained blocks and labels."""
    found = []
    for table, x, title, about, label in (
        ("by_depth", "layer", "depth", "Where in the encoder the classes can be told apart.", "block"),
        ("by_blocks", "blocks", "trained blocks", BLOCKS, "trained blocks"),
        ("by_labels", "fraction", "share of the labels", LABELS, "share of the training labels"),
    ):
        data = comparison[table]
        lines = {line: line for curve in data.values() for line in curve if line != x}
        series, ticks = curves(comparison, table, x, lines), x_values(data, x)
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
