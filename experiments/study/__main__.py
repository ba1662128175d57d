"""Trains, measures and records the runs of a study; goes on where it was stopped.

    python -m experiments.study objectives data.root=imagenette-160.pack jobs=2 minutes=120
    python -m experiments.study --list
    python -m experiments.study objectives columns=masked_psnr,lpips

A study is a YAML file in experiments/studies, or one that is named by its path. Its runs are runs/STUDY-VARIANT-SEED,
or another study's. When one is trained, evaluated and probed, its numbers go to experiments/records/STUDY/values
(out=FOLDER: there), and this study needs the run no more: it goes on from them on another machine too. As soon as a
run of the reference is measured, the record is written beside them, from the runs that are there; when all are, a
second call changes nothing.

- jobs=N: so many commands at a time, each with its share of the cores. 1 where nothing is said.
- minutes=M: stops after that; runs save themselves, and the same command goes on with them to the same bits.
- device=, data.root=, lpips.weights=, features.weights=: as of recon.pretrain and recon.evaluate.
- columns=A,B: prints these columns of the record's table, and does nothing else. Tables of docs/study.md are from it.
"""

import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.study import record, run_values
from experiments.study.definition import RECORDS, Plain, Study, names, path_of, read
from experiments.study.jobs import Job, Later, NextJob, evaluation, probing, training, work
from experiments.study.run_values import RunValues
from losses import InvalidSetting, nearest
from recon.run_folder import MODEL, RUNS

KEYS = ("data.root", "device", "jobs", "minutes", "out", "columns", "lpips.weights", "features.weights")


def main(words: Sequence[str]) -> int:
    """Returns 0: finished; 1: a command failed; 75: the time is over, call it again.

    Raises:
        InvalidSetting: a setting, a study's file or a run that cannot be used.
    """
    if list(words) == ["--list"]:
        print("\n".join(map(listed, names())))
        return 0
    name, given = understood(words)
    path = path_of(name)
    name, study, digest = path.stem, read(path), hashlib.sha256(path.read_bytes()).hexdigest()
    folder = Path(given.get("out", RECORDS / name))
    if "columns" in given:
        print("\n".join(record.excerpt(study, measured(folder, name, study), given["columns"].split(","))))
        return 0
    if recorded(folder, digest):
        print(f"{folder} is finished")
        return 0
    jobs = int(_number(given, "jobs", 1, 256))
    deadline = time.monotonic() + 60 * _number(given, "minutes", 60 * 24 * 365, 60 * 24 * 365)
    runs = [next_job(study, folder, variant, settings, given) for (variant, _), settings in study.runs(name).items()]
    try:
        failed, over = work(runs, jobs, deadline), False
    except TimeoutError:
        failed, over = [], True
    for job in failed:
        print(f"failed: {job.command}\n  see {job.log}: {_last_line(job.log)}", file=sys.stderr)
    of_runs = measured(folder, name, study)
    if any(variant == study.reference for variant, _ in of_runs):
        places = [key for key in given if key.endswith((".root", ".weights"))]
        record.write(folder, name, study, of_runs, digest, places)
        print(folder / "README.md")
    if over:
        print(f"the time is over; the same command goes on\n{listed(name, path)}")
        return 75
    if failed:
        return 1
    if missing := [f"{variant}-{seed}" for variant, seed in study.runs(name) if (variant, seed) not in of_runs]:
        raise InvalidSetting(
            f"{name} measures the runs of {study.runs_of}, which lacks {', '.join(missing)}; go on there"
        )
    return 0


def measured(folder: Path, name: str, study: Study) -> dict[tuple[str, int], RunValues]:
    """What the runs gave that are measured as the study's file has it now, by variant and seed."""
    found = {of: run_values.current(run_values.path_in(folder, *of), study, s) for of, s in study.runs(name).items()}
    return {of: values for of, values in found.items() if values is not None}


def next_job(study: Study, folder: Path, variant: str, settings: Plain, given: dict[str, str]) -> NextJob:
    """What is still to be done for a run: training, evaluation, probing; then its values are written.

    With `runs_of`, nothing where the run is not trained.
    """
    seed, name = settings["seed"], settings["name"]
    path = run_values.path_in(folder, variant, seed)

    def find() -> Job | Later | None:
        if run_values.current(path, study, settings) is not None:
            return None
        job = training(settings | _given(given, "data.root"), _given(given, "data.root", "device"))
        if job and study.runs_of:
            return None
        if job is None and study.evaluate is not None:
            places = _given(given, "device", "data.root", "lpips.weights", "features.weights")
            job = evaluation(name, study.evaluate | places)
        if job is None and study.probe is not None:
            job = probing(name, study.probe | _given(given, "device"))
        if job is None:
            run_values.write(path, run_values.measure(study, variant, settings, pictures=seed == study.seeds[0]))
        return job

    return find


def listed(name: str, path: Path | None = None) -> str:
    """A line about a study: how many of its runs are finished, and whether it is recorded."""
    path = path or path_of(name)
    study = read(path)
    runs = study.runs(name)
    begun = sum((RUNS / settings["name"] / MODEL).exists() for settings in runs.values())
    measured = sum(run_values.path_in(RECORDS / name, *of).exists() for of in runs)
    done = recorded(RECORDS / name, hashlib.sha256(path.read_bytes()).hexdigest())
    state = f"recorded in {RECORDS.name}/{name}" if done else f"{measured} of {len(runs)} runs measured, {begun} here"
    return f"{name:20} {state:40} {' '.join(study.question.split())[:80]}"


def recorded(folder: Path, digest: str) -> bool:
    """Whether the folder holds a whole record of the study's file as it is now."""
    page = folder / "README.md"
    return page.is_file() and record.finished(digest) in page.read_text()


def understood(words: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The study's name and the settings."""
    bare = [word for word in words if "=" not in word]
    if len(bare) != 1:
        raise InvalidSetting(f"name one study (studies: {', '.join(names())}); --list says how far each is")
    given = dict(word.split("=", 1) for word in words if "=" in word)
    if unknown := next((key for key in given if key not in KEYS), None):
        raise InvalidSetting(f"'{unknown}' is no setting{nearest(unknown, KEYS)} (settings: {', '.join(KEYS)})")
    return bare[0], given


def _number(given: dict[str, str], key: str, default: float, most: float) -> float:
    try:
        number = float(given.get(key, default))
    except ValueError:
        number = 0.0
    if not 0 < number <= most:
        raise InvalidSetting(f"{key}={given[key]} must be a number above 0 and at most {most:g}")
    return number


def _given(given: dict[str, str], *keys: str) -> dict[str, str]:
    return {key: given[key] for key in keys if key in given}


def _last_line(path: Path) -> str:
    return (path.read_text(errors="replace").strip().splitlines() or [""])[-1][:300]


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
    except InvalidSetting as error:
        print(error, file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        status = 130
    sys.exit(status)
