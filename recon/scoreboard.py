"""The printed table: which columns stand side by side by default, and rows as text that fits a terminal."""

import textwrap
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from recon.console import aligned, one_line, with_interval
from recon.result_table import Column, Comparison, Results, RowInfo, Value

OWN = "* by a network that the run's own objective minimised; it is not ranked by that"
Cell = list[str]  # its lines

WIDTH, GAP = 100, 2  # characters of a terminal, and between columns
LABEL = 28  # characters of a row's label, fewer where the columns need them; longer labels go on in the next line

# What a referee wants to see side by side: one column of each kind, the first of the named ones that has a value.
KINDS = {
    "fidelity": ("masked_psnr",),
    "structure": ("ssim",),
    "perceptual": ("lpips", "vgg19"),
    "sharpness": ("detail",),
    "seams": ("seam_ratio",),
    "honesty": ("invented_share", "invented"),
    "realism": ("frechet_distance", "kid"),
    "representation": ("linear_mean", "linear_class", "knn_20_mean", "knn_20_class"),
}
# And of transfers the first column that begins so: how they were trained is part of their names.
TRANSFERS = {"boxes": "box_ap_", "masks": "mask_ap_", "class maps": "miou_"}
# Headings of columns without a title of their own; others stand under their names.
HEADINGS = {
    "masked_psnr": "PSNR dB",
    "excess_mse": "excess MSE",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "vgg19": "VGG19",
    "detail": "detail",
    "blur_effect": "blur",
    "seam_ratio": "seams",
    "retention": "retention",
    "coherence": "coherence",
    "invented": "invented",
    "invented_share": "inv. share",
    "kid": "KD",
    "frechet_distance": "FD",
    "crps": "CRPS",
    "bits_per_dim": "bits/dim",
    "linear_mean": "linear",
    "linear_class": "linear",
    "knn_20_mean": "20-NN",
    "knn_20_class": "20-NN",
}


def scoreboard(rows: Iterable[RowInfo], results: Results) -> dict[str, str]:
    """One column of each kind: kind -> metric, of the kinds of which some row has a value."""
    rows = list(rows)
    transferred = {kind: [v.metric for v in results if v.metric.startswith(begin)] for kind, begin in TRANSFERS.items()}
    kinds = KINDS | transferred
    having = {kind: [name for name in names if has_values(rows, results, name)] for kind, names in kinds.items()}
    return {kind: names[0] for kind, names in having.items() if names}


def board_columns(comparison: Comparison) -> dict[str, Column]:
    """The columns of a comparison's first table: kind -> column."""
    known = {column.name: column for column in comparison.columns}
    return {
        kind: known[name] for kind, name in scoreboard(comparison.rows, comparison.results).items() if name in known
    }


def heading(column: Column) -> str:
    return column.title or HEADINGS.get(column.name, column.name)


def table(rows: Iterable[RowInfo], columns: Iterable[Column], results: Results, which: str = "default") -> str:
    """Formats rows, half the width of each interval below its value, and a line about marked values.

    Args:
        which: "default", one column of each kind, or "all" that have a value. Columns that do not fit `WIDTH` follow
            in further blocks.
    """
    rows, titles = list(rows), {column.name: heading(column) for column in columns}
    names = list(scoreboard(rows, results).values())
    if which == "all":
        names = [name for name in titles if has_values(rows, results, name)]
    cells = [[[titles.get(name, name)], *(_cell(row, results.get(row.key, name)) for row in rows)] for name in names]
    spare = LABEL if which == "all" else WIDTH - sum(_width(column) + GAP for column in cells)
    labels = [[""], *(textwrap.wrap(one_line(row.label), max(LABEL // 2, min(LABEL, spare))) for row in rows)]
    blocks = [_block([labels, *block]) for block in _fitting(cells, WIDTH - _width(labels))]
    marked = [OWN] if any(name in row.own for row in rows for name in names) else []
    return "\n".join(["\n\n".join(blocks), *marked])


def verdicts(comparison: Comparison) -> list[str]:
    """The verdicts on the rows as paragraphs for a terminal, behind what they have in common."""
    labels = {row.key: one_line(row.label) for row in comparison.rows}
    words = [f"{labels[key]}: {words}" for key, words in comparison.verdicts.items()]
    texts = ["", comparison.against, *words, ""] if words else []
    return [textwrap.fill(text, WIDTH, subsequent_indent="  " * (text in words)) for text in texts]


def undefined(rows: Iterable[RowInfo], columns: Iterable[Column], results: Results) -> list[str]:
    """One line for the columns without a value in any row, by the reason that they have in common."""
    rows = list(rows)
    by_reason: dict[str | None, list[str]] = {}
    for column in columns:
        if not has_values(rows, results, column.name):
            by_reason.setdefault(results.get("truth", column.name).reason, []).append(column.name)
    return [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]


def has_values(rows: Iterable[RowInfo], results: Results, metric: str) -> bool:
    return any(results.number(row.key, metric) is not None for row in rows)


def _cell(row: RowInfo, found: Value) -> Cell:
    if found.value is None:
        return ["-"]
    value, _, half = with_interval(found.value, found.low, found.high).partition(" ")
    value += "*" * (found.metric in row.own)
    return [value, half] if half else [value]


def _width(cells: Iterable[Cell]) -> int:
    return max(len(line) for cell in cells for line in cell)


def _fitting(columns: Iterable[list[Cell]], width: int) -> list[list[list[Cell]]]:
    """The columns in blocks of at most `width` characters, each at least one column."""
    blocks: list[list[list[Cell]]] = []
    left = 0
    for column in columns:
        size = _width(column) + GAP
        if size > left:
            blocks.append([])
            left = width
        blocks[-1].append(column)
        left -= size
    return blocks


def _block(columns: Sequence[list[Cell]]) -> str:
    return aligned([line for row in zip(*columns, strict=True) for line in zip_longest(*row, fillvalue="")])
