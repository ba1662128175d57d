"""The comparison as data, from which the page, the tables and the plots are made; comparison.json holds it."""

import json
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from recon.comparison.differences import RowTensors, best, differences
from recon.comparison.gather import Candidate
from recon.console import written
from recon.evaluation.protocol import Protocol
from recon.evaluation.results import Evaluation
from recon.evaluation.rows import named
from recon.result_table import (
    Column,
    Comparison,
    Difference,
    Made,
    Results,
    RowInfo,
    Value,
    as_json,
    points,
    read_table,
)
from recon.runs import read_metrics
from recon.saved_settings import flat
from recon.study_config import EvaluateSettings, Measuring, Where

FORMAT = "recon comparison 2"
POINTS = 500  # of a training curve


def comparison_json(comparison: Comparison, files: list[str]) -> str:
    """comparison.json, with the names of the files beside it."""
    tables = {name: getattr(comparison, name) for name in ("columns", "rows", "differences")}
    head = {f.name: getattr(comparison, f.name) for f in fields(comparison) if f.name not in (*tables, "results")}
    head |= {"protocol": asdict(comparison.protocol), "made": {key: vars(m) for key, m in comparison.made.items()}}
    return as_json({"format": FORMAT} | head | {"files": files}, tables | {"values": comparison.results})


def read_comparison(path: Path) -> Comparison:
    """A comparison.json.

    Raises:
        OSError, ValueError, TypeError, KeyError: there is none, or it is of another format.
    """
    page = json.loads(path.read_text())
    if page["format"] != FORMAT:
        raise ValueError(f"its format is {page['format']}")
    size = tuple(page["protocol"]["image_size"])
    found = {f.name: page[f.name] for f in fields(Comparison) if f.name != "results"} | {
        "protocol": Protocol(**page["protocol"] | {"image_size": size}),
        "columns": read_table(Column, page["columns"]),
        "rows": read_table(RowInfo, page["rows"]),
        "differences": read_table(Difference, page["differences"]),
        "made": {key: Made(**made) for key, made in page["made"].items()},
    }
    return Comparison(**found, results=Results(read_table(Value, page["values"])))


@dataclass(frozen=True)
class RunRow:
    """A row that a run gave: the `row` of its evaluation, which is `found`; None where it has none."""

    candidate: Candidate
    row: str

    @property
    def found(self) -> Evaluation | None:
        return self.candidate.found

    @property
    def info(self) -> RowInfo:
        return next(row for row in self.found.rows if row.key == self.row)

    @property
    def trained_here(self) -> bool:
        """Whether its run was trained by this program: only then is it known how."""
        return self.candidate.run is None or self.candidate.run.origin is None


def rows_of_runs(candidates: list[Candidate]) -> dict[str, RunRow]:
    """Every row of every run by a key that no other row has: run/NAME, oracle/NAME."""
    labels = unique_labels([c.folder for c in candidates])
    return {
        f"{key}/{labels[c.folder]}": RunRow(c, key)
        for c in candidates
        for key in ([row.key for row in c.found.rows if row.kind == "run"] if c.found else ["run"])
    }


