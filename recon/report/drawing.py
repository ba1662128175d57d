"""What a plot is before it is drawn, and how rows look in all of them."""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Interval = tuple[float, float] | None

INK = ("#1c1e21", "#e8e8e6")
# (on white, on black): trained runs are vivid, simple reconstructions muted, bounds gold, the truth is the ink.
VIVID = [
    ("#3563d9", "#82a4ff"),
    ("#e06a12", "#ff9f56"),
    ("#16946a", "#48cf9c"),
    ("#c2378a", "#f381c4"),
    ("#7b50d6", "#b79bff"),
    ("#0b8fad", "#4cc8e4"),
    ("#cf3b38", "#ff7f79"),
    ("#6b7f12", "#b5cb4b"),
]
MUTE = [
    ("#8c9096", "#8c9096"),
    ("#a08f78", "#b5a48d"),
    ("#7893a3", "#8ba8b9"),
    ("#8d9c7b", "#a1b18e"),
    ("#a1839a", "#b799b0"),
]
GOLD = [("#b58a00", "#ecc04a"), ("#8f7a35", "#c9b26a")]
MARKERS = {"run": ("circle", "o"), "simple": ("square", "s"), "bound": ("diamond", "D"), "truth": ("star", "*")}
DASHES = [("solid", "-"), ("dot", ":"), ("dash", "--"), ("dashdot", "-."), ("longdash", (0, (8, 3)))]


@dataclass(frozen=True)
class Series:
    """One line, or the points, of one row.

    Args:
        row: key of the row; it decides colour and marker.
        x, y: of equal length; None is a gap.
        variant: what tells this line from the row's others ("coherence", a term's name); it decides the dash.
        text: per point, shown on hover beside x and y.
        x_interval, y_interval: per point, (low, high) or None.
    """

    row: str
    label: str
    x: Sequence[float | None]
    y: Sequence[float | None]
    mode: Literal["lines", "markers", "lines+markers"] = "lines+markers"
    variant: str = ""
    text: Sequence[str] = ()
    x_interval: Sequence[Interval] = ()
    y_interval: Sequence[Interval] = ()


@dataclass(frozen=True)
class Plot:
    """Axes and series.

    Args:
        name: of its file.
        about: a sentence or two on how to read it.
        diagonal: draws y = x.
        ticks: where x has ticks; by default the axis chooses.
        guide: a point (x, y) that dotted lines cross in, such as the truth's.
    """

    name: str
    title: str
    about: str
    x_label: str
    y_label: str
    series: list[Series] = field(default_factory=list)
    log_x: bool = False
    log_y: bool = False
    ticks: Sequence[float] = ()
    diagonal: bool = False
    guide: tuple[float, float] | None = None

    @property
    def variants(self) -> list[str]:
        """What dashes tell apart, in order of appearance; empty where a row has one line."""
        return [name for name in dict.fromkeys(series.variant for series in self.series) if name]

    def dash(self, variant: str) -> tuple[str, Any]:
        """In plotly's words and in matplotlib's."""
        return DASHES[self.variants.index(variant) % len(DASHES)] if variant else DASHES[0]


@dataclass(frozen=True)
class Look:
    """How a row looks in every plot: colour on white and on black, and its place among the rows."""

    position: int
    light: str
    dark: str
    kind: str


def looks(rows: Sequence[Mapping[str, Any]]) -> dict[str, Look]:
    """Row key -> look. Colours are told apart within a kind; the ninth run and later ones get paler hues."""
    palettes = {"run": VIVID, "simple": MUTE, "bound": GOLD, "truth": [INK]}
    seen: dict[str, int] = {}
    found = {}
    for position, row in enumerate(rows):
        i = seen[row["kind"]] = seen.get(row["kind"], -1) + 1
        palette = palettes[row["kind"]]
        light, dark = palette[i] if i < len(palette) else (_hue(i, 0.42), _hue(i, 0.68))
        found[row["key"]] = Look(position, light, dark, row["kind"])
    return found


def _hue(i: int, lightness: float) -> str:
    channels = colorsys.hls_to_rgb(i * 0.381966 % 1, lightness, 0.45)  # golden angle: neighbours differ
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in channels)
