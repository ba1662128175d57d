"""Tables of a comparison as CSV files, at full precision."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recon.result_table import PLACES, Comparison
from recon.run_folder import write_text

Record = dict[str, Any]

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # beginnings, to a spreadsheet
ACCURACIES = ("by_depth", "by_blocks", "by_labels")  # curves of probes


def write_tables(comparison: Comparison, folder: Path) -> list[Path]:
    """Writes table.csv, differences.csv and a file per kind of curve that has data; returns the files.

    A value that is not defined is an empty cell.
    """
    tables = {"table": table(comparison)}
    tables |= {name: [vars(d) for d in getattr(comparison, name)] for name in ("differences", "distances")}
    tables["frontier"] = frontier(comparison)
    tables |= {f"accuracy_{kind}" if kind in ACCURACIES else kind: curves(comparison, kind) for kind in PLACES}
    written = []
    for name, records in tables.items():
        if records:
            written.append(folder / f"{name}.csv")
            write_csv(records, written[-1])
    return written


def table(comparison: Comparison) -> list[Record]:
    """A record per row: who it is, then each metric's value, and its interval as METRIC_low and METRIC_high."""
    records = []
    for row in comparison.rows:
        record = {name: getattr(row, name) for name in ("key", "label", "kind", "note")}
        for column in comparison.columns:
            found = comparison.results.get(row.key, column.name)
            record |= {column.name: found.value, f"{column.name}_low": found.low, f"{column.name}_high": found.high}
        records.append(record)
    return records


def curves(comparison: Comparison, kind: str) -> list[Record]:
    """A record per point of each row's curves, under the row's key and label."""
    return [
        {"row": row.key, "label": row.label, PLACES[kind]: place}
        | {name: values[i] for name, values in found.columns.items()}
        for row in comparison.rows
        if (found := comparison.results.curves(row.key, kind))
        for i, place in enumerate(found.at)
    ]


def frontier(comparison: Comparison) -> list[Record]:
    """A record per row of the plot of error against realism."""
    number = comparison.results.number
    return [
        {"row": row.key, "label": row.label, "mse": number(row.key, "luma_mse"), "w2": number(row.key, "luma_w2")}
        for row in comparison.rows
        if number(row.key, "luma_mse") is not None
    ]


def write_csv(records: Iterable[Record], path: Path) -> None:
    """A header of every name that occurs, in order of appearance; the file is written whole or not at all.

    A text that a spreadsheet would take for a formula gets a ' in front, what is no Unicode is written as an escape.
    """
    records = [{name: _no_formula(value) for name, value in record.items()} for record in records]
    names = list(dict.fromkeys(name for record in records for name in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(records)
    write_text(path, text.getvalue().encode(errors="backslashreplace").decode())


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
