"""The comparison as plain data: what the page, the tables and the plots are made of (comparison.json)."""

import json
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from recon.comparison.differences import Row, best, differences
from recon.comparison.gather import Candidate
from recon.evaluation.results import Record, no_value
from recon.evaluation.rows import named
from recon.loaded_run import curves
from recon.runs import flat
from recon.study_config import EvaluateSettings, Measuring, Where
from recon.usage import written

FORMAT = "recon comparison 1"
POINTS = 500  # of a training curve
PLOTTED = {
    "bands": "bands",
    "by_distance": "by_distance",
    "by_ratio": "by_ratio",
    "spectra": "spectrum",
    "planes": "plane",
    "blends": "blend",
    "calibration": "calibration",
}


@dataclass(frozen=True)
class Learnt:
    """A row that a run gave: the `row` of its evaluation, which is `found`; None where it has none."""

    candidate: Candidate
    row: str

    @property
    def found(self) -> Record | None:
        return self.candidate.found


def of_run(row: Learnt) -> bool:
    """Whether a row's run was trained here: only then is it known how."""
    return row.candidate.subject is None or row.candidate.subject.trained.origin is None


def learnt_rows(candidates: list[Candidate]) -> dict[str, Learnt]:
    """Every row of every run by a key that no other row has: run/NAME, oracle/NAME."""
    labels = unique_labels([c.folder for c in candidates])
    return {
        f"{key}/{labels[c.folder]}": Learnt(c, key)
        for c in candidates
        for key, row in (c.found.page["rows"] if c.found else {"run": {"kind": "run"}}).items()
        if row["kind"] == "run"
    }


def assemble(candidates: list[Candidate], learnt: dict[str, Learnt], measuring: Measuring) -> dict[str, Any]:
    """Rows of all runs, then the simple reconstructions, which every evaluation has alike, then the truth."""
    first = next(c.found for c in candidates if c.found)
    metrics, labels = first.page["metrics"], unique_labels([c.folder for c in candidates])
    measured: dict[str, Row] = {key: (row.found, row.row) for key, row in learnt.items() if row.found}
    beside = {key: row for key, row in first.page["rows"].items() if row["kind"] != "run"}
    pages = {key: (row.found.page["rows"][row.row] if row.found else None) for key, row in learnt.items()} | beside
    reasons = {key: row.candidate.reason for key, row in learnt.items()}
    return {
        "format": FORMAT,
        "created": datetime.now().isoformat(timespec="seconds"),
        "title": "Comparison of " + ", ".join(labels.values()),
        "protocol": first.page["protocol"],
        "metrics": metrics,
        "rows": [_row(key, page, metrics, reasons.get(key)) for key, page in pages.items()],
        # An oracle has seen the answer: it is measured, and takes part in no contest.
        "best": {
            metric["name"]: best(metric, {key: row for key, row in measured.items() if row[1] != "oracle"})
            for metric in metrics
        },
        "differences": differences(metrics, measured),
        "training": {key: _training(row.candidate) for key, row in learnt.items() if row.row == "run" and of_run(row)},
        "made": {f"run/{label}": made for label, made in made(candidates, labels, measuring).items()},
        "checkpoints": checkpoints(learnt, measuring),
        **{
            plot: {key: page[name] for key, page in pages.items() if page and page[name]}
            for plot, name in PLOTTED.items()
        },
    }


def made(candidates: list[Candidate], labels: dict[Path, str], measuring: Measuring) -> dict[str, dict[str, Any]]:
    """How each run came about: its objective, the settings that differ between runs, weights, commands."""
    opened = [c for c in candidates if c.subject and c.subject.trained.origin is None]
    settings = {c.folder: flat(c.subject.trained.settings) for c in opened}
    differing = {
        key for each in settings.values() for key in each if len({json.dumps(s[key]) for s in settings.values()}) > 1
    }
    found = {}
    for c in opened:
        trained, own = c.subject.trained, settings[c.folder]
        found[labels[c.folder]] = {
            "expression": trained.resolved["objective"],
            "differs": {key: own[key] for key in own if key in differing and key not in ("name", "resume", "loss")},
            "weights": trained.resolved["weights"],
            "steps": trained.step if trained.step is not None else trained.resolved["steps"],
            "model": trained.sha256,
            "commands": [
                written("pretrain", trained.settings, leave_out=("resume", "compile")),
                written("evaluate", evaluation_of(c, measuring)),
            ],
        }
    return found


def checkpoints(learnt: dict[str, Learnt], measuring: Measuring) -> dict[str, dict[str, Any]]:
    """What is known of the checkpoints of others, by the key of their rows, and the command that evaluates them."""
    found = {}
    for key, row in learnt.items():
        if row.found and not of_run(row):
            trained = row.candidate.subject.trained
            found[key] = trained.origin.description() | {
                "sha256": trained.sha256,
                "command": written("evaluate", evaluation_of(row.candidate, measuring)),
            }
    return found


def evaluation_of(candidate: Candidate, measuring: Measuring) -> EvaluateSettings:
    """The settings under which recon.evaluate makes the numbers of this comparison."""
    common = {f.name: getattr(measuring, f.name) for f in fields(Measuring)}
    if not candidate.subject.trained.model.head.renderings:
        common["render"] = None
    data = candidate.subject.trained.settings.data
    if candidate.subject.trained.origin is not None and measuring.data.name is None:  # it took a run's data
        common["data"] = Where(name=data.name, root=measuring.data.root or data.root)
    return EvaluateSettings(**common, run=str(candidate.folder))


def unique_labels(folders: list[Path]) -> dict[Path, str]:
    """A run's name, a file's without its suffix; the whole path where two have the same name."""
    names = [folder.resolve().stem if folder.is_file() else folder.resolve().name for folder in folders]
    return {f: name if names.count(name) == 1 else str(f) for f, name in zip(folders, names, strict=True)}


def _row(key: str, page: dict[str, Any] | None, metrics: list[dict[str, Any]], reason: str | None) -> dict[str, Any]:
    if page is None:
        nothing = {metric["name"]: no_value(f"not evaluated: {reason}") for metric in metrics}
        return {"key": key, "label": key.partition("/")[2], "kind": "run", "note": reason, "values": nothing}
    name = key.partition("/")[2]
    label = named(name, page["rendering"]) if page["kind"] == "run" else page["label"]
    return {"key": key, "label": label} | {name: page[name] for name in ("kind", "note", "values")}


def _training(candidate: Candidate) -> dict[str, Any]:
    """Gradient norms and cosines over training, thinned to what a plot can show."""
    found = curves(candidate.folder)
    steps = found.get("step", [])
    stride = -(-len(steps) // POINTS) or 1
    wanted = [name for name in found if name.endswith("/gradient_norm") or name.startswith("cosine/")]
    return {"step": steps[::stride], "curves": {name: found[name][::stride] for name in wanted}}
