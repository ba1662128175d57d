"""What every command shows in the terminal: progress bars, tables of aligned columns, numbers and durations."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

from tqdm import tqdm

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


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Formats rows of cells as text: the first column to the left, the others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def with_interval(value: float, low: float | None, high: float | None) -> str:
    """Formats a value with half the width of its interval, "0.812 ±0.013"; alone where it has no interval."""
    digits = 2 if abs(value) >= 10 else 4 if abs(value) < 0.1 else 3
    half = "" if low is None or high is None or low == high else f" ±{(high - low) / 2:.{digits}f}"
    return f"{value:.{digits}f}{half}"


def duration(seconds: float) -> str:
    """Formats seconds as "2 h 05 min", "3 min 20 s" or "12 s"."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours} h {m:02d} min" if hours else f"{m} min {s:02d} s" if m else f"{s} s"
