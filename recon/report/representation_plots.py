"""Plots of what the representations are worth."""

from typing import Any

from recon.report.drawing import Plot
from recon.report.series import curves, places, points, value

# Which accuracy stands for a run: that of the first of these probes that was asked.
PROBES = ("linear_mean", "linear", "attentive", "finetune", "knn", "paper_linear")


def representation(comparison: dict[str, Any]) -> list[Plot]:
    """Accuracy against sharpness, depth, trained blocks and labels."""
    return [
        sharpness_accuracy(comparison),
        _curve(
            comparison,
            "by_depth",
            "layer",
            "Accuracy by depth",
            "Where in the encoder the classes can be told apart.",
            "block",
        ),
        _curve(
            comparison,
            "by_blocks",
            "blocks",
            "Accuracy by trained blocks",
            "The last blocks trained on the labels, the others frozen: figure 9 of the MAE paper.",
            "trained blocks",
        ),
        _curve(
            comparison,
            "by_labels",
            "fraction",
            "Accuracy by share of the labels",
            "How much of the labels a representation can do without.",
            "share of the training labels",
        ),
    ]


def sharpness_accuracy(comparison: dict[str, Any]) -> Plot:
    """Does a sharper reconstruction make a better encoder?"""
    truth = next(row for row in comparison["rows"] if row["kind"] == "truth")
    sharpness = value(truth, "tenengrad")
    measured = [metric["name"] for metric in comparison["metrics"] if metric["group"] == "representation"]
    name = next((name for probe in PROBES for name in measured if name.startswith(probe)), None)
    return Plot(
        name="sharpness_accuracy",
        title="Sharpness against accuracy",
        about="Does a sharper reconstruction make a better encoder? To the right: sharper, as the truth at 1. Up: a "
        "better representation.",
        x_label="Tenengrad / the truth's",
        y_label=f"accuracy, {name.replace('_', ' ')}" if name else "",
        series=points(comparison, "tenengrad", name, x_scale=1 / sharpness) if name and sharpness else [],
    )


def _curve(comparison: dict[str, Any], table: str, x: str, title: str, about: str, x_label: str) -> Plot:
    found = comparison[table]
    lines = dict.fromkeys(line for data in found.values() for line in data if line != x)
    return Plot(
        name=f"accuracy_{table}",
        title=title,
        about=about,
        x_label=x_label,
        y_label="accuracy",
        series=curves(comparison, table, x, {line: line for line in lines}),
        ticks=places(found, x),
        log_x=table == "by_labels",
    )
