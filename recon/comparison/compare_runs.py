"""What `python -m recon.compare` does."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from losses import InvalidSetting
from losses.reconstruction import expand_to_pixels
from recon.comparison.assemble import RunRow, assemble, comparison_json, rows_of_runs
from recon.comparison.gather import Candidate, gather
from recon.comparison.probed import with_probes
from recon.console import duration
from recon.distributed import require_one_process
from recon.evaluation.evaluate_run import evaluate, table, undefined
from recon.evaluation.evaluator import MetricSuite
from recon.evaluation.results import Evaluation
from recon.loaded_run import RESULTS, LoadedRun
from recon.probing import probe_results as probes
from recon.probing.features import ProbedEncoder
from recon.report.page import write_page
from recon.report.plots import write_plots
from recon.report.tables import write_tables
from recon.result_table import Comparison
from recon.runs import write_text
from recon.study_config import CompareSettings, Measuring, check_measuring


def compare(settings: CompareSettings, given: frozenset[str] = frozenset()) -> int:
    """Compares runs on the same images and masks; writes the report and prints its table.

    Returns 0, or 1 where some runs could not be evaluated: the report has the others, and says why.

    Raises:
        InvalidSetting: no run was named, runs that cannot be compared, none that can be evaluated, several processes.
    """
    require_one_process("compare")
    check_measuring(settings)
    began = time.monotonic()
    folder = Path(settings.out)
    if (folder / "config.yaml").exists():
        raise InvalidSetting(f"out={folder} is a run; choose another folder for the report")
    # runs/* also has the report of an earlier comparison, and results of checkpoints' files.
    named = [run for run in dict.fromkeys(map(Path, settings.runs)) if run.resolve() != folder.resolve()]
    runs = [run for run in named if not (run.is_dir() and run.name.endswith(RESULTS))]
    if not runs:
        raise InvalidSetting("name the runs to compare: python -m recon.compare runs/A runs/B")
    baselines = [run for run in runs if from_scratch(run)]
    candidates = gather([run for run in runs if run not in baselines], settings, announced)
    return report(candidates, baselines, settings, folder, began)


def report(
    candidates: list[Candidate], baselines: list[Path], settings: CompareSettings, folder: Path, began: float
) -> int:
    """Writes the report and prints its table; returns the exit status."""
    run_rows = rows_of_runs(candidates)
    comparison = with_probes(assemble(candidates, run_rows, settings), probings(run_rows, baselines))
    folder.mkdir(parents=True, exist_ok=True)
    write_files(comparison, folder)
    page = write_page(comparison, pictures(run_rows), folder)
    print(table(comparison.rows, comparison.results))
    for line in undefined(comparison.rows, comparison.columns, comparison.results):
        print(line)
    failed = [candidate for candidate in candidates if candidate.reason]
    for candidate in failed:
        print(f"left out: {candidate.reason}", file=sys.stderr)
    print(f"report  {page}   ({duration(time.monotonic() - began)})")
    return 1 if failed else 0


def from_scratch(folder: Path) -> bool:
    """Whether a folder holds the probing of a model that was trained on the labels alone."""
    found = probes.read(folder)
    return found is not None and "scratch" in found.encoders


def probings(run_rows: dict[str, RunRow], baselines: list[Path]) -> dict[str, probes.ProbeRecord]:
    """The probing of every run that has one, by the key of its first row, and of models from scratch."""
    found, seen = {}, set()
    for key, row in run_rows.items():
        run = row.candidate.run
        if run is not None and run.folder not in seen:
            seen.add(run.folder)
            found[key] = probing_of(run)
    found |= {f"scratch/{folder.name}": probes.read(folder) for folder in baselines}
    return {key: record for key, record in found.items() if record is not None}


def probing_of(run: LoadedRun) -> probes.ProbeRecord | None:
    """The probing in a run's folder, if it is of the encoder that stands there now."""
    found = probes.read(run.folder)
    encoder = ProbedEncoder("run", run.name, run.model)
    if found is not None and found.checksum != encoder.checksum:
        print(f"{run.folder} has changed since it was probed: probe it again", file=sys.stderr)
        return None
    return found


def write_files(comparison: Comparison, folder: Path) -> None:
    """comparison.json, tables and plots; those of an earlier comparison that this one does not have are removed."""
    path = folder / "comparison.json"
    try:
        before = set(json.loads(path.read_text())["files"])
    except (OSError, ValueError, TypeError, KeyError):
        before = set()
    files = [file.name for file in (*write_tables(comparison, folder), *write_plots(comparison, folder))]
    for name in before - set(files):
        (folder / Path(name).name).unlink(missing_ok=True)
    write_text(path, comparison_json(comparison, files))


def announced(run: LoadedRun, measuring: Measuring, suite: MetricSuite, before: Evaluation | None) -> Evaluation:
    """Prints that a run is evaluated, and evaluates it."""
    print(f"evaluating {run.folder}", flush=True)
    return evaluate(run, measuring, suite, before)


def pictures(run_rows: dict[str, RunRow]) -> dict[str, Any]:
    """What `write_page` shows of the images: see there."""
    first = next(row.found for row in run_rows.values() if row.found)
    protocol, truth = first.protocol, first.tensors["truth/pictures"]
    p = protocol.patch_size
    rows = {key: row.found.tensors[f"{row.row}/pictures"] for key, row in run_rows.items() if row.found}
    rows |= {row.key: first.tensors[f"{row.key}/pictures"] for row in first.rows if row.kind not in ("run", "truth")}
    draws = {
        key: row.found.tensors[f"{row.row}/draws"].permute(0, 1, 3, 4, 2).numpy()
        for key, row in run_rows.items()
        if row.found and f"{row.row}/draws" in row.found.tensors
    }
    return {
        "draws": draws,
        "patch_size": p,
        "names": first.pictures,
        "truth": truth.permute(0, 2, 3, 1).numpy(),
        "hidden": expand_to_pixels(first.tensors["masks"], protocol.grid, p)[:, 0].numpy(),
        "rows": {key: images.permute(0, 2, 3, 1).numpy() for key, images in rows.items()},
    }
