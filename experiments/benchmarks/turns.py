"""Works timed side by side in one process, so that a change of the machine's pace meets all of them."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

WARM_UP = 3  # turns that are not counted


def in_turns(works: Mapping[str, Callable[[], None]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each work in each of the `repeats` turns, to and fro."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for i in range(repeats + WARM_UP):
        for name in list(works)[:: 1 if i % 2 else -1]:
            began = time.perf_counter()
            works[name]()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if i >= WARM_UP:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def compare(a: Callable[[], None], b: Callable[[], None], repeats: int, device: torch.device) -> tuple[float, float]:
    """Median seconds of each, in turns."""
    seconds = in_turns({"a": a, "b": b}, repeats, device)
    return statistics.median(seconds["a"]), statistics.median(seconds["b"])
