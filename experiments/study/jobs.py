"""The commands of a study: which are still to be run, and several of them at a time until the time is over."""

import hashlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.study.definition import Plain
from losses import InvalidSetting
from recon.cli import SHORT
from recon.console import command_line
from recon.evaluation import results
from recon.loaded_run import load_run
from recon.probing import probe_results
from recon.probing.features import ProbedEncoder
from recon.run_folder import CHECKPOINT, MODEL, RUNS
from recon.saved_settings import flattened

GRACE = 120  # seconds that a run has to save itself
POLL = 0.2  # seconds


@dataclass(frozen=True)
class Job:
    """`python -m recon.MODULE` with `settings`; its output goes to `log`."""

    module: str
    settings: Plain
    log: Path

    @property
    def command(self) -> str:
        return command_line(self.module, self.settings)


@dataclass(frozen=True)
class Later:
    """Nothing can be done for a run yet; `why`: what it waits for."""

    why: str


# What is to be done next for a run; None: nothing more.
NextJob = Callable[[], Job | Later | None]


def training(settings: Plain, device: Plain) -> Job | Later | None:
    """What trains a run to its end, from its checkpoint where there is one; None where it is finished.

    A run that starts from another one (`init`) waits until that is trained to its end.

    Raises:
        InvalidSetting: there is a run of that name with other settings.
    """
    name = settings["name"]
    folder = RUNS / name
    if (folder / MODEL).exists():
        run = load_run(folder)
        found = flattened(asdict(run.settings))
        wanted = {full_key(key): value for key, value in settings.items()}
        if odd := sorted(key for key, value in wanted.items() if key in found and not _same(found[key], value)):
            raise InvalidSetting(
                f"{folder} was trained with another {', '.join(odd)}; move it away, or give the run another name"
            )
        if run.unfinished is None:
            return None
    going_on, start = (folder / CHECKPOINT).exists(), Path(settings.get("init", "none"))
    if start.parent == RUNS and not (going_on or _trained(start)):
        return Later(f"{name} starts from {start}, which is not trained to its end")
    given = {"name": name, "resume": True} if going_on else settings | device
    return Job("pretrain", given, RUNS / f"{name}.log")


def _trained(folder: Path) -> bool:
    return (folder / MODEL).exists() and load_run(folder).unfinished is None


def evaluation(name: str, settings: Plain) -> Job | None:
    """What evaluates a trained run; None where that is done, or where it predicts what has no pixels."""
    if not load_run(RUNS / name).model.head.has_pixels:
        return None
    found = results.read(RUNS / name)
    sha256 = hashlib.sha256((RUNS / name / MODEL).read_bytes()).hexdigest()
    if found and found.model["sha256"] == sha256 and _agree(found.measuring, settings):
        return None
    return Job("evaluate", {"run": str(RUNS / name)} | settings, RUNS / f"{name}.evaluate.log")


def probing(name: str, settings: Plain) -> Job | None:
    """What probes a trained run; None where that is done."""
    found = probe_results.read(RUNS / name)
    if found and _agree(found.settings, settings):
        run = load_run(RUNS / name)
        if found.checksum == ProbedEncoder("run", run.name, run.model).checksum:
            return None
    return Job("probe", {"run": str(RUNS / name), "again": True} | settings, RUNS / f"{name}.probe.log")


def _agree(saved: Plain, given: Plain) -> bool:
    """Whether saved settings are those given, wherever the results depend on them."""
    found = flattened(saved)
    return all(_same(found.get(full_key(key)), value) for key, value in given.items() if key != "device")


def full_key(key: str) -> str:
    return SHORT.get(key, key)


def _same(a: Any, b: Any) -> bool:
    """Whether two values of a setting are one, a file's path written one way or another."""
    if isinstance(a, str) and isinstance(b, str):
        return a == b or Path(a).resolve() == Path(b).resolve()
    return a == b


def work(runs: Iterable[NextJob], at_once: int, deadline: float) -> list[Job]:
    """Does the jobs of runs, `at_once` at a time, those of one run after another; returns those that failed.

    A run whose job fails is left; the others go on. Each job has its share of the processors.

    Args:
        runs: each says what is to be done next for a run, called again after that.

    Raises:
        InvalidSetting: a run waits for what none of the runs does.
        TimeoutError: `deadline` (of time.monotonic) has come. Trainings have saved themselves then.
    """
    waiting, running, failed, later = list(runs), {}, [], {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                run = waiting.pop(0)
                if time.monotonic() > deadline:
                    raise TimeoutError
                match run():
                    case Job() as job:
                        running[_start(job, at_once)] = job, run
                    case Later(why):
                        later[run] = why
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(POLL if running else 0)
            for process in [process for process in running if process.poll() is not None]:
                job, run = running.pop(process)
                print(f"{'done' if process.returncode == 0 else 'FAILED'}  {job.command}", flush=True)
                if process.returncode:
                    failed.append(job)
                else:
                    waiting[:0] = [run, *later]  # which may have waited for this one
                    later.clear()
        if later and not failed:
            raise InvalidSetting(next(iter(later.values())))
    finally:  # also after Ctrl-C
        _stop(list(running))
    return failed


def _start(job: Job, at_once: int) -> subprocess.Popen[bytes]:
    threads = max(1, (os.cpu_count() or 1) // at_once)
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    job.log.parent.mkdir(parents=True, exist_ok=True)
    print(f"begun {job.command}", flush=True)
    with job.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *shlex.split(job.command)[1:]],
            stdout=log, stderr=log, env=environment, start_new_session=True,
        )  # fmt: skip


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Asks processes to save themselves and end; kills those that do not."""
    for process in processes:
        process.send_signal(signal.SIGTERM)
    until = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
