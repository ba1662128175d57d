"""The comparison as data, from which the page, the tables and the plots are made; comparison.json holds it."""

import json
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path

from recon.comparison.differences import RowTensors, differences, distances
from recon.console import written
from recon.evaluation.protocol import Protocol
from recon.evaluation.results import Evaluation
from recon.evaluation.rows import named
from recon.loaded_run import LoadedRun
from recon.model.formats import Checkpoint
from recon.result_table import (
    Column,
    Comparison,
    Difference,
    Made,
    Results,
    RowInfo,
    Value,
    as_json,
    from_plain,
    points,
    read_json,
    read_table,
)
from recon.run_folder import read_metrics
from recon.saved_settings import flat
from recon.study_config import EvaluateSettings, Measuring, Where

FORMAT = "recon comparison 4"
POINTS = 500  # of a training curve


def comparison_json(comparison: Comparison, files: list[str]) -> str:
    """comparison.json, with the names of the files beside it."""
    tables = {name: getattr(comparison, name) for name in ("columns", "rows", "differences", "distances")}
    head = {f.name: getattr(comparison, f.name) for f in fields(comparison) if f.name not in (*tables, "results")}
    head |= {"protocol": asdict(comparison.protocol), "made": {key: vars(m) for key, m in comparison.made.items()}}
    return as_json({"format": FORMAT} | head | {"files": files}, tables | {"values": comparison.results})


def read_comparison(path: Path) -> Comparison:
    """A comparison.json.

    Raises:
        OSError, ValueError, TypeError, KeyError: there is none, or it is of another format.
    """
    page = read_json(path)
    if page["format"] != FORMAT:
        raise ValueError(f"its format is {page['format']}")
    found = {f.name: page[f.name] for f in fields(Comparison) if f.name != "results"} | {
        "protocol": from_plain(Protocol, page["protocol"]),
        "columns": read_table(Column, page["columns"]),
        "rows": read_table(RowInfo, page["rows"]),
        "differences": read_table(Difference, page["differences"]),
        "distances": read_table(Difference, page["distances"]),
        "made": {key: Made(**made) for key, made in page["made"].items()},
    }
    return Comparison(**found, results=Results(read_table(Value, page["values"])))


@dataclass
class Candidate:
    """A run that is compared, or a checkpoint of another code.

    Args:
        folder: what the user typed.
        run: its model, on the CPU; None where it cannot be read.
        found: its evaluation; None where it has none, and then `reason` says why.
    """

    folder: Path
    run: LoadedRun | None = None
    found: Evaluation | None = None
    reason: str = ""

    @property
    def only_probed(self) -> bool:
        """Whether it predicts what has no pixels."""
        return self.run is not None and not self.run.model.head.has_pixels


@dataclass(frozen=True)
class RunRow:
    """A row that a run gave; of one that has no evaluation, `found` and `info` are None."""

    candidate: Candidate
    found: Evaluation | None = None
    info: RowInfo | None = None

    @property
    def tensors(self) -> RowTensors | None:
        return (self.found.tensors, self.info.key) if self.found and self.info else None

    @property
    def origin(self) -> Checkpoint | None:
        """Of a checkpoint of another code, what it says of itself: how it was trained is not known."""
        return self.candidate.run.origin if self.candidate.run else None


def rows_of_runs(candidates: list[Candidate]) -> dict[str, RunRow]:
    """Every row of every run by a key that no other row has: run/NAME, oracle/NAME."""
    labels, found = unique_labels([c.folder for c in candidates]), {}
    for c in candidates:
        infos = [row for row in c.found.rows if row.kind == "run"] if c.found else [None]
        found |= {f"{info.key if info else 'run'}/{labels[c.folder]}": RunRow(c, c.found, info) for info in infos}
    return found