def assemble(candidates: list[Candidate], run_rows: dict[str, RunRow], measuring: Measuring) -> Comparison:
    """Puts the evaluations of all runs into one table, with differences and the best rows."""
    first = next(c.found for c in candidates if c.found)
    labels = unique_labels([c.folder for c in candidates])
    measured: dict[str, RowTensors] = {key: (row.found.tensors, row.row) for key, row in run_rows.items() if row.found}
    ranked = {key: row for key, row in measured.items() if row[1] != "oracle"}  # an oracle has seen the answer
    rows, values = [], []
    for key, row in run_rows.items():
        label = labels[row.candidate.folder]
        if row.found:
            rows.append(replace(row.info, key=key, label=named(label, row.info.rendering)))
            values += [replace(v, run=label, row=key) for v in row.found.results if v.row == row.row]
        else:
            reason = row.candidate.reason
            rows.append(RowInfo(key, label, "run", reason))
            values += [Value(label, key, column.name, reason=f"not evaluated: {reason}") for column in first.columns]
        if row.row == "run" and row.trained_here:
            values += training_curves(label, key, row.candidate)
    beside = [row for row in first.rows if row.kind != "run"]
    values += [v for v in first.results if v.row in {row.key for row in beside}]
    return Comparison(
        title="Comparison of " + ", ".join(labels.values()),
        created=datetime.now().isoformat(timespec="seconds"),
        protocol=first.protocol,
        digest=first.digest,
        caveat=first.caveat,
        columns=first.columns,
        rows=[*rows, *beside],
        results=Results(values),
        best={column.name: best(column, ranked) for column in first.columns},
        differences=differences(first.columns, measured),
        made={f"run/{label}": made for label, made in runs_made(candidates, labels, measuring).items()},
        checkpoints=checkpoints(run_rows, measuring),
    )


def runs_made(candidates: list[Candidate], labels: dict[Path, str], measuring: Measuring) -> dict[str, Made]:
    """How each run was made, by its label."""
    opened = [c for c in candidates if c.run and c.run.origin is None]
    settings = {c.folder: flat(c.run.settings) for c in opened}
    differing = {
        key for each in settings.values() for key in each if len({json.dumps(s[key]) for s in settings.values()}) > 1
    }
    found = {}
    for c in opened:
        run, own = c.run, settings[c.folder]
        found[labels[c.folder]] = Made(
            expression=run.resolved["objective"],
            differs={key: own[key] for key in own if key in differing and key not in ("name", "resume", "loss")},
            weights=run.resolved["weights"],
            steps=run.step if run.step is not None else run.resolved["steps"],
            model=run.sha256,
            commands=[
                written("pretrain", run.settings, leave_out=("resume", "compile")),
                written("evaluate", evaluation_of(c, measuring)),
            ],
        )
    return found


def checkpoints(run_rows: dict[str, RunRow], measuring: Measuring) -> dict[str, dict[str, Any]]:
    """What is known of other codes' checkpoints, by the key of their rows, and the command that evaluates them."""
    found = {}
    for key, row in run_rows.items():
        if row.found and not row.trained_here:
            run = row.candidate.run
            found[key] = run.origin.description() | {
                "sha256": run.sha256,
                "command": written("evaluate", evaluation_of(row.candidate, measuring)),
            }
    return found


def evaluation_of(candidate: Candidate, measuring: Measuring) -> EvaluateSettings:
    """The settings under which recon.evaluate makes the numbers of this comparison."""
    common = {f.name: getattr(measuring, f.name) for f in fields(Measuring)}
    if not candidate.run.model.head.renderings:
        common["render"] = None
    data = candidate.run.settings.data
    if candidate.run.origin is not None and measuring.data.name is None:  # it took a run's data
        common["data"] = Where(name=data.name, root=measuring.data.root or data.root)
    return EvaluateSettings(**common, run=str(candidate.folder))


def unique_labels(folders: list[Path]) -> dict[Path, str]:
    """A run's name, a file's without its suffix; the whole path where two have the same name."""
    names = [folder.resolve().stem if folder.is_file() else folder.resolve().name for folder in folders]
    return {f: name if names.count(name) == 1 else str(f) for f, name in zip(folders, names, strict=True)}


def training_curves(run: str, row: str, candidate: Candidate) -> list[Value]:
    """Gradient norms and cosines over training, thinned to what a plot can show."""
    found = read_metrics(candidate.folder)
    steps = found.get("step", [])
    stride = -(-len(steps) // POINTS) or 1
    wanted = [name for name in found if name.endswith("/gradient_norm") or name.startswith("cosine/")]
    return points(run, row, "training", steps[::stride], **{name: found[name][::stride] for name in wanted})
