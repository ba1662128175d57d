"""How rows look in every plot, and drawing: a plot as SVG for the page and as PNG for papers."""

import colorsys
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import LogLocator, MaxNLocator
from matplotlib.transforms import Bbox

from recon.report.series import Interval, Plot, Series
from recon.result_table import RowInfo
from recon.run_folder import write_atomically

# (on white, on black). Trained runs have vivid colours, simple reconstructions muted ones, bounds gold, the truth ink.
INK = ("#1c1e21", "#e8e8e6")
VIVID = (
    "#3563d9 #e06a12 #16946a #c2378a #7b50d6 #0b8fad #cf3b38 #6b7f12",
    "#82a4ff #ff9f56 #48cf9c #f381c4 #b79bff #4cc8e4 #ff7f79 #b5cb4b",
)
MUTE = "#8c9096 #a08f78 #7893a3 #8d9c7b #a1839a #8583ab", "#8c9096 #b5a48d #8ba8b9 #a1b18e #b799b0 #a09ec6"
GOLD = "#b58a00 #8f7a35", "#ecc04a #c9b26a"
KINDS = {"run": VIVID, "simple": MUTE, "bound": GOLD, "truth": INK}
PALETTES = {kind: list(zip(*map(str.split, pair), strict=True)) for kind, pair in KINDS.items()}
# Rows of a kind differ in their marker too: colour alone is lost in print and to the colour-blind.
STARS = ((3, 1, 0), (4, 1, 0))  # of three and of four rays; the truth's has five
MARKERS = {"run": "o^vp<>h", "simple": (*"sPXd", *STARS), "bound": "D", "truth": "*"}
DASHES = ["-", ":", "--", "-.", (0, (8, 3))]

# Names of the page's style sheet, by the colour that stands for each in a drawing.
PAPER, MUTED, LINE, STRONG_LINE = "#ffffff", "#686d74", "#e3e3df", "#bfc0bb"
THEME = {PAPER: "paper", INK[0]: "ink", MUTED: "muted", LINE: "line", STRONG_LINE: "strong-line"}
STYLE = Path(__file__).with_name("plots.mplstyle")
ROUNDING = 1e-10  # of the largest value; a flat image has a power of 1e-33 at every frequency
# Control characters, halves of surrogate pairs, and what else XML does not allow.
UNPRINTABLE = re.compile("[^\n\\x20-\\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
WIDTH, HEIGHT = 6.4, 3.7  # inches, without the legend of the rows


@dataclass(frozen=True)
class RowStyle:
    """How a row looks in every plot and table: place among the rows, colour on white and on black, marker."""

    position: int
    light: str
    dark: str
    marker: str | tuple[int, int, int]

    @property
    def outline(self) -> str:
        """The marker as a shape of CSS, for a swatch beside the row's name."""
        if self.marker == "o":
            return "circle()"
        shape = MarkerStyle(self.marker)
        corners = np.asarray(shape.get_path().transformed(shape.get_transform()).to_polygons()[0])
        size = 2 * abs(corners).max()
        return f"polygon({', '.join(f'{50 + 100 * x / size:.0f}% {50 - 100 * y / size:.0f}%' for x, y in corners)})"


def row_styles(rows: Sequence[RowInfo]) -> dict[str, RowStyle]:
    """Row key -> style. Colours differ between all rows; the ninth run and later ones get paler hues."""
    seen: dict[str, int] = {}
    styles = {}
    for position, row in enumerate(rows):
        i = seen[row.kind] = seen.get(row.kind, -1) + 1
        palette, markers = PALETTES[row.kind], MARKERS[row.kind]
        light, dark = palette[i] if i < len(palette) else (_hue(i, 0.42), _hue(i, 0.68))
        styles[row.key] = RowStyle(position, light, dark, markers[i % len(markers)])
    return styles


def _hue(i: int, lightness: float) -> str:
    channels = colorsys.hls_to_rgb(i * 0.381966 % 1, lightness, 0.45)  # golden angle: neighbours differ
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in channels)


