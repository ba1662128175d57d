"""What each run in a folder is, how far it has come, and its numbers, read without torch.

Whatever a folder holds becomes a line; of one that cannot be read the line says why.
"""

import json
import os
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from losses import InvalidSetting, nearest
from recon.config import pixels
from recon.console import aligned, one_line
from recon.folder_lock import is_locked
from recon.result_table import from_plain, read_json, rounded
from recon.run_folder import (
    CHECKPOINT,
    CONFIG,
    DIVERGED,
    METRICS,
    MODEL,
    PREVIOUS,
    metric_line_of,
    read_config,
    readable,
)

EVALUATION, PROBE = "evaluation.json", "probe.json"
FILES = (CONFIG, METRICS, MODEL, CHECKPOINT, PREVIOUS)  # a folder with one of them is a run's
PSNR = "held_out/masked_psnr"
MOST = 2**62  # steps, pixels
LONGEST = 60  # characters of a cell of the table


@dataclass(frozen=True)
class ListedRun:
    """A line of the list; None where a run does not have the number.

    Args:
        state: finished, unfinished, running, diverged or unreadable. reason: why, or what can be done about it.
        step: of `steps` optimiser steps; those that are saved, or of a running run those that are logged.
        psnr, detail: of the held-out images in the last picture; masked PSNR in dB, squared gradient over the truth's.
        evaluated_psnr, evaluated_detail: by recon.evaluate, of the first row of the model that is in the folder.
        probe: the best accuracy under the largest share of the labels that recon.probe used. probed: by which probe.
        updated: local time at which the run last wrote something.
    """

    run: str
    path: str
    state: str
    reason: str | None = None
    step: int | None = None
    steps: int | None = None
    objective: str | None = None
    data: str | None = None
    model: str | None = None
    psnr: float | None = None
    detail: float | None = None
    evaluated_psnr: float | None = None
    evaluated_detail: float | None = None
    probe: float | None = None
    probed: str | None = None
    updated: str | None = None


COLUMNS = tuple(f.name for f in fields(ListedRun))
# Of the table; left out where no run has it.
TITLES = {"evaluated_psnr": "eval. psnr", "evaluated_detail": "eval. detail"}
SHOWN = ("run", "objective", "data", "model", "steps", "psnr", "detail", *TITLES, "probe")
DIGITS = {"psnr": 2, "evaluated_psnr": 2}


def list_runs(folders: Iterable[Path]) -> list[ListedRun]:
    """The runs in the folders, each once, by folder and name; a folder that is itself a run is listed too.

    Raises InvalidSetting where a folder cannot be read.
    """
    found = {}
    for folder in folders:
        try:
            inside = [folder] if is_run(folder) else sorted(path for path in folder.iterdir() if path.is_dir())
        except OSError as error:
            raise InvalidSetting(f"{folder} cannot be listed ({error.strerror}); give a folder of runs") from error
        found |= {path.resolve(): path for path in inside if is_run(path)}
    return [describe(path) for path in found.values()]


def is_run(folder: Path) -> bool:
    return any(os.path.lexists(folder / name) for name in FILES)


def describe(folder: Path) -> ListedRun:
    """One run; nothing in its files raises."""
    run = ListedRun(folder.resolve().name, str(folder), "unreadable")
    try:
        run = replace(run, **settings_of(folder))
        run = replace(run, **progress_of(folder, run.steps or 0))
    except (InvalidSetting, OSError) as error:
        return replace(run, state="unreadable", reason=str(error))
    reasons = [run.reason] if run.reason else []
    for read in (evaluation_of, probe_of):
        try:
            run = replace(run, **read(folder))
        except (InvalidSetting, OSError) as error:
            reasons.append(str(error))
    return replace(run, reason="; ".join(reasons) or None)


def settings_of(folder: Path) -> dict[str, Any]:
    """What config.yaml says, and when the run last wrote something."""
    path = regular(folder / CONFIG)
    with readable(path):
        config = read_config(folder)
        height, width = pixels(config["data"]["image_size"])
        size = f"{height}" if height == width else f"{height}x{width}"
        patch = from_plain(int | None, config["model"]["patch_size"])
        written = [file.stat().st_mtime for name in FILES if (file := folder / name).is_file()]
        return {
            "objective": from_plain(str, config["resolved"]["objective"]),
            "steps": count(config["resolved"]["steps"]),
            "data": from_plain(str, config["data"]["name"]),
            "model": from_plain(str, config["model"]["name"]) + (f"/{count(patch)}" if patch else "") + f" at {size}",
            "updated": datetime.fromtimestamp(max(written)).isoformat(sep=" ", timespec="seconds"),
        }


