"""Compares runs: gets the evaluation of each on the same images and masks, and writes one report."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

from losses import InvalidSetting
from losses.reconstruction import expand_to_pixels
from recon.comparison.assemble import Candidate, RunRow, assemble, comparison_json, rows_of_runs
from recon.comparison.differences import with_decisions
from recon.comparison.probed import with_probes
from recon.comparison.transfer_panels import transfer_panels
from recon.comparison.transferred import with_transfers
from recon.comparison.verdict import with_verdicts
from recon.console import duration
from recon.dense import transfer_pictures, transfer_results
from recon.dense.transfer_results import TransferRecord
from recon.distributed import require_one_process
from recon.evaluation.evaluate_run import evaluate
from recon.evaluation.evaluator import MetricSuite, load_suite
from recon.evaluation.protocol import Protocol, dataset_of, protocol_of
from recon.evaluation.results import Evaluation, read, write
from recon.evaluation.rows import honest
from recon.folder_lock import locked
from recon.loaded_run import RESULTS, LoadedRun, open_run
from recon.probing import probe_results as probes
from recon.probing.features import ProbedEncoder
from recon.report.page import write_page
from recon.report.pictures import Pictures
from recon.report.plots import write_plots
from recon.report.tables import write_tables
from recon.result_table import Comparison
from recon.run_folder import check_writable, write_text, writing
from recon.scoreboard import table, undefined, verdicts
from recon.study_config import HEADS, CompareSettings, Measuring, check_measuring
from recon.training.device import is_out_of_memory

R = TypeVar("R")

# Settings that do not change the numbers of an evaluation, but see `usable`.
IRRELEVANT = {"device", "batch", "run", "runs", "out", "again", "columns", "data", "target"}


def compare(settings: CompareSettings, given: frozenset[str] = frozenset()) -> int:
    """Compares runs on the same images and masks; writes the report and prints its table.

    Returns 0, or 1 where some runs could not be evaluated: the report has the others, and says why. A run whose target
    has no pixels is in the report with its probes alone.

    Raises:
        InvalidSetting: no run was named, runs that cannot be compared, none that can be evaluated, several processes.
    """
    require_one_process("compare")
    check_measuring(settings)
    began = time.monotonic()
    folder = Path(settings.out)
    if (folder / "config.yaml").exists():
        raise InvalidSetting(f"out={folder} is a run; choose another folder for the report")
    check_writable(folder)
    # runs/* also has the report of an earlier comparison, and results of checkpoints' files.
    named = [run for run in dict.fromkeys(map(Path, settings.runs)) if run.resolve() != folder.resolve()]
    named = [run for run in named if not (run.is_dir() and run.name.endswith(RESULTS))]
    records = {run: None if (run / "config.yaml").exists() else probing_in(run) for run in named}
    if not records:
        raise InvalidSetting("name the runs to compare: python -m recon.compare runs/A runs/B")
    # A folder may hold the probing of a model that was trained on the labels alone.
    scratch = {run: record for run, record in records.items() if record is not None and "scratch" in record.encoders}
    candidates = gather([run for run in records if run not in scratch], settings)
    run_rows = rows_of_runs(candidates)
    probed = probings(run_rows) | {f"scratch/{run.name}": record for run, record in scratch.items()}
    comparison = with_probes(assemble(candidates, run_rows, settings), probed)
    transferred = {task: transfers(run_rows, task) for task in HEADS}
    for records in transferred.values():
        comparison = with_transfers(comparison, records)
    comparison = with_decisions(comparison)
    comparison = with_verdicts(comparison, {key: found for key, row in run_rows.items() if (found := row.tensors)})
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):  # two reports in one folder would mix
        write_files(comparison, folder)
        sets = [transfer_panels(comparison.rows, of, transfer_drawn(run_rows, of)) for of in transferred.values()]
        page = write_page(comparison, pictures(run_rows), folder, [each for each in sets if each])
    for text in (
        table(comparison.rows, comparison.columns, comparison.results, settings.columns),
        *verdicts(comparison),
        *undefined(comparison.rows, comparison.columns, comparison.results),
    ):
        print(text)
    failed = [c.reason for c in candidates if c.reason and not c.only_probed]
    for candidate in candidates:
        if candidate.reason:
            print(f"{'not drawn' if candidate.only_probed else 'left out'}: {candidate.reason}", file=sys.stderr)
    print(f"report  {page}   ({duration(time.monotonic() - began)})")
    return 1 if failed else 0


def gather(folders: list[Path], settings: CompareSettings) -> list[Candidate]:
    """Every run with its evaluation, all on the same images and masks: that on disk, or a new one.

    A run that cannot be read or evaluated has a reason instead, and the others are compared without it. A checkpoint
    of another code is evaluated on the data of the first run, unless the settings name other data.

    Raises:
        InvalidSetting: runs that no evaluation can bring together, or not one that can be read.
    """
    candidates = [_opened(folder, settings.target) for folder in folders]
    readable = [(c, c.run) for c in with_data(candidates) if c.run and not c.reason]
    if not readable:
        raise InvalidSetting("; ".join(c.reason for c in candidates))
    if settings.render and not any(run.model.head.renderings for _, run in readable):
        raise InvalidSetting(f"render={settings.render}: every run has one answer to each image; leave render out")
    refuse_other_protocols([(c.folder, protocol_of(r.settings, r.model.patch_size, settings)) for c, r in readable])
    suite = load_suite(settings)
    last: Evaluation | None = None
    for candidate, run in readable:
        candidate.found = None if settings.again else usable(run, settings, suite.provenance)
        if candidate.found is None:
            try:
                check_writable(run.folder)
                candidate.found = last = announced(run, settings, suite, last)
                run.make_folder()
                write(run.folder, last)
            except (InvalidSetting, OSError, RuntimeError) as error:
                said = "out of memory; lower batch" if is_out_of_memory(error) else " ".join(str(error).split())
                candidate.reason = f"{candidate.folder}: {said}"
        run.model.cpu()
    refuse_other_images(candidates)
    return candidates


def with_data(candidates: list[Candidate]) -> list[Candidate]:
    """The candidates, of which a checkpoint of another code, which names no dataset, has that of the first run."""
    runs = [c.run for c in candidates if c.run and not c.reason]
    own = next((run.settings.data for run in runs if run.settings.data.name), None)
    for candidate in candidates:
        if own is not None and candidate.run is not None and candidate.run.settings.data.name is None:
            settings = candidate.run.settings
            data = replace(settings.data, name=own.name, root=own.root)
            candidate.run = replace(candidate.run, settings=replace(settings, data=data))
    return candidates


def refuse_other_protocols(protocols: list[tuple[Path, Protocol]]) -> None:
    """Raises InvalidSetting where a run was trained for other data, sizes or masks than the first."""
    first, wanted = protocols[0]
    for folder, protocol in protocols[1:]:
        if differing := wanted.differing(protocol):
            said = ", ".join(f"{key} {theirs} (not {mine})" for key, (mine, theirs) in differing.items())
            raise InvalidSetting(f"{folder} cannot be compared with {first}: it has {said}; leave it out")


def refuse_other_images(candidates: list[Candidate]) -> None:
    """Raises InvalidSetting where evaluations under the same settings have other images or masks."""
    found = [(c.folder, c.found.digest) for c in candidates if c.found]
    if not found:
        raise InvalidSetting("no run could be evaluated: " + "; ".join(c.reason for c in candidates))
    for folder, digest in found:
        if digest != found[0][1]:
            raise InvalidSetting(
                f"{folder} and {found[0][0]} were evaluated on other images or masks; if their data is the same, "
                "evaluate them anew: again=true data.root=PATH"
            )


def usable(run: LoadedRun, settings: CompareSettings, weights: dict[str, dict[str, str]]) -> Evaluation | None:
    """The evaluation in the run's folder, if it is of this model, these settings and these networks' `weights`."""
    found = read(run.folder)
    if found is None or found.model["sha256"] != run.sha256 or found.weights != weights:
        return None
    then, now = found.measuring, asdict(settings)
    if settings.data.root is not None and then["data"].get("root") != settings.data.root:
        return None
    if found.protocol.data != dataset_of(run.settings, settings):
        return None
    if any(row.key == "run" for row in found.rows) != honest(run.model):  # another target was given then
        return None
    free = IRRELEVANT if run.model.head.renderings else IRRELEVANT | {"render", "draws"}
    return found if all(then.get(key) == now[key] for key in now if key not in free) else None


def _opened(folder: Path, target: str | None) -> Candidate:
    """Opens a run; `target` is for checkpoints that do not say theirs."""
    try:
        run = open_run(folder)
        origin = run.origin
        if target is not None and origin is not None and origin.has_decoder and origin.target is None:
            run = open_run(folder, target)
        return Candidate(folder, run=run, reason=run.undrawable or "")
    except InvalidSetting as error:
        return Candidate(folder, reason=str(error))


def probing_in(folder: Path) -> probes.ProbeRecord | None:
    """The probing in a folder, if there is one; a line says where it cannot be read."""
    return _read_or_say(probes.read, folder)


def _read_or_say(read: Callable[[Path], R | None], folder: Path) -> R | None:
    try:
        return read(folder)
    except InvalidSetting as error:
        print(f"left out: {error}", file=sys.stderr)
        return None


def probings(run_rows: dict[str, RunRow]) -> dict[str, probes.ProbeRecord]:
    """The probing of every run that has one of the encoder that stands there now, by the key of its first row."""
    return _of_encoders(run_rows, probes.read, lambda record: record.checksum, "probed: probe it again")


def transfers(run_rows: dict[str, RunRow], task: str) -> dict[str, TransferRecord]:
    """The same of transfers to a task."""
    again = "transferred: transfer it again"
    return _of_encoders(
        run_rows,
        lambda folder: transfer_results.read(folder, task),
        lambda record: record.encoders["run"].checksum,
        again,
    )


def transfer_drawn(
    run_rows: dict[str, RunRow], records: dict[str, TransferRecord]
) -> dict[str, transfer_pictures.Pictures]:
    """What was drawn of transfers, by the same keys; a line says where it cannot be read."""
    folders = {key: run.folder for key in records if (run := run_rows[key].candidate.run)}
    found = {
        key: _read_or_say(lambda folder, key=key: transfer_pictures.read(folder, records[key]), folder)
        for key, folder in folders.items()
    }
    return {key: pictures for key, pictures in found.items() if pictures is not None}


def _of_encoders(
    run_rows: dict[str, RunRow], read: Callable[[Path], R | None], checksum: Callable[[R], str], done: str
) -> dict[str, R]:
    found, seen = {}, set()
    for key, run in ((key, row.candidate.run) for key, row in run_rows.items()):
        if run is None or run.folder in seen:
            continue
        seen.add(run.folder)
        record = _read_or_say(read, run.folder)
        if record is not None and checksum(record) != ProbedEncoder("run", run.name, run.model).checksum:
            print(f"{run.folder} has changed since it was {done}", file=sys.stderr)
        elif record is not None:
            found[key] = record
    return found


def write_files(comparison: Comparison, folder: Path) -> None:
    """comparison.json, tables and plots; those of an earlier comparison that this one does not have are removed."""
    path = folder / "comparison.json"
    try:
        before = set(json.loads(path.read_text())["files"]) if path.is_file() else set()
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


def pictures(run_rows: dict[str, RunRow]) -> Pictures:
    """What the page shows of the images."""
    tensors = {key: found for key, row in run_rows.items() if (found := row.tensors)}
    first = next(row.found for row in run_rows.values() if row.found)
    rows = {key: of[f"{row}/pictures"] for key, (of, row) in tensors.items()}
    rows |= {row.key: first.tensors[f"{row.key}/pictures"] for row in first.rows if row.kind not in ("run", "truth")}
    draws = {key: of[f"{row}/draws"] for key, (of, row) in tensors.items() if f"{row}/draws" in of}
    p = first.protocol.patch_size
    return Pictures(
        patch_size=p,
        names=first.pictures,
        truth=first.tensors["truth/pictures"].permute(0, 2, 3, 1).numpy(),
        hidden=expand_to_pixels(first.tensors["masks"], first.protocol.grid, p)[:, 0].numpy(),
        rows={key: images.permute(0, 2, 3, 1).numpy() for key, images in rows.items()},
        draws={key: images.permute(0, 1, 3, 4, 2).numpy() for key, images in draws.items()},
    )