def write_png(plot: Plot, styles: Mapping[str, RowStyle], path: Path) -> None:
    """Draws the plot under its title; the file is written whole or not at all."""
    with matplotlib.style.context(STYLE):
        figure = draw(plot, styles)
        figure.suptitle(plot.title)
        with write_atomically(path) as file:
            figure.savefig(file, format="png", bbox_inches=_frame(figure))


def svg(plot: Plot, styles: Mapping[str, RowStyle]) -> str:
    """Draws the plot as an <svg> element for an HTML page; the same plot gives the same bytes.

    Colours are the variables of the page's style sheet (--ink, --row-3), everything of a row has its position as
    `data-row`, lines and points have tooltips, and ids differ between plots.
    """
    file = io.BytesIO()
    with matplotlib.style.context([STYLE, {"svg.hashsalt": plot.name}]):
        figure = draw(plot, styles)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None}, bbox_inches=_frame(figure))
    root = ElementTree.fromstring(file.getvalue())
    for each in (
        root.find("{*}metadata"),
        root.find("{*}defs"),
    ):  # the first <defs> would style the whole page
        if each is not None:
            root.remove(each)
    colours = {look.light: f"row-{look.position}" for look in styles.values()} | THEME
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]  # HTML knows <svg> without a namespace
        attributes = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        kind, _, number = attributes.get("id", "").partition("-")
        if look := attributes.get("style"):
            look = re.sub("#[0-9a-f]{6}", lambda found: f"var(--{colours[found[0]]})", look)
            attributes["style"] = re.sub(r"font-family: [^;]*;\s*", "", look)  # the page's
        if number:
            del attributes["id"]
            series = plot.series[int(number)] if kind == "series" else None
            attributes["data-row"] = str(styles[series.row].position) if series else number
            _add_tooltips(element, plot, series) if series else None
        element.attrib = attributes
    used = set(re.findall(r"#(\w+)", " ".join(value for each in root.iter() for value in each.attrib.values())))
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)
    del root.attrib["width"], root.attrib["height"]
    return ElementTree.tostring(root, encoding="unicode")


def _add_tooltips(element: ElementTree.Element, plot: Plot, series: Series) -> None:
    """Names the series on hover, and of each marked point its x, y and note."""
    name = UNPRINTABLE.sub("\ufffd", series.name)
    texts = []
    for i, (x, y) in enumerate(zip(*_coordinates(plot, series), strict=True)):
        if series.mark_every and i % series.mark_every == 0 and math.isfinite(x) and math.isfinite(y):
            note = series.notes[i : i + 1]
            texts.append("\n".join([name, f"{plot.x_label} {x:.4g}", f"{plot.y_label} {y:.4g}", *note]))
    for each, text in zip([element, *element.iterfind(".//{*}use")], [name, *texts], strict=True):
        title = ElementTree.Element("title")
        title.text = text
        each.insert(0, title)