def progress_of(folder: Path, steps: int) -> dict[str, Any]:
    """State, steps, and the figures of the last picture."""
    saved = saved_step(folder)
    with readable(folder / METRICS):
        text = (folder / METRICS).read_text(errors="replace") if (folder / METRICS).is_file() else ""
        lines = text.splitlines()
        logged = count(last(lines).get("step", 0))
        pictured = last([line for line in lines if PSNR in line])
        found = {"psnr": rounded(pictured.get(PSNR)), "detail": rounded(pictured.get("held_out/detail"))}
    step = logged if saved is None else saved
    found |= {"step": step}
    if is_locked(folder):
        return found | {"step": max(logged, saved or 0), "state": "running"}
    if (folder / DIVERGED).is_file():
        with readable(folder / DIVERGED):
            return found | {"state": "diverged", "reason": (folder / DIVERGED).read_text(errors="replace").strip()}
    if step >= steps and (folder / MODEL).is_file():
        return found | {"state": "finished"}
    checkpoints = [path for name in (CHECKPOINT, PREVIOUS) if (path := folder / name).is_file()]
    if any(zipfile.is_zipfile(path) for path in checkpoints):
        return found | {"state": "unfinished", "reason": "resumable"}
    if checkpoints:
        raise InvalidSetting(f"{checkpoints[0]} is cut short or damaged")
    return found | {"state": "unfinished", "reason": "it has no checkpoint to resume from"}


def saved_step(folder: Path) -> int | None:
    """The step at which model.safetensors was written; None where there is none, or it does not say."""
    if not os.path.lexists(folder / MODEL):
        return None
    path = regular(folder / MODEL)
    with readable(path), path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(length, path.stat().st_size)))
        step = header.pop("__metadata__", {}).get("step")
        if 8 + length + max(tensor["data_offsets"][1] for tensor in header.values()) != path.stat().st_size:
            raise ValueError("it is cut short")
        return None if step is None else count(int(step))


def evaluation_of(folder: Path) -> dict[str, Any]:
    """What recon.evaluate found of the model that is in the folder."""
    if not os.path.lexists(folder / EVALUATION):
        return {}
    path = regular(folder / EVALUATION)
    with readable(path):
        page = read_json(path)
        if page["model"]["step"] != saved_step(folder):
            return {}
        first = next((row["key"] for row in page["rows"] if row["kind"] == "run"), None)
        of_row = [v for v in page["values"] if v["row"] == first and not v.get("variant")]
        values = {v["metric"]: v.get("value") for v in of_row}
        return {
            "evaluated_psnr": rounded(values.get("masked_psnr")),
            "evaluated_detail": rounded(values.get("detail")),
        }


def probe_of(folder: Path) -> dict[str, Any]:
    """The best of what recon.probe found of the run's encoder under the largest share of the labels."""
    if not os.path.lexists(folder / PROBE):
        return {}
    path = regular(folder / PROBE)
    with readable(path):
        found = [
            (
                from_plain(float, entry["fraction"]),
                from_plain(float, entry["value"]),
                from_plain(str, entry["question"]),
            )
            for entry in read_json(path)["results"]
            if entry.get("encoder", entry.get("contestant")) == "run" and entry["fraction"]  # 0: without labels
        ]
        if not found:
            return {}
        _, accuracy, question = max(found)
        return {"probe": rounded(accuracy), "probed": question}


def regular(path: Path) -> Path:
    """The path itself; InvalidSetting where it is no regular file, which may block whoever reads it."""
    if not path.is_file():
        raise InvalidSetting(f"{path} is {'no regular file' if os.path.lexists(path) else 'not there'}")
    return path


def last(lines: list[str]) -> dict[str, Any]:
    """The last whole line of metrics.jsonl among the lines; {} where there is none."""
    return next((values for line in reversed(lines) if (values := metric_line_of(line))), {})


def count(value: Any) -> int:
    """A number of steps or pixels."""
    if not 0 <= from_plain(int, value) <= MOST:
        raise ValueError("a number is out of range")
    return value


def ordered(runs: list[ListedRun], column: str | None) -> list[ListedRun]:
    """The runs by a column: numbers and dates from the highest, texts by the alphabet, what has none at the end."""
    if column is None:
        return runs
    if column not in COLUMNS:
        raise InvalidSetting(f"sort={column}: there is no such column{nearest(column, COLUMNS)} ({', '.join(COLUMNS)})")
    have = [run for run in runs if getattr(run, column) is not None]
    falls = column == "updated" or any(not isinstance(getattr(run, column), str) for run in have)
    have.sort(key=lambda run: getattr(run, column), reverse=falls)
    return have + [run for run in runs if getattr(run, column) is None]


def as_json(runs: list[ListedRun]) -> str:
    """A list of objects with all columns."""
    return json.dumps([asdict(run) for run in runs], indent=1, allow_nan=False)


def as_table(runs: list[ListedRun]) -> str:
    """A line for each run, by its path where two have one name; columns that no run fills are left out."""
    if len({run.run for run in runs}) < len(runs):
        runs = [replace(run, run=run.path) for run in runs]
    shown = [column for column in SHOWN if any(getattr(run, column) is not None for run in runs)]
    head = [TITLES.get(column, column) for column in [*shown, "state"]]
    left = [i for i, name in enumerate(head) if name in ("run", "objective", "data", "model", "state")]
    return aligned([head, *([*(cell(run, column) for column in shown), state(run)] for run in runs)], left)


def cell(run: ListedRun, column: str) -> str:
    value = getattr(run, column)
    if column == "steps":
        return "" if run.step is None else f"{run.step}/{run.steps}"
    if isinstance(value, float):
        return f"{value:.{DIGITS.get(column, 3)}f}"
    text = one_line(value or "")
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def state(run: ListedRun) -> str:
    return f"{run.state}: {run.reason}" if run.reason else run.state
