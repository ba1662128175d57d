"""What a command shows: help, command lines to type, progress bars, tables; what surrounds it: launchers, trackers.

Without torch, so that help and errors come at once.
"""

import os
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import reduce
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, TextIO

from tqdm import tqdm

from losses import InvalidSetting
from losses.options import chosen
from recon.config import Settings, every_setting

TRACKERS = ("wandb", "mlflow", "trackio")  # packages, each an extra of this one, that `log=` may name
QUIET_SECONDS = 15  # between lines where the output is no terminal

Progress = Callable[[Iterable, str, int], Iterable]  # (items, what is done with them, how many there are) -> items


def progress_bar(items: Iterable, description: str, total: int) -> Iterator:
    """Iterates over `items` behind a progress bar; prints a line now and then where standard error is no terminal."""
    pause = 0.1 if sys.stderr.isatty() else QUIET_SECONDS
    bar = tqdm(items, desc=description, total=total, dynamic_ncols=True, leave=False, mininterval=pause, miniters=1)
    return iter(bar)


def no_progress_bar(items: Iterable, description: str, total: int) -> Iterator:
    """Iterates over `items` and prints nothing: of several processes only rank zero shows a progress bar."""
    return iter(items)


def aligned(lines: Sequence[Sequence[str]], left: Container[int] = (0,)) -> str:
    """Formats rows of cells as text: the columns of these numbers to the left, the others to the right."""
    lines = [list(map(one_line, line)) for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def with_interval(value: float, low: float | None, high: float | None) -> str:
    """Formats a value with half the width of its interval, "0.812 ±0.013"; alone where it has no interval."""
    digits = 2 if abs(value) >= 10 else 4 if abs(value) < 0.1 else 3
    half = "" if low is None or high is None or low == high else f" ±{(high - low) / 2:.{digits}f}"
    return f"{value:.{digits}f}{half}"


class PlainOutput:
    """A text stream that takes any text: what its encoding has not, and control characters, are written as escapes."""

    CONTROL: ClassVar = {c: f"\\x{c:02x}" for c in (*range(8), 11, 12, *range(14, 32), *range(127, 160))}

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        encoding = self.stream.encoding or "utf-8"
        self.stream.write(text.translate(self.CONTROL).encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def plain_output() -> Iterator[None]:
    """Within it, standard output and error are each a `PlainOutput`."""
    out: Any = PlainOutput(sys.stdout)
    err: Any = PlainOutput(sys.stderr)
    with redirect_stdout(out), redirect_stderr(err):
        yield


def one_line(text: str) -> str:
    """The text with control characters, such as those of a file's name, as escapes: nothing in it moves the cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def duration(seconds: float) -> str:
    """Formats seconds as "2 h 05 min", "3 min 20 s" or "12 s"."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours} h {m:02d} min" if hours else f"{m} min {s:02d} s" if m else f"{s} s"


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def check_launcher() -> None:
    """Raises InvalidSetting where another launcher than torchrun started several processes, each of which would train
    alone. What a batch system says of tasks is ignored: without torchrun a process is one."""
    if not under_torchrun() and os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ:
        raise InvalidSetting(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} is set, but not by torchrun; start several processes by "
            "torchrun --nproc-per-node=N -m recon.pretrain ..., or unset WORLD_SIZE for one"
        )


def check_trackers(settings: Settings) -> tuple[str, ...]:
    """Names in `log=`, each once. Raises InvalidSetting for one that is unknown, or whose package is not installed."""
    names = tuple(dict.fromkeys(word.strip() for word in settings.log.split("+")))
    for name in names:
        chosen("log", name, ("tensorboard", "csv", *TRACKERS))
        # A folder of that name, such as wandb makes, is found as a package without an origin.
        if name in TRACKERS and getattr(find_spec(name), "origin", None) is None:
            raise InvalidSetting(f"log={name}: {name} is not installed; pip install 'recon[{name}]'")
    return names


def is_rank_zero() -> bool:
    """Whether this process may print before it has joined the others."""
    return os.environ.get("RANK", "0") == "0" or not under_torchrun()


def presets() -> list[str]:
    """Names of the presets in recon/preset/."""
    return sorted(path.stem for path in (Path(__file__).parent / "preset").glob("*.yaml"))


def help_text(name: str, about: str, settings: type = Settings, bare: str | None = None) -> str:
    """All settings with their defaults, for a person."""
    lines = [about, "", "Settings (key=value), with their defaults:", ""]
    section = ""
    for s in every_setting(settings):
        if s.key == bare:
            continue
        if (head := s.key.rpartition(".")[0]) != section:
            lines.append("")
            section = head
        default = "null" if s.default is None else str(s.default).lower() if isinstance(s.default, bool) else s.default
        assignment = f"{s.key}={str(default).replace(' ', '').replace(chr(39), '')}"
        lines.append(f"  {assignment:<38} {s.doc}" if len(assignment) <= 38 else f"  {assignment}\n  {'':<38} {s.doc}")
    look = f"Look before: python -m recon.{name} --cfg job                   the settings as they would be used"
    return "\n".join([*lines, "", *(_of_pretraining() if settings is Settings else []), look, ""])


def _of_pretraining() -> list[str]:
    return [
        "  data=NAME and model=NAME are short for data.name and model.name.",
        *textwrap.wrap(
            f"  preset=NAME                            one of {', '.join(presets())}", 120, subsequent_indent=" " * 41
        ),
        "  --config-dir=FOLDER                    your own presets: FOLDER/preset/NAME.yaml",
        "  The defaults are the MAE paper's. Where no data, model, preset, init=RUN|FILE or resume=true is given,",
        "  preset=demo is taken: a few minutes on photographs that come with the packages.",
        "",
        "Sweep: python -m recon.pretrain -m loss=mse,l1,perceptual+mse     one run for each, in sibling folders",
        "  hydra/launcher=joblib hydra.launcher.n_jobs=2                    so many at a time on this machine",
        "  hydra/launcher=submitit_slurm hydra.launcher.partition=NAME      each a job of a Slurm cluster",
    ]


# Always written: a command that names no data and no model would mean the demonstration.
ALWAYS = {"pretrain": ("data.name", "model.name")}


def written(command: str, settings: Any, leave_out: Container[str] = ()) -> str:
    """`python -m recon.COMMAND` with every setting that is not the default."""
    values = {s.key: reduce(getattr, s.key.split("."), settings) for s in every_setting(type(settings))}
    defaults = {s.key: s.default for s in every_setting(type(settings)) if s.key not in ALWAYS.get(command, ())}
    shown = {k: v for k, v in values.items() if k not in leave_out and not (k in defaults and v == defaults[k])}
    return command_line(command, shown)


def command_line(command: str, settings: Mapping[str, Any], *bare: str) -> str:
    """`python -m recon.COMMAND` with settings and bare arguments, quoted for Hydra and for the shell, to be pasted."""
    words = [*bare, *(f"{key}={_word(value)}" for key, value in settings.items())]
    return " ".join([f"python -m recon.{command}", *map(shlex.quote, words)])


# What Hydra would not take for a string if it stood without quotes.
NUMBER = r"[+-]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(e[+-]?\d+)?"
NO_STRING = re.compile(rf"{NUMBER}|[+-]?(inf|nan)|null|true|false", re.IGNORECASE)


def _word(value: Any) -> str:
    """A value in Hydra's grammar."""
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return f"[{','.join(_word(item) for item in value)}]"
    if not isinstance(value, str):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if re.fullmatch(r"[\w./+%*-]+", value, re.ASCII) and not NO_STRING.fullmatch(value):
        return value
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)  # no interpolation
    value = re.sub(r"(\\*)(\"|$)", r"\1\1\2", value)  # before a quote backslashes are doubled
    return '"' + value.replace('"', r"\"") + '"'
