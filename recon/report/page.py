"""The comparison as one HTML file that opens from disk, without a network."""

import json
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import jinja2

from recon.report.drawing import row_styles, svg
from recon.report.pictures import panels, picture_data
from recon.report.plots import plots
from recon.report.tables import column_cells, difference_table, grouped
from recon.result_table import Comparison
from recon.runs import write_text

PARTS = Path(__file__).with_suffix("")  # template, style sheet and scripts
DIRECTION = {"higher": "↑", "lower": "↓", "truth": "≈"}


def write_page(comparison: Comparison, pictures: dict[str, Any], folder: Path) -> Path:
    """Writes folder/index.html, whole or not at all; returns its path.

    Args:
        pictures: patch_size, names, truth (n, H, W, 3) uint8, hidden (n, H, W) bool, and per row key the raw
            prediction (n, H, W, 3) uint8. A row without pictures has no panel, but for the truth. draws: of a row that
            is the mean of some, (n, S, H, W, 3) uint8.
    """
    path = folder / "index.html"
    write_text(path, render(comparison, pictures))
    return path


def render(comparison: Comparison, pictures: dict[str, Any]) -> str:
    """The page as text; everything it shows is inside it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PARTS),
        autoescape=True,  # a run called <script> is just a name
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["embedded"] = embedded
    rows = comparison.rows
    shown, styles = panels(rows, pictures), row_styles(rows)
    return environment.get_template("page.html.j2").render(
        comparison=comparison,
        created=datetime.fromisoformat(comparison.created),
        groups=grouped(comparison.columns),
        cells={column.name: column_cells(comparison, column) for column in comparison.columns},
        styles=styles,
        labels={row.key: row.label for row in rows},
        differences=difference_table(comparison),
        panels=shown,
        panel_groups=[list(group) for _, group in groupby(shown, itemgetter("key"))],
        pictures=picture_data(shown, pictures),
        plots=[(plot, svg(plot, styles)) for plot in plots(comparison)],
        settings=list(dict.fromkeys(key for made in comparison.made.values() for key in made.differs)),
        direction=DIRECTION,
        style_sheet=_part("page.css"),
        scripts=[_part("table.js"), _part("lens.js")],
    )


def _part(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")


def embedded(value: Any) -> str:
    """JSON for a <script type="application/json">: nothing in it can close the element or open a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
