"""Sweeps through Hydra's launchers: which can be used, how its jobs report their exit status, and what ends it."""

import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

from losses import InvalidSetting
from recon.console import under_torchrun

# Launcher -> its package, and the extra of this package that installs it. Hydra's own, "basic", runs jobs in turn here.
LAUNCHERS = {
    "joblib": ("hydra-joblib-launcher", "sweep"),
    "submitit_local": ("hydra-submitit-launcher", "slurm"),
    "submitit_slurm": ("hydra-submitit-launcher", "slurm"),
}
LOGS = Path("runs/.submitit")
ENDED = "the sweep has ended with all its runs; their last checkpoints stand, go on with each by name=NAME resume=true"
NOT_WAITING = f"no longer waiting; jobs that were submitted go on, and log to {LOGS}"


def launcher_of(arguments: list[str]) -> str:
    """The Hydra launcher that was asked for; InvalidSetting where its package is missing, or it has no sweep."""
    given = [word.partition("=")[2] for word in arguments if word.startswith("hydra/launcher=")]
    if not given or given[-1] == "basic":
        return "basic"
    word = f"hydra/launcher={given[-1]}"
    if given[-1] in LAUNCHERS:
        package, extra = LAUNCHERS[given[-1]]
        try:
            version(package)
        except PackageNotFoundError:
            raise InvalidSetting(f"{word} needs the package {package}: pip install 'recon[{extra}]'") from None
    if not {"-m", "--multirun"} & set(arguments):
        raise InvalidSetting(f"{word} launches the runs of a sweep: add -m")
    for many in ("nodes", "tasks_per_node"):
        if any(word.startswith(f"hydra.launcher.{many}=") and not word.endswith("=1") for word in arguments):
            raise InvalidSetting(f"hydra.launcher.{many}: each run of a sweep is one process; set it to 1")
    if under_torchrun():
        raise InvalidSetting(f"{word} starts processes itself: not under torchrun")
    return given[-1]


@contextmanager
def folder_of(launcher: str) -> Iterator[Path]:
    """A temporary folder that all jobs of a sweep see, on a cluster also from other machines."""
    if submitted := launcher.startswith("submitit"):
        LOGS.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=LOGS.absolute() if submitted else None, prefix="sweep-") as folder:
        yield Path(folder)


def report(folder: Path, status: int, line: str) -> None:
    """Keeps a job's exit status, and the line that says why it could not run."""
    with NamedTemporaryFile("w", dir=folder, suffix=".ended", delete=False) as file:
        file.write(f"{status}\n{line}")


def launch(jobs: Callable[[], None], launcher: str, folder: Path) -> int:
    """Calls `jobs` and returns the worst exit status; a launcher's own end is told in one line."""

    def end(number: int, _: object) -> None:
        print(ENDED if launcher == "joblib" else NOT_WAITING, file=sys.stderr, flush=True)
        sys.exit(128 + number)

    before = {n: signal.signal(n, end) for n in (signal.SIGINT, signal.SIGTERM) if launcher != "basic"}
    why = ""
    try:
        jobs()
    except BrokenExecutor:
        why = f"a run was killed: {ENDED}"
    except RuntimeError as error:
        if type(error).__module__ != "submitit.core.utils":
            raise
        why = f"{str(error).splitlines()[0]}; logs are in {LOGS}"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    ended = [path.read_text().partition("\n") for path in folder.glob("*.ended")]
    lines = {line for *_, line in ended if line} if launcher.startswith("submitit") else set()
    for line in sorted(lines | {why} - {""}):
        print(line, file=sys.stderr, flush=True)
    return max([int(bool(why)), *(int(status) for status, *_ in ended)])
