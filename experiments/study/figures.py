"""Figures of a study: its rows in one plane, with the Pareto front, and what more of something does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure

from experiments.study.definition import Study
from experiments.study.effects import Effect
from experiments.study.measured import Measurements
from recon.metrics import METRICS, SET_METRICS
from recon.metrics.deep import HALLUCINATION, LPIPS, VGG
from recon.report.drawing import STYLE
from recon.report.pictures import write_rows
from recon.run_folder import write_atomically

PLANE, CURVES, PICTURES = "figure.png", "curves.png", "reconstructions.png"
FRONT = "#9aa0a6"
MARKS: dict[str, Any] = {"marker": "o", "markersize": 4, "linewidth": 1, "elinewidth": 0.8}
LOWER_IS_BETTER = {
    metric.name
    for metric in (*METRICS.values(), *SET_METRICS.values(), *LPIPS.values(), VGG, HALLUCINATION)
    if metric.better == "lower"
}
Differences = Mapping[tuple[str, str], Effect]  # by row and metric: the row's less the reference's
COLUMNS, PANEL = 3, (3.1, 2.5)  # of the curves' panels; width and height in inches


def write_figures(folder: Path, study: Study, found: Measurements, differences: Differences) -> list[str]:
    """Writes what the study asks for and has; returns the files' names."""
    written = [pictures(folder, found)] if found.pictures else []
    if study.figure:
        written.append(plane(folder, study, found, differences))
    if study.curves:
        written.append(curves(folder, study, found))
    return written


def pictures(folder: Path, found: Measurements) -> str:
    """The same held-out images under every row, as predicted where hidden."""
    rows = {name.replace(" (", "\n("): images.float() / 255 for name, images in found.pictures.items()}
    rows = {"truth": rows.pop("truth"), **rows}
    write_rows(rows, "as predicted where hidden, of the first seed", folder / PICTURES)
    return PICTURES


def plane(folder: Path, study: Study, found: Measurements, differences: Differences) -> str:
    """The two things of `study.figure` against each other, and the Pareto front; one point a row.

    Its bars are the intervals of the row's difference to the reference, which are paired and so far narrower than those
    of means; a row that is not compared has none.
    """
    across, up = study.figure
    xs, ys = found.effects(across), found.effects(up)
    rows = [row for row in xs if row in ys]
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(7.6, 4.4), layout="constrained")
        axes = figure.add_subplot(xlabel=study.measured[across], ylabel=study.measured[up])
        for i, row in enumerate(rows):
            x, y = xs[row], ys[row]
            style = MARKS | {"marker": "osD^"[i // 10 % 4], "color": f"C{i % 10}"}
            bars = [reach([differences[row, m]]) if (row, m) in differences else None for m in (up, across)]
            axes.errorbar(x.value, y.value, *bars, label=row, linestyle="", **style)
        points = [(xs[row].value, ys[row].value) for row in rows]
        if front := pareto_front(points, sign(across), sign(up)):
            axes.plot(*zip(*front, strict=True), color=FRONT, linewidth=0.8, zorder=0, label="Pareto front")
        figure.legend(loc="outside right upper", fontsize=8)
        if differences:
            figure.supxlabel(f"bars: 95% interval of the difference to {study.reference}", fontsize=8)
        return _saved(figure, folder / PLANE)


def sign(metric: str) -> int:
    """1 where more of a metric is better, -1 where less is.

    Of what is best where it equals the truth's, such as detail, reconstructions have less than the truth, so more is.
    """
    return -1 if metric in LOWER_IS_BETTER else 1


def pareto_front(points: Sequence[tuple[float, float]], across: int, up: int) -> list[tuple[float, float]]:
    """The points than which none is better in both coordinates, from the best to the worst in the first one.

    `across`, `up`: 1 where more is better, -1 where less is.
    """
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (-across * point[0], -up * point[1])):
        if not front or up * y > up * front[-1][1]:
            front.append((x, y))
    return front


def curves(folder: Path, study: Study, found: Measurements) -> str:
    """A panel for each measured thing, and in it a line for each of `study.curves`; the reference is a level line."""
    metrics = [metric for metric in study.measured if found.effects(metric)]
    lines = -(-len(metrics) // COLUMNS)
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(COLUMNS * PANEL[0], lines * PANEL[1]), layout="constrained")
        for place, metric in enumerate(metrics, 1):
            axes = figure.add_subplot(lines, COLUMNS, place, xscale="log", title=study.measured[metric])
            effects = found.effects(metric)
            for i, (name, places) in enumerate(study.curves.items()):
                here = {x: effects[row] for row, x in places.items() if row in effects}
                values = [e.value for e in here.values()]
                axes.errorbar(list(here), values, reach(list(here.values())), color=f"C{i}", label=name, **MARKS)
            if study.reference in effects and not any(study.reference in rows for rows in study.curves.values()):
                axes.axhline(effects[study.reference].value, color=FRONT, linewidth=0.8, label=study.reference)
            places = sorted({x for places in study.curves.values() for x in places.values()})
            axes.set_xticks(places, [f"{x:g}" for x in places], minor=False)
            axes.set_xticks([], minor=True)
            if place > len(metrics) - COLUMNS:
                axes.set_xlabel(study.along)
        figure.axes[0].legend(loc="best", fontsize=7)
        return _saved(figure, folder / CURVES)


def reach(effects: Sequence[Effect]) -> list[list[float]]:
    """How far the intervals reach below and above the means."""
    return [[e.value - e.low for e in effects], [e.high - e.value for e in effects]]


def _saved(figure: Figure, path: Path) -> str:
    with write_atomically(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})
    return path.name
