"""A comparison's table with one line per objective: means over runs that differ in their seeds.

python -m recon.compare runs/A-0 runs/A-1 runs/B-0 runs/B-1 ...
python -m experiments.seeds runs/comparison/comparison.json

Behind each mean stands half the distance from the lowest to the highest seed: how much of a difference between two
objectives may be chance of training. Intervals over images are in the comparison itself.
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from losses import InvalidSetting
from recon.comparison.assemble import FORMAT
from recon.evaluation.table import COLUMNS, aligned

Cell = tuple[float, float] | None  # mean, half of the range


def seeds(comparison: dict[str, Any]) -> list[list[str]]:
    """Lines of cells: the heading, every objective with its number of runs, the simple reconstructions, the truth.

    Raises:
        InvalidSetting: runs of one objective differ in more than their seed.
    """
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    differing: dict[str, str] = {}
    for row in comparison["rows"]:
        made = comparison["made"].get(row["key"])
        label = made["expression"] if made else row["label"]
        settings = {key: value for key, value in (made or {"differs": {}})["differs"].items() if key != "seed"}
        if differing.setdefault(label, json.dumps(settings)) != json.dumps(settings):
            raise InvalidSetting(f"runs of {label} differ in more than their seed ({row['label']}); compare them apart")
        groups[label].append(row)
    truth = next(row for row in comparison["rows"] if row["kind"] == "truth")
    detail = truth["values"]["tenengrad"]["value"]
    lines = {
        f"{label} ({len(rows)} seeds)" if len(rows) > 1 else label: {
            name: _over(rows, name, detail if name == "tenengrad" else 1) for name in COLUMNS
        }
        for label, rows in groups.items()
    }
    columns = [name for name in COLUMNS if any(cells[name] for cells in lines.values())]
    heading = ["", *(COLUMNS[name] for name in columns)]
    return [heading, *([label, *(_written(cells[name]) for name in columns)] for label, cells in lines.items())]


def read(path: Path) -> dict[str, Any]:
    """A comparison.json.

    Raises:
        InvalidSetting: it is none.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InvalidSetting(f"{path} cannot be read ({error}); give the comparison.json of recon.compare") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InvalidSetting(f"{path} is not the comparison.json of recon.compare")
    return content


def _over(rows: list[dict[str, Any]], name: str, unit: float) -> Cell:
    values = [row["values"].get(name, {}).get("value") for row in rows]
    if None in values:
        return None
    return sum(values) / len(values) / unit, (max(values) - min(values)) / 2 / unit


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