def draw(plot: Plot, styles: Mapping[str, RowStyle]) -> Figure:
    """The plot as a figure: axes, the variants' dashes above, the rows below. Call it in the style `STYLE`."""
    labels = {series.row: series.label for series in plot.series}
    columns = _columns(labels.values())
    figure = Figure(figsize=(WIDTH, HEIGHT + 0.17 * math.ceil(len(labels) / columns)), layout="constrained")
    axes = figure.add_subplot()
    if plot.diagonal:
        axes.axline((0, 0), slope=1, color=MUTED, linestyle="--", linewidth=0.8)
    if plot.guide:
        axes.axvline(plot.guide[0], color=MUTED, linestyle=":", linewidth=0.8)
        axes.axhline(plot.guide[1], color=MUTED, linestyle=":", linewidth=0.8)
    for i, series in enumerate(plot.series):
        _draw_series(axes, plot, i, styles[series.row])
    _format_axes(axes, plot)
    line = "-" if any(series.line for series in plot.series) else "none"
    rows = [Line2D([], [], linestyle=line, **_look(styles[row], 5)) for row in labels]
    _add_legend(figure, rows, list(labels.values()), ncols=columns, loc="outside lower left")
    dashes = [Line2D([], [], color=MUTED, linestyle=_dash(plot, variant)) for variant in plot.variants]
    if dashes:
        _add_legend(axes, dashes, plot.variants, ncols=_columns(plot.variants), loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def _look(row: RowStyle, size: float) -> dict[str, Any]:
    """Of a line, for matplotlib; a border of paper keeps markers apart that lie on each other."""
    size *= 1.6 if row.marker == "*" else 1
    border = {"markeredgecolor": PAPER, "markeredgewidth": 0.4}
    return {"color": row.light, "marker": row.marker, "markersize": size, "gid": f"row-{row.position}"} | border


def _dash(plot: Plot, variant: str) -> Any:
    """Line style of a variant, as matplotlib takes it."""
    return DASHES[plot.variants.index(variant) % len(DASHES)] if variant else DASHES[0]


def _draw_series(axes: Axes, plot: Plot, index: int, style: RowStyle) -> None:
    series = plot.series[index]
    x, y = _coordinates(plot, series)
    look: dict[str, Any] = _look(style, 4.5 if series.line else 7.5) | (
        {"markevery": series.mark_every} if series.mark_every else {"marker": "none"}
    )
    line, _, bars = axes.errorbar(
        x,
        y,
        xerr=_distances(series.x, series.x_interval) if series.x_interval else None,
        yerr=_distances(series.y, series.y_interval) if series.y_interval else None,
        linestyle=_dash(plot, series.variant) if series.line else "none",
        elinewidth=0.8,
        **look,
    )
    line.set_gid(f"series-{index}")
    for bar in bars:
        bar.set_gid(look["gid"])


def _format_axes(axes: Axes, plot: Plot) -> None:
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    for axis, log, set_scale in ((axes.xaxis, plot.log_x, axes.set_xscale), (axes.yaxis, plot.log_y, axes.set_yscale)):
        if log:
            set_scale("log")
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=_log_steps(high / low)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
        else:
            axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
    if plot.ticks:
        axes.set_xticks(plot.ticks)


def _log_steps(ratio: float) -> tuple[float, ...]:
    """Which multiples of powers of ten have ticks on an axis whose end is so many times its beginning."""
    return (1,) if ratio > 1e4 else (1, 2, 5) if ratio > 20 else (1, 1.5, 2, 3, 4, 5, 7)


def _columns(labels: Iterable[str]) -> int:
    """How many columns of a legend fit into the width of a figure."""
    return max(1, min(6, int(WIDTH / (0.45 + 0.058 * max(map(len, labels))))))


def _add_legend(parent: Figure | Axes, lines: list[Line2D], names: list[str], **options: Any) -> None:
    legend = parent.legend(lines, ["-"] * len(lines), **options)
    for line, handle, name, text in zip(lines, legend.get_lines(), names, legend.get_texts(), strict=True):
        handle.set_gid(line.get_gid())
        text.set_gid(line.get_gid())
        text.set_text(UNPRINTABLE.sub("\ufffd", name))  # set late: "_" in front would drop the entry


def _frame(figure: Figure) -> Bbox:
    """The figure in inches, wider where a long name needs it."""
    figure.draw_without_rendering()
    return Bbox.union([figure.bbox_inches, figure.get_tightbbox()])


def _coordinates(plot: Plot, series: Series) -> list[list[float]]:
    """x and y with NaN for a gap; on a logarithmic axis, zero and what is only rounding of zero are gaps too."""
    found = []
    for name, log in (("x", plot.log_x), ("y", plot.log_y)):
        largest = max((value for each in plot.series for value in getattr(each, name) if value is not None), default=0)
        least = ROUNDING * largest if log else -math.inf
        values = getattr(series, name)
        found.append([math.nan if value is None or value <= least else value for value in values])
    return found


def _distances(values: Sequence[float | None], intervals: Sequence[Interval]) -> tuple[list[float], list[float]]:
    """How far each interval reaches below and above its value."""
    low, high = [], []
    for value, interval in zip(values, intervals, strict=True):
        below, above = (0.0, 0.0) if value is None or interval is None else (value - interval[0], interval[1] - value)
        low.append(max(below, 0.0))
        high.append(max(above, 0.0))
    return low, high
