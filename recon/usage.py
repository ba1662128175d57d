"""The help of a command: all its settings, for a person."""

import re
import shlex
from collections.abc import Container
from pathlib import Path
from typing import Any

from recon.config import Settings, every_setting


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
        f"  preset=NAME                            start from a preset: {', '.join(presets())}",
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
    """`python -m recon.COMMAND` with every setting that is not the default, quoted for Hydra and for the shell."""
    always = ALWAYS.get(command, ())
    words = []
    for setting in every_setting(type(settings)):
        value = settings
        for name in setting.key.split("."):
            value = getattr(value, name)
        if (value != setting.default or setting.key in always) and setting.key not in leave_out:
            words.append(shlex.quote(f"{setting.key}={_word(value)}"))
    return " ".join([f"python -m recon.{command}", *words])


def _word(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return f"[{','.join(_word(item) for item in value)}]"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if not isinstance(value, str) or re.fullmatch(r"[\w./+%*-]+", text, re.ASCII):
        return text
    return "'" + text.replace("'", r"\'") + "'"
