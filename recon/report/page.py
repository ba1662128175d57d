"""The comparison as one HTML file that opens from disk, without a network."""

import base64
import io
import json
from collections.abc import Sequence
from datetime import datetime
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from losses.errors import InvalidSetting
from recon.report.cells import column, difference_table, grouped
from recon.report.drawing import looks
from recon.report.figures import plotly_figure
from recon.report.plots import plots

PARTS = Path(__file__).with_suffix("")  # template, style and scripts
DIRECTION = {"higher": "↑", "lower": "↓", "truth": "≈"}


def write_page(comparison: dict[str, Any], pictures: dict[str, Any], folder: Path) -> Path:
    """Writes folder/index.html under a temporary name, then renames; returns it.

    Args:
        comparison: "recon comparison 1": protocol, metrics, rows with their values, differences, curves, how made.
        pictures: patch_size, names, truth (n, H, W, 3) uint8, hidden (n, H, W) bool, and per row key the raw
            prediction (n, H, W, 3) uint8. A row without pictures has no panel, but for the truth.

    Raises:
        InvalidSetting: jinja2 or plotly is not installed.
    """
    path = folder / "index.html"
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(render(comparison, pictures), encoding="utf-8")
    temporary.replace(path)
    return path


def render(comparison: dict[str, Any], pictures: dict[str, Any]) -> str:
    jinja2, offline = required("jinja2"), required("plotly.offline")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PARTS),
        autoescape=True,  # a run called <script> is just a name
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["embedded"] = embedded
    rows, drawn = comparison["rows"], plots(comparison)
    look = looks(rows)
    return environment.get_template("page.html.j2").render(
        comparison=comparison,
        created=datetime.fromisoformat(comparison["created"]),
        groups=grouped(comparison["metrics"]),
        cells={metric["name"]: column(rows, metric) for metric in comparison["metrics"]},
        looks=look,
        labels={row["key"]: row["label"] for row in rows},
        differences=difference_table(comparison),
        panels=panels(rows, pictures),
        pictures=picture_data(rows, pictures),
        plots=drawn,
        figures=[plotly_figure(plot, look) for plot in drawn],
        settings=list(dict.fromkeys(key for made in comparison["made"].values() for key in made["differs"])),
        direction=DIRECTION,
        style=part("page.css"),
        scripts=[part("table.js"), part("lens.js"), offline.get_plotlyjs(), part("plots.js")],
    )


def required(name: str) -> ModuleType:
    """An optional package, imported only where a page is written."""
    try:
        return import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise InvalidSetting(f"the page of a comparison needs {package}; install recon[report]") from error


def part(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")


def embedded(value: Any) -> str:
    """JSON for a <script type="application/json">: nothing in it can close the element or open a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def panels(rows: Sequence[dict[str, Any]], pictures: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that have pictures: the truth always has."""
    return [row for row in rows if row["key"] in pictures["rows"] or row["kind"] == "truth"]


def picture_data(rows: Sequence[dict[str, Any]], pictures: dict[str, Any]) -> dict[str, Any]:
    """What the lens derives every view from.

    Pixels are PNG without loss, patch masks strings of 0 and 1 row by row; the truth's panel has no prediction.
    """
    p, (height, width) = pictures["patch_size"], pictures["truth"].shape[1:3]
    shown = panels(rows, pictures)
    predictions = [None if row["kind"] == "truth" else pictures["rows"][row["key"]] for row in shown]
    return {
        "patch_size": p,
        "size": [height, width],
        "names": list(pictures["names"]),
        "masks": ["".join(map(str, mask[::p, ::p].astype(int).ravel())) for mask in pictures["hidden"]],
        "truth": [png(image) for image in pictures["truth"]],
        "predictions": [None if images is None else [png(image) for image in images] for images in predictions],
    }


def png(image: np.ndarray) -> str:
    """(H, W, 3) uint8 as a data URI."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
