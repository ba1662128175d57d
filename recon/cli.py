"""The edge: from the command line to settings, and from errors to one line and exit status 2.

Neither this module nor those that it imports load torch, so that help and errors come at once. A command's function
imports what it needs when it is called.
"""

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from losses import InvalidSetting, check_limits, nearest
from recon import sweep
from recon.config import BUNDLED, Settings, every_setting
from recon.console import check_launcher, help_text, is_rank_zero, one_line, plain_output, presets, under_torchrun
from recon.saved_settings import RENAMED

# `data=cifar10` says data.name=cifar10, and a preset needs no plus.
SHORT = {"data": "data.name", "model": "model.name", "probe": "probe.name", "preset": "+preset"}

# The demonstration is the preset of a command that names no data, model or run of the user's own: none of these keys,
# or only with these values (an `init` that is no other's run leaves the demonstration what it is).
DEMO = "+preset=demo"
OWN = {
    "data.name": (),
    "data.root": (),
    "model.name": (),
    "preset": (),
    "init": ("none", "null", *BUNDLED),
    "resume": ("false", "no", "n", "off", "0"),
}
DEMO_TAKEN = "preset=demo: neither data, model, preset nor init is given; the demonstration on embedded photographs"

# Hydra's flags that a user may want, and those of them that take the next argument.
FLAGS = {"-h", "--help", "--hydra-help", "-m", "--multirun", "--resolve", "--version", "--info", "-i", "--run", "-r"}
VALUED_FLAGS = {"--config-dir", "-cd", "--cfg", "-c", "--package", "-p"}
TELLING_FLAGS = {"-h", "--help", "--hydra-help", "--version", "--info", "-i"}

Task = Callable[[Any, frozenset[str]], int | None]


@dataclass(frozen=True)
class Command:
    """One of the program's commands."""

    name: str  # of its module, recon.NAME
    about: str  # its help's first line
    settings: type = Settings
    bare: str | None = None  # the setting, a list, that takes the arguments which are no `key=value`
    switches: tuple[str, ...] = ()  # settings that are either true or false, which may be written --NAME
    less_memory: str = "free some, or take a larger machine"  # what to do where memory runs out

    @property
    def short(self) -> dict[str, str]:
        here = self.keys | ({"+preset"} if self.settings is Settings else set())
        return {word: full for word, full in SHORT.items() if full in here}

    @cached_property
    def keys(self) -> set[str]:
        """Every setting's key, and every node's that a term has."""
        keys = {s.key for s in every_setting(self.settings)}
        return keys | {key[:i] for key in keys for i in range(len(key)) if key[i] == "." and "." in key[:i]}


def run(task: Task, command: Command) -> None:
    """`run_settings`, whose output any terminal can show."""
    with plain_output():
        run_settings(task, command)


def run_settings(task: Task, command: Command) -> None:
    """Runs `task(settings, given)` for the command line's settings, once, or once per combination under `-m`.

    `given` are the keys that the user set himself. Exits with 0, with the task's own status, or with 2 after one line
    where a setting cannot be used; in a sweep the other runs go on, and the largest status is the sweep's.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises; what the user reads is written here
    try:
        check_launcher()
        sys.argv[1:], words, demo = understood(sys.argv[1:], command)
        launcher = sweep.launcher_of(sys.argv[1:])
    except InvalidSetting as error:
        _complain(str(error))
        _exit(2)
    if {"-h", "--help"} & set(sys.argv):
        print(help_text(command.name, command.about, command.settings, command.bare))
        _exit(0)
    if demo:
        _say_demo(sys.argv[1:])
        sys.argv.append(DEMO)
    with sweep.folder_of(launcher) as folder:
        _store(command, folder)
        if launcher.startswith("submitit") and not any("hydra.launcher.submitit_folder=" in word for word in sys.argv):
            sys.argv.append(f"hydra.launcher.submitit_folder={sweep.LOGS}")
        jobs = hydra.main(version_base="1.3", config_path=None, config_name=command.name)(
            _job(task, command, words, folder, launcher)
        )
        try:
            status = sweep.launch(jobs, launcher, folder)
        except (HydraException, OmegaConfBaseException) as error:
            _complain(in_one_line(error, command.keys))
            status = 2
    _exit(status)


def _job(task: Task, command: Command, words: list[str], folder: Path, launcher: str) -> Callable[[DictConfig], None]:
    """What Hydra calls for each combination, perhaps in another process; its exit status is reported in `folder`."""

    def job(cfg: DictConfig) -> None:
        overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
        given, line = _keys(overrides), ""
        try:
            settings = typed(cfg, given)
            if command.bare and words:
                setattr(settings, command.bare, words)
            status = task(settings, given) or 0
        except (InvalidSetting, OmegaConfBaseException, OSError) as error:
            status, line = 2, in_one_line(error, command.keys)
            _complain(line)
        except (RuntimeError, MemoryError) as error:
            from recon.distributed import first_to_report
            from recon.training.device import is_out_of_memory

            if not is_out_of_memory(error):
                raise
            status, line = 2, f"out of memory; {command.less_memory}"
            if first_to_report("memory"):
                print(line, file=sys.stderr, flush=True)
            if under_torchrun():
                sys.exit(status)  # the others may still have enough, and would wait for this one
        sweep.report(folder, status, line)
        if status > 128 and launcher == "basic":  # a signal ends the whole sweep
            _exit(status)

    return job


def _exit(status: int) -> NoReturn:
    """Ends this process, together with the others that torchrun started."""
    if under_torchrun():
        from recon.distributed import join

        join().leave()
    sys.exit(status)


def understood(arguments: list[str], command: Command) -> tuple[list[str], list[str], bool]:
    """The arguments as Hydra wants them, the bare ones, and whether the demonstration is meant.

    Raises InvalidSetting for a key that is no setting.
    """
    flags, overrides, bare = [], [], []
    if "columns" in command.keys and "--columns" in arguments[:-1]:  # `--columns all` says columns=all
        at = arguments.index("--columns")
        arguments = [*arguments[:at], f"columns={arguments[at + 1]}", *arguments[at + 2 :]]
    for before, argument in zip([None, *arguments], arguments, strict=False):
        if before in VALUED_FLAGS:
            flags.append(argument)
        elif argument.startswith("-"):
            flag, known = argument.partition("=")[0], FLAGS | VALUED_FLAGS | {f"--{s}" for s in command.switches}
            if flag not in known:
                raise InvalidSetting(f"unknown flag '{flag}'{nearest(flag, known)}; settings are key=value")
            if argument.removeprefix("--") in command.switches:
                overrides.append(f"{argument.removeprefix('--')}=true")
            else:
                flags.append(argument)
        elif command.bare and ("=" not in argument or Path(argument).exists()):
            bare.append(argument)
        else:
            overrides.append(_override(argument, command))
    parsed = OverridesParser.create().parse_overrides(overrides)
    return flags + overrides, bare, command.settings is Settings and means_demo(parsed)


def means_demo(overrides: Iterable[Override]) -> bool:
    """Whether these settings of pretrain name neither data, a model, a preset nor a run of the user's own."""
    for override in overrides:
        if (key := override.key_or_group) not in OWN:
            continue
        if not OWN[key]:
            return False
        several = override.is_sweep_override()
        values = override.sweep_string_iterator() if several else [override.get_value_element_as_str()]
        if any(value.strip("'\"").lower() not in OWN[key] for value in values):
            return False
    return True


