"""A command written out, so that it can be typed again."""

import re
import shlex
from collections.abc import Container
from typing import Any

from recon.config import every_setting

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
