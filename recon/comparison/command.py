"""What `python -m recon.compare` does."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from losses import InvalidSetting
from losses.patches import spread
from recon.comparison.assemble import Learnt, assemble, learnt_rows
from recon.comparison.gather import gather
from recon.comparison.settings import CompareSettings
from recon.evaluation.command import evaluated
from recon.evaluation.evaluation import Evaluation
from recon.evaluation.settings import Measuring, check
from recon.evaluation.subject import Subject
from recon.evaluation.table import table, undefined
from recon.report.page import write_page
from recon.report.plots import write_plots
from recon.report.tables import write_tables
from recon.training.console import duration
from recon.training.run_folder import write_text


def compare(settings: CompareSettings, given: frozenset[str] = frozenset()) -> int:
    """Compares runs on the same images and masks; writes the report and prints its table.

    Returns 0, or 1 where some runs could not be evaluated: the report has the others, and says why.

    Raises:
        InvalidSetting: no run was named, runs that cannot be compared, none that can be evaluated.
    """
    check(settings)
    if not settings.runs:
        raise InvalidSetting("name the runs to compare: python -m recon.compare runs/A runs/B")
    began = time.monotonic()
    folder = Path(settings.out)
    runs = [run for run in dict.fromkeys(map(Path, settings.runs)) if run.resolve() != folder.resolve()]  # of runs/*
    candidates = gather(runs, settings, announced)
    learnt = learnt_rows(candidates)
    comparison = assemble(candidates, learnt)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "comparison.json", json.dumps(comparison, indent=1, allow_nan=False) + "\n")
    write_tables(comparison, folder)
    write_plots(comparison, folder)
    page = write_page(comparison, pictures(learnt), folder)
    print(table(comparison | {"rows": {row["key"]: row for row in comparison["rows"]}}))
    for line in undefined(comparison | {"rows": {row["key"]: row for row in comparison["rows"]}}):
        print(line)
    failed = [candidate for candidate in candidates if candidate.reason]
    for candidate in failed:
        print(f"left out: {candidate.reason}", file=sys.stderr)
    print(f"report  {page}   ({duration(time.monotonic() - began)})")
    return 1 if failed else 0


def announced(subject: Subject, measuring: Measuring, before: Evaluation | None) -> Evaluation:
    print(f"evaluating {subject.folder}", flush=True)
    return evaluated(subject, measuring, before)


def pictures(learnt: dict[str, Learnt]) -> dict[str, Any]:
    """What `write_page` shows of the images: see there."""
    first = next(row.found for row in learnt.values() if row.found)
    protocol, truth = first.protocol, first.tensors["truth/pictures"]
    p = protocol.patch_size
    count = first.page["protocol"]["images"]
    shown = sorted({i * count // len(truth) for i in range(len(truth))})
    rows = {key: row.found.tensors[f"{row.row}/pictures"] for key, row in learnt.items() if row.found}
    for key, page in first.page["rows"].items():
        if page["kind"] not in ("run", "truth"):
            rows[key] = first.tensors[f"{key}/pictures"]
    return {
        "patch_size": p,
        "names": [first.page["images"][i] for i in shown],
        "truth": truth.permute(0, 2, 3, 1).numpy(),
        "hidden": spread(first.tensors["masks"], protocol.grid, p)[:, 0].numpy(),
        "rows": {key: images.permute(0, 2, 3, 1).numpy() for key, images in rows.items()},
    }
