"""Plots of what is not known: perception against distortion in one space with its frontier, and calibration."""

from typing import Any

from recon.metrics.uncertainty import frontier
from recon.report.drawing import Plot, Series

LEAST, BLEND = "least possible", "from the mean to a draw"


def perception_frontier(comparison: dict[str, Any]) -> Plot:
    """Distance of Gaussians against squared error, both of the luminance of hidden patches, and what bounds them.

    Blau and Michaeli 2018 (arXiv 1711.06077); the frontier is that of Freirich, Michaeli and Meir 2021 (arXiv
    2107.02555), through the row of least error, of those that have not seen the answer.
    """
    planes = {key: plane for key, plane in comparison["planes"].items() if None not in plane.values()}
    rows = [row for row in comparison["rows"] if row["key"] in planes and row["kind"] != "truth"]
    series = [
        Series(row["key"], row["label"], [planes[row["key"]]["mse"]], [planes[row["key"]]["w2"]], "markers")
        for row in rows
    ]
    for row in rows:
        if blend := comparison["blends"].get(row["key"]):
            text = [f"alpha {alpha:g}" for alpha in blend["alpha"]]
            series.append(Series(row["key"], row["label"], blend["mse"], blend["w2"], "lines", BLEND, text))
    if honest := [row for row in rows if not row["key"].startswith("oracle/")]:
        base = min(honest, key=lambda row: planes[row["key"]]["mse"])
        mse, w2 = frontier(planes[base["key"]]["mse"], planes[base["key"]]["w2"])
        series.append(Series(base["key"], base["label"], mse, w2, "lines", LEAST))
    return Plot(
        name="frontier",
        title="Error against realism, and the least that is possible",
        about="Luminance of hidden patches (above 8 pixels their 64 lowest frequencies). If the row of least error "
        "were the best prediction there is, no reconstruction could lie left of its line: error grows with the square "
        "of the distance that is gained.",
        x_label="MSE",
        y_label="Wasserstein distance of Gaussians",
        series=series,
    )


def calibration(comparison: dict[str, Any]) -> list[Plot]:
    """Where the truth lies among a run's draws."""
    found = comparison["calibration"]
    rows = [row for row in comparison["rows"] if row["key"] in found]

    def curves(x: Any, y: Any) -> list[Series]:
        return [Series(row["key"], row["label"], x(found[row["key"]]), y(found[row["key"]])) for row in rows]

    ranks = Plot(
        name="ranks",
        title="Where the truth lies among the draws",
        about="Of each coefficient of hidden patches, how many draws lie below the truth. Flat, at 1: the truth could "
        "be one of the draws. Higher at the ends: the model is too sure; in the middle: not sure enough.",
        x_label="share of draws below the truth",
        y_label="times as often as if it were one of them",
        series=curves(
            lambda c: [i / c["draws"] for i in range(c["draws"] + 1)],
            lambda c: [None if share is None else share * (c["draws"] + 1) for share in c["ranks"]],
        ),
    )
    coverage = Plot(
        name="coverage",
        title="Central intervals",
        about="How often the truth lies within the central interval of the draws. Below the diagonal the model is too "
        "sure.",
        x_label="expected share",
        y_label="found share",
        series=curves(lambda c: c["expected"], lambda c: c["coverage"]),
        diagonal=True,
    )
    return [ranks, coverage]