def _override(argument: str, command: Command) -> str:
    """One key=value as Hydra wants it."""
    key, equals, value = argument.partition("=")
    bare = key.lstrip("+~")
    if not equals:
        raise InvalidSetting(f"'{argument}' is no setting; write key=value (--help lists all settings)")
    known, short = command.keys, command.short
    if bare not in short and not bare.startswith(("hydra.", "hydra/")) and bare not in known:
        raise InvalidSetting(f"unknown setting '{bare}'{suggested(bare, known)} (--help lists all settings)")
    override = f"{short[bare]}={value}" if bare in short else argument
    try:
        _keys([override])
    except HydraException as error:
        raise InvalidSetting(
            f"cannot read '{argument}' ({in_one_line(error, known)}); quote what is not a plain value"
        ) from error
    return override


def typed(cfg: DictConfig, given: frozenset[str] = frozenset()) -> Any:
    """Settings as dataclasses; of train.steps and train.epochs, the one that was given counts."""
    if "train.steps" in given and "train.epochs" not in given:
        cfg.train.epochs = None
    if "train.epochs" in given and "train.steps" not in given:
        cfg.train.steps = None
    settings = OmegaConf.to_object(cfg)
    check_limits(settings)
    return settings


def in_one_line(error: BaseException, known: set[str]) -> str:
    """What went wrong with the settings, named, without Hydra's frames."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        what = str(cause.msg or cause).splitlines()[0]
        suggestion = "" if cause.full_key in known else suggested(cause.full_key, known)
        return f"setting {cause.full_key}: {what}{suggestion}"
    if isinstance(error, InvalidSetting):
        return one_line(str(error))
    if isinstance(error, OSError) and type(error).__str__ is OSError.__str__ and error.filename:
        return one_line(f"{error.filename}: {error.strerror}")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and "preset/" in lines[0]:
        wanted = lines[0].split("preset/")[1].split("'")[0]
        return f"unknown preset '{wanted}'{nearest(wanted, presets())} (presets: {', '.join(presets())})"
    if lines and lines[0].startswith("Ambiguous value"):
        return f"{lines[0]}: add -m to run one after the other, or quote the value"
    return lines[0] if lines else type(error).__name__


def suggested(key: str, known: set[str]) -> str:
    """The end of a message on an unknown key: its new name, or the nearest known one."""
    return f"; it is now called '{RENAMED[key]}'" if RENAMED.get(key) in known else nearest(key, known)


def _say_demo(arguments: list[str]) -> None:
    """That the demonstration is taken, unless no settings are used; where they are printed as YAML, as its comment."""
    flags = {word.partition("=")[0] for word in arguments}
    if is_rank_zero() and not flags & TELLING_FLAGS:
        print(f"# {DEMO_TAKEN}" if flags & {"--cfg", "-c"} else DEMO_TAKEN, flush=True)


def _complain(line: str) -> None:
    """Once for all processes that torchrun started."""
    if is_rank_zero():
        print(line, file=sys.stderr, flush=True)


def _store(command: Command, folder: Path) -> None:
    """Registers the command's settings and help with Hydra, and the folder of a sweep."""
    store = ConfigStore.instance()
    store.store("settings", command.settings)
    quiet = [{f"override hydra/{log}_logging": "disabled"} for log in ("hydra", "job")]
    # Hydra leaves nothing behind: a run's folder is the run's own affair.
    places = {"run": {"dir": "."}, "sweep": {"dir": str(folder)}, "output_subdir": None, "searchpath": ["pkg://recon"]}
    store.store(command.name, {"defaults": ["settings", "_self_", *quiet], "hydra": places})


def _keys(overrides: Iterable[Any]) -> frozenset[str]:
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return frozenset(override.key_or_group for override in parsed)
