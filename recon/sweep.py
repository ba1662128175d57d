"""The jobs of one command: here one after the other, or in processes of their own through Hydra's launchers.

A job tells what became of it in a file of a folder that all of them see; nothing else comes back from another process.
"""

import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from losses import InvalidSetting
from recon.distributed import launched_together
from recon.runs import RUNS

# Launcher -> its package, and the extra of ours that brings it.
PACKAGES = {
    "joblib": ("hydra-joblib-launcher", "sweep"),
    "submitit_local": ("hydra-submitit-launcher", "slurm"),
    "submitit_slurm": ("hydra-submitit-launcher", "slurm"),
}
HERE = "basic"  # Hydra's own, which runs them in this process
LOGS = RUNS / ".submitit"
_BUSY = threading.Lock()  # held while this process is at a job


class Asked(BaseException):
    """A signal came while a job was not training, and so had nothing to save."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


@dataclass(frozen=True)
class Jobs:
    """The jobs of one command.

    Args:
        folder: where they tell what became of them; gone when the command ends.
        launcher: what starts them.
        varied: keys that differ between them.
        parent: the process of the command.
    """

    folder: Path
    launcher: str
    varied: frozenset[str]
    parent: int

    def overrides(self, arguments: list[str]) -> list[str]:
        """What a sweep is told beside its arguments: Hydra's own notes, and submitit's logs, have a place."""
        if not {"-m", "--multirun"} & set(arguments):
            return []
        logs = f"hydra.launcher.submitit_folder={LOGS}"
        given = any(word.startswith("hydra.launcher.submitit_folder=") for word in arguments)
        wanted = self.launcher.startswith("submitit") and not given
        return [f"hydra.sweep.dir={self.folder}", *([logs] if wanted else [])]

    @property
    def here(self) -> bool:
        return self.launcher == HERE

    def ended(self, name: str, status: int, line: str = "") -> None:
        """Keeps what became of a job, and the line that it ended with where it could not run."""
        self.folder.mkdir(parents=True, exist_ok=True)  # where the command did not wait for it
        number, _ = tempfile.mkstemp(dir=self.folder, suffix=".ended")
        with open(number, "w") as file:
            json.dump({"name": name, "status": status, "line": line}, file)

    def all_ended(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("*.ended"))]

    def status(self) -> int:
        return max((job["status"] for job in self.all_ended()), default=0)

    def name(self, overrides: list[str]) -> str:
        """What tells a job from the others."""
        return " ".join(word for word in overrides if word.lstrip("+~").partition("=")[0] in self.varied)

    @contextmanager
    def own_process(self, name: str) -> Iterator[None]:
        """Around the job `name`: its lines begin with its name, and it ends with the command. Raises Asked."""
        if self.launcher != "joblib":
            yield
            return
        running = self.folder / f"{os.getpid()}.running"
        before = {number: signal.signal(number, _ask) for number in (signal.SIGINT, signal.SIGTERM)}
        out, err = sys.stdout, sys.stderr
        _end_with(self.parent)
        _BUSY.acquire()
        try:
            with suppress(PermissionError):  # it leads a group already
                os.setpgid(0, 0)  # a terminal's Ctrl-C comes once, from the command
            running.touch()
            sys.stdout, sys.stderr = (_Named(stream, name) for stream in (out, err))
            if (self.folder / "stop").exists():
                raise Asked(int((self.folder / "stop").read_text()))
            yield
        finally:
            sys.stdout, sys.stderr = out, err
            running.unlink(missing_ok=True)
            for number, handler in before.items():
                signal.signal(number, handler)
            _BUSY.release()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around all jobs: SIGTERM and Ctrl-C ask those that run to save and end, and no other begins; a second one
        ends them at once. What ends a launcher is told in one line."""
        before = {}

        def pass_on(number: int, frame: FrameType | None) -> None:
            for each, handler in before.items():
                signal.signal(each, handler)
            (self.folder / "stop.tmp").write_text(str(number))
            (self.folder / "stop.tmp").replace(self.folder / "stop")
            for running in self.folder.glob("*.running"):
                with suppress(ProcessLookupError):
                    os.kill(int(running.stem), number)

        if self.launcher == "joblib":
            before |= {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        except BrokenExecutor:
            if (self.folder / "stop").exists():  # one that had not begun yet
                self.ended("", 128 + int((self.folder / "stop").read_text()))
            else:
                self.ended("", 1)
                how = "their last checkpoints stand, go on with each by name=NAME resume=true"
                print(f"a job was killed, and the others were ended with it; {how}", file=sys.stderr)
        except RuntimeError as error:
            if type(error).__module__ != "submitit.core.utils":
                raise
            self.ended("", 1)
            print(f"{str(error).splitlines()[0]}; logs are in {LOGS}", file=sys.stderr)
        except KeyboardInterrupt:
            if not self.launcher.startswith("submitit"):
                raise
            self.ended("", 128 + signal.SIGINT)
            print(f"no longer waiting; jobs that were submitted go on, and log to {LOGS}", file=sys.stderr)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.launcher.startswith("submitit"):
            for job in self.all_ended():
                if job["name"]:
                    how = f"status {job['status']}" if job["status"] else "finished"
                    print(f"{job['name']}: {job['line'] or how}")


def launcher_of(arguments: list[str]) -> str:
    """The launcher that was asked for.

    Raises:
        InvalidSetting: its package is missing, or it has nothing to launch.
    """
    given = [word.partition("=")[2] for word in arguments if word.partition("=")[0] == "hydra/launcher"]
    if not given or given[-1] == HERE:
        return HERE
    word = f"hydra/launcher={given[-1]}"
    if given[-1] in PACKAGES:
        package, extra = PACKAGES[given[-1]]
        try:
            version(package)
        except PackageNotFoundError:
            raise InvalidSetting(f"{word} needs the package {package}: pip install 'recon[{extra}]'") from None
    if not {"-m", "--multirun"} & set(arguments):
        raise InvalidSetting(f"{word} launches the runs of a sweep: add -m")
    for many in ("nodes", "tasks_per_node"):
        if any(word.startswith(f"hydra.launcher.{many}=") and not word.endswith("=1") for word in arguments):
            raise InvalidSetting(f"hydra.launcher.{many}: each run of a sweep is one process; set it to 1")
    if launched_together():
        raise InvalidSetting(f"{word} starts processes itself: not under torchrun")
    return given[-1]


@contextmanager
def scratch(launcher: str) -> Iterator[Path]:
    """A folder that all jobs see, on a cluster also from other machines."""
    shared = launcher.startswith("submitit")
    if shared:
        LOGS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=LOGS.absolute() if shared else None, prefix="sweep-") as folder:
        yield Path(folder)


@cache
def _end_with(parent: int) -> None:
    """From now on this process ends when its parent has: at once, or when the job that it is at has saved."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        if _BUSY.locked():
            os.kill(os.getpid(), signal.SIGTERM)
        with _BUSY:
            os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _ask(number: int, frame: FrameType | None) -> None:
    raise Asked(number)


class _Named:
    """A stream whose every line begins with a job's name, so that the lines of many can be told apart."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self.stream, self.name, self.begun = stream, name, ""

    def write(self, text: str) -> int:
        *lines, self.begun = (self.begun + text).split("\n")
        if lines:
            self.stream.write("".join(f"{self.name} | {line}\n" for line in lines))
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return False  # no place for a progress bar
