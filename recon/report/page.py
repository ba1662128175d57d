"""The comparison as one HTML file that opens from disk, without a network."""

import base64
import io
import json
from collections.abc import Sequence, Set
from datetime import datetime
from importlib import import_module
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from losses import InvalidSetting
from recon.report.cells import column, difference_table, grouped
from recon.report.drawing import looks
from recon.report.figures import plotly_figure
from recon.report.plots import plots

PARTS = Path(__file__).with_suffix("")  # template, style and scripts
DRAWS = 3  # that are shown, of however many there are
CONTRAST = 4
DIRECTION = {"higher": "↑", "lower": "↓", "truth": "≈"}


def write_page(comparison: dict[str, Any], pictures: dict[str, Any], folder: Path) -> Path:
    """Writes folder/index.html under a temporary name, then renames; returns it.

    Args:
        comparison: "recon comparison 1": protocol, metrics, rows with their values, differences, curves, how made.
        pictures: patch_size, names, truth (n, H, W, 3) uint8, hidden (n, H, W) bool, and per row key the raw
            prediction (n, H, W, 3) uint8. A row without pictures has no panel, but for the truth. draws: of a row that
            is the mean of some, (n, S, H, W, 3) uint8.

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
    shown = panels(rows, pictures)
    look = looks(rows)
    return environment.get_template("page.html.j2").render(
        comparison=comparison,
        created=datetime.fromisoformat(comparison["created"]),
        groups=grouped(comparison["metrics"]),
        cells={metric["name"]: column(rows, metric) for metric in comparison["metrics"]},
        looks=look,
        labels={row["key"]: row["label"] for row in rows},
        differences=difference_table(comparison),
        panels=shown,
        panel_groups=[list(group) for _, group in groupby(shown, itemgetter("key"))],
        pictures=picture_data(shown, pictures),
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
    """What is shown of each image, in the order of the rows: key of the row, label, note, `images` (n, H, W, 3).

    The truth's has no prediction: None. Behind the mean of draws come some of them, their standard deviation, which is
    shown as it is (`whole`), and the way from the run's mean to its first draw (`blend`: the keys of both rows).
    """
    found = []
    drawn = {row["key"] for row in rows} & pictures["rows"].keys()
    for row in rows:
        if row["key"] in pictures["rows"] or row["kind"] == "truth":
            images = None if row["kind"] == "truth" else pictures["rows"][row["key"]]
            found.append(panel(row, row["label"], images, row["note"]))
        if (draws := pictures["draws"].get(row["key"])) is not None:
            found += panels_of_draws(row, draws, pictures["hidden"], drawn)
    return found


def panel(
    row: dict[str, Any], label: str, images: np.ndarray | None, note: str | None = None, **special: Any
) -> dict[str, Any]:
    """`caption`: what stands below it, where others of its row stand beside it."""
    plain = {"caption": label, "whole": False, "blend": None}
    return {"key": row["key"], "label": label, "note": note, "images": images} | plain | special


def panels_of_draws(
    row: dict[str, Any], draws: np.ndarray, hidden: np.ndarray, drawn: Set[str]
) -> list[dict[str, Any]]:
    """Of (n, S, H, W, 3) uint8, `hidden` where (n, H, W); `drawn` are the keys of the rows that have pictures."""
    run = row["key"].partition("/")[2]

    def beside(caption: str, images: np.ndarray | None, note: str | None = None, **special: Any) -> dict[str, Any]:
        return panel(row, f"{run}: {caption}", images, note, caption=caption, **special)

    found = [beside(f"draw {i + 1}", draws[:, i]) for i in range(min(DRAWS, draws.shape[1]))]
    note = f"{CONTRAST} times, in every view; bright where it does not know"
    found.append(beside("deviation of the draws", deviation(draws) * hidden[..., None], note, whole=True))
    ends = [f"run/{run}", f"sample/{run}"]
    return [*found, beside("from the mean to a draw", None, blend=ends)] if drawn.issuperset(ends) else found


def deviation(draws: np.ndarray) -> np.ndarray:
    """`CONTRAST` times the standard deviation over S, (n, S, H, W, 3) uint8 -> (n, H, W, 3) uint8: its mean as grey."""
    grey = draws.std(1, dtype=np.float64).mean(-1, keepdims=True) * CONTRAST
    return np.rint(grey.clip(0, 255)).astype(np.uint8).repeat(3, -1)


def picture_data(shown: Sequence[dict[str, Any]], pictures: dict[str, Any]) -> dict[str, Any]:
    """What the lens derives every view of the panels that are `shown` from.

    Pixels are PNG without loss, patch masks strings of 0 and 1 row by row; the truth's panel has no prediction.
    """
    p, (height, width) = pictures["patch_size"], pictures["truth"].shape[1:3]
    at = {each["key"]: i for i, each in reversed(list(enumerate(shown)))}  # a row's first panel is its own
    return {
        "patch_size": p,
        "size": [height, width],
        "names": list(pictures["names"]),
        "masks": ["".join(map(str, mask[::p, ::p].astype(int).ravel())) for mask in pictures["hidden"]],
        "truth": [png(image) for image in pictures["truth"]],
        "predictions": [None if each["images"] is None else [png(image) for image in each["images"]] for each in shown],
        "whole": [each["whole"] for each in shown],
        "blends": [each["blend"] and [at[key] for key in each["blend"]] for each in shown],
    }


def png(image: np.ndarray) -> str:
    """(H, W, 3) uint8 as a data URI."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
