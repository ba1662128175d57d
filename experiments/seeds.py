"""A comparison's table with one line per objective: means over runs that differ in their seeds.

python -m recon.compare runs/A-0 runs/A-1 runs/B-0 runs/B-1 ...
python -m experiments.seeds runs/comparison/comparison.json

Behind each mean stands half the distance from the lowest to the highest seed: how much of a difference between two
objectives may be chance of training. Intervals over images are in the comparison itself.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from losses import InvalidSetting
from recon.comparison.assemble import read_comparison
from recon.console import aligned
from recon.result_table import Comparison
from recon.saved_settings import RESUME_OVERRIDES
from recon.scoreboard import HEADINGS, heading

Cell = tuple[float, float] | None  # mean, half of the range


def seeds(comparison: Comparison) -> list[list[str]]:
    """Lines of cells: the heading, every objective with its number of runs, the simple reconstructions, the truth.

    Raises:
        InvalidSetting: runs of one objective differ in more than their seed, or have the same one.
    """
    groups: dict[tuple[bool, str], list[str]] = defaultdict(list)
    for row in comparison.rows:
        made = comparison.made.get(row.key)
        groups[made is not None, made.expression if made else row.label].append(row.key)
    for (trained, label), rows in groups.items():
        if trained:
            _check(label, [comparison.made[row].differs for row in rows])
    lines = [
        (
            f"{label} ({len(rows)} seeds)" if len(rows) > 1 else label,
            {name: _over([comparison.results.number(row, name) for row in rows]) for name in HEADINGS},
        )
        for (_, label), rows in groups.items()
    ]
    columns = [name for name in HEADINGS if any(cells[name] for _, cells in lines)]
    titles = HEADINGS | {column.name: heading(column) for column in comparison.columns}
    heads = ["", *(titles[name] for name in columns)]
    return [heads, *([label, *(_written(cells[name]) for name in columns)] for label, cells in lines)]


def _check(label: str, differs: list[dict[str, Any]]) -> None:
    """Raises InvalidSetting where runs of an objective are not each other's seeds."""
    settings = [{k: v for k, v in each.items() if k not in RESUME_OVERRIDES} for each in differs]
    if odd := sorted({k for each in settings for k in each if k != "seed" and each[k] != settings[0].get(k)}):
        raise InvalidSetting(f"runs of {label} differ in more than their seed: {', '.join(odd)}; compare them apart")
    found = [each.get("seed") for each in settings]
    if len(set(found)) < len(found):
        raise InvalidSetting(f"runs of {label} have the same seed; give each once, or compare them apart")


def read(path: Path) -> Comparison:
    """A comparison.json.

    Raises:
        InvalidSetting: it cannot be read.
    """
    try:
        return read_comparison(path)
    except OSError as error:
        raise InvalidSetting(f"{path} cannot be read ({error}); give the comparison.json of recon.compare") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidSetting(f"{path} is not a comparison.json of this version of recon.compare") from error


def _over(values: list[float | None]) -> Cell:
    if None in values:
        return None
    return sum(values) / len(values), (max(values) - min(values)) / 2


def _written(cell: Cell) -> str:
    if cell is None:
        return "-"
    mean, half = cell
    digits = 2 if abs(mean) >= 10 else 3
    return f"{mean:.{digits}f}" + (f" ±{half:.{digits}f}" if half else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, help="comparison.json of recon.compare")
    try:
        print(aligned(seeds(read(parser.parse_args().comparison))))
    except InvalidSetting as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