def assemble(candidates: list[Candidate], run_rows: dict[str, RunRow], measuring: Measuring) -> Comparison:
    """Puts the evaluations of all runs into one table, with differences that are not yet corrected."""
    first = next(c.found for c in candidates if c.found)
    labels = unique_labels([c.folder for c in candidates])
    measured = {key: tensors for key, row in run_rows.items() if (tensors := row.tensors)}
    rows, values = [], []
    for key, row in run_rows.items():
        c, label = row.candidate, labels[row.candidate.folder]
        if row.found and row.info:
            rows.append(replace(row.info, key=key, label=named(label, row.info.rendering)))
            values += [replace(v, run=label, row=key) for v in row.found.results if v.row == row.info.key]
        else:
            rows.append(RowInfo(key, label, "run", c.reason))
            values += [Value(label, key, column.name, reason=f"not evaluated: {c.reason}") for column in first.columns]
        if key.startswith("run/") and row.origin is None:
            values += training_curves(label, key, c)
    beside = [row for row in first.rows if row.kind != "run"]
    values += [v for v in first.results if v.row in {row.key for row in beside}]
    trained_here = [(f"run/{labels[c.folder]}", c.run) for c in candidates if c.run and not c.run.origin]
    return Comparison(
        title="Comparison of " + ", ".join(labels.values()),
        created=datetime.now().isoformat(timespec="seconds"),
        protocol=first.protocol,
        digest=first.digest,
        caveat=first.caveat,
        columns=first.columns,
        rows=[*rows, *beside],
        results=Results(values),
        best={},
        differences=differences(first.columns, measured),
        distances=distances(first.columns, measured),
        made=runs_made(trained_here, measuring),
        checkpoints={
            key: row.origin.description()
            | {"sha256": row.candidate.run.sha256, "command": command_of(row.candidate.run, measuring)}
            for key, row in run_rows.items()
            if row.found and row.origin and row.candidate.run
        },
    )


def runs_made(runs: list[tuple[str, LoadedRun]], measuring: Measuring) -> dict[str, Made]:
    """How each run was made, by the key of its row."""
    settings = {key: flat(run.settings) for key, run in runs}
    names = dict.fromkeys(name for each in settings.values() for name in each)
    differing = {name for name in names if len({json.dumps(s[name]) for s in settings.values()}) > 1}
    return {
        key: Made(
            expression=run.resolved["objective"],
            differs={
                name: value
                for name, value in settings[key].items()
                if name in differing and name not in ("name", "resume", "loss")
            },
            weights=run.resolved["weights"],
            steps=run.step if run.step is not None else run.resolved["steps"],
            model=run.sha256,
            commands=[written("pretrain", run.settings, leave_out=("resume", "compile")), command_of(run, measuring)],
        )
        for key, run in runs
    }


def command_of(run: LoadedRun, measuring: Measuring) -> str:
    """The command by which recon.evaluate makes the numbers that a run has in this comparison."""
    common = {f.name: getattr(measuring, f.name) for f in fields(Measuring)}
    if not run.model.head.renderings:
        common["render"] = None
    data = run.settings.data
    if run.origin is not None and measuring.data.name is None:  # it took a run's data
        common["data"] = Where(name=data.name, root=measuring.data.root or data.root)
    return written("evaluate", EvaluateSettings(**common, run=str(run.path)))


def unique_labels(folders: list[Path]) -> dict[Path, str]:
    """A run's name, a file's without its suffix; the whole path where two have the same name."""
    names = [folder.resolve().stem if folder.is_file() else folder.resolve().name for folder in folders]
    return {f: name if names.count(name) == 1 else str(f) for f, name in zip(folders, names, strict=True)}


def training_curves(run: str, row: str, candidate: Candidate) -> list[Value]:
    """Gradient norms and cosines over training, thinned to what a plot can show."""
    found = read_metrics(candidate.folder)
    lines = [(step, i) for i, step in enumerate(found.get("step", [])) if step is not None]
    lines = lines[:: -(-len(lines) // POINTS) or 1]
    wanted = [name for name in found if name.endswith("/gradient_norm") or name.startswith("cosine/")]
    columns = {name: [found[name][i] for _, i in lines] for name in wanted}
    return points(run, row, "training", [step for step, _ in lines], **columns)
