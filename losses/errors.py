"""What a user can get wrong in an objective, told in one line."""

from collections.abc import Iterable
from difflib import get_close_matches


class InvalidSetting(ValueError):
    """A setting that cannot be used; the message is one line that names it and the remedy."""


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for the known name closest to `name`, or "" where none is close."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def chosen(key: str, value: str, known: Iterable[str]) -> None:
    """Raises InvalidSetting where a setting's value is none of those that are known."""
    if value not in (known := list(known)):
        raise InvalidSetting(f"{key}={value}: choose {' or '.join(known)}{nearest(str(value), known)}")
