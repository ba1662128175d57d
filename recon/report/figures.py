"""A plot drawn: as a figure of plotly for the page, and by matplotlib as a PNG for papers."""

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from recon.report.drawing import MARKERS, Interval, Look, Plot, Series

MUTED = "#8a8d91"


def plotly_figure(plot: Plot, looks: Mapping[str, Look]) -> dict[str, Any]:
    """{"data", "layout"} as plotly.js takes them.

    Colours are left to the page, which knows whether it is light or dark: trace.meta.row is the row's position.
    """
    traces = [_trace(plot, series, looks[series.row]) for series in plot.series]
    for variant in plot.variants:
        line = {"dash": plot.dash(variant)[0], "width": 2}
        traces.append(
            {"type": "scatter", "x": [None], "y": [None], "mode": "lines", "name": _safe(variant), "line": line}
        )
    layout: dict[str, Any] = {
        "xaxis": _axis(plot.x_label, plot.log_x) | ({"tickvals": list(plot.ticks)} if plot.ticks else {}),
        "yaxis": _axis(plot.y_label, plot.log_y),
        "showlegend": bool(plot.variants),
        "shapes": [],
    }
    if plot.diagonal:
        layout["shapes"].append({"type": "line", "x0": 0, "y0": 0, "x1": 1, "y1": 1, "line": {"dash": "dash"}})
    if plot.guide:
        x, y = plot.guide
        across = {"type": "line", "line": {"dash": "dot"}}
        layout["shapes"] += [
            {**across, "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y},
            {**across, "yref": "paper", "y0": 0, "y1": 1, "x0": x, "x1": x},
        ]
    return {"data": traces, "layout": layout}


def _axis(label: str, log: bool) -> dict[str, Any]:
    return {"title": {"text": _safe(label)}, **({"type": "log", "dtick": "D2"} if log else {"type": "linear"})}


def _trace(plot: Plot, series: Series, look: Look) -> dict[str, Any]:
    name = f"{series.label}, {series.variant}" if series.variant else series.label
    hover = f"<b>{_safe(name)}</b><br>{_safe(plot.x_label)} %{{x:.4~g}}<br>{_safe(plot.y_label)} %{{y:.4~g}}"
    trace = {
        "type": "scatter",
        "x": list(series.x),
        "y": list(series.y),
        "mode": series.mode,
        "name": _safe(name),
        "meta": {"row": look.position},
        "showlegend": False,
        "line": {"dash": plot.dash(series.variant)[0], "width": 2},
        "marker": {"symbol": MARKERS[look.kind][0], "size": 11 if series.mode == "markers" else 6},
        "hovertemplate": hover + ("<br>%{text}" if series.text else "") + "<extra></extra>",
    }
    if series.text:
        trace["text"] = [_safe(text) for text in series.text]
    for axis, values, intervals in (("x", series.x, series.x_interval), ("y", series.y, series.y_interval)):
        if intervals:
            low, high = _reach(values, intervals)
            trace[f"error_{axis}"] = {"type": "data", "arrayminus": low, "array": high, "thickness": 1, "width": 0}
    return trace


def _safe(text: str) -> str:
    """For plotly, which reads tags in a text, and templates in what is shown on hover."""
    return html.escape(text).replace("%", "&#37;")


def _reach(values: Sequence[float | None], intervals: Sequence[Interval]) -> tuple[list[float], list[float]]:
    """How far each interval reaches below and above its value."""
    pairs = list(zip(values, intervals, strict=True))
    low = [max(value - interval[0], 0.0) if interval else 0.0 for value, interval in pairs]
    return low, [max(interval[1] - value, 0.0) if interval else 0.0 for value, interval in pairs]


def write_picture(plot: Plot, looks: Mapping[str, Look], path: Path) -> None:
    """The plot as a PNG for print: written under a temporary name, then renamed."""
    figure = Figure(figsize=(5.2, 3.8), dpi=200)
    axes = figure.add_subplot()
    for series in plot.series:
        _draw(axes, plot, series, looks[series.row])
    axes.set_xscale("log" if plot.log_x else "linear")
    axes.set_yscale("log" if plot.log_y else "linear")
    thin = {"color": MUTED, "linewidth": 1, "zorder": 0.9}  # above the grid, below the data
    if plot.diagonal:
        axes.plot([0, 1], [0, 1], linestyle="--", **thin)
    if plot.guide:
        axes.axvline(plot.guide[0], linestyle=":", **thin)
        axes.axhline(plot.guide[1], linestyle=":", **thin)
    if plot.ticks:
        axes.set_xticks(plot.ticks)
    if plot.log_x:  # a decade or two
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
    axes.set_xlabel(plot.x_label, parse_math=False)
    axes.set_ylabel(plot.y_label, parse_math=False)
    axes.set_title(plot.title, fontsize="medium", parse_math=False)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    _legend(axes, plot, looks)
    temporary = path.with_name(path.name + ".tmp")
    figure.savefig(temporary, format="png", bbox_inches="tight")  # long names widen the file, not shrink the axes
    temporary.replace(path)


def _draw(axes: Axes, plot: Plot, series: Series, look: Look) -> None:
    x, y = ([math.nan if value is None else value for value in values] for values in (series.x, series.y))
    axes.errorbar(
        x,
        y,
        xerr=_reach(series.x, series.x_interval) if series.x_interval else None,
        yerr=_reach(series.y, series.y_interval) if series.y_interval else None,
        color=look.light,
        linestyle=plot.dash(series.variant)[1] if "lines" in series.mode else "none",
        linewidth=1.4,
        elinewidth=0.8,
        marker=MARKERS[look.kind][1] if "markers" in series.mode else "none",
        markersize=7 if series.mode == "markers" else 3.5,
    )


def _legend(axes: Axes, plot: Plot, looks: Mapping[str, Look]) -> None:
    labels = {series.row: series.label for series in plot.series}
    line = "-" if any("lines" in series.mode for series in plot.series) else "none"
    entries = [
        (label, {"color": looks[row].light, "marker": MARKERS[looks[row].kind][1], "linestyle": line})
        for row, label in labels.items()
    ]
    if plot.variants:
        entries.append(("", {"linestyle": "none"}))
    entries += [(variant, {"color": MUTED, "linestyle": plot.dash(variant)[1]}) for variant in plot.variants]
    handles = [Line2D([], [], markersize=5, linewidth=1.4, **look) for _, look in entries]
    legend = axes.legend(
        handles, [str(i) for i in range(len(handles))], loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False
    )
    for text, (name, _) in zip(legend.get_texts(), entries, strict=True):  # set late: "_" in front would drop the entry
        text.set_parse_math(False)
        text.set_text(name)
        text.set_fontsize("small")
