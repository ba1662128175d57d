"""Memory of a training step: per image, and the largest batch; with and without gradient checkpointing.

    python -m experiments.benchmarks.memory                                             # ViT-Ti/8 at 64 pixels
    python -m experiments.benchmarks.memory --model base --patch-size 16 --image-size 224 --batches 2 4 8 --memory 16

- kept: what a forward pass keeps for its backward, every storage once. The same on every device.
- peak: the most that tensors take at once in a whole step, parameters, optimiser and batch included: followed operation
  by operation on a CPU (`experiments.benchmarks.footprint`), `torch.cuda.max_memory_allocated` on a GPU.
- process: how much the process's resident set grows in a step, on Linux with glibc: beyond parameters and optimiser,
  which are there already. What kernels take for themselves and what the allocator cannot reuse is in it.

Kept and peak grow by the same bytes with every image: *per image* is the growth from the smallest batch to the largest,
*largest batch* what the rest of `--memory` holds, by the peak. On a GPU that batch is then tried, and lowered until a
step fits.
"""

import argparse
import ctypes
import gc
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.footprint import MIB, kept_for_backward, of_batch, peak_mib, peak_of_step, reset_peak
from experiments.benchmarks.saved import described, save, table, take_out
from experiments.benchmarks.step import Bench
from experiments.benchmarks.turns import compare
from recon.training.device import make_fabric

COLUMNS = {
    "checkpointing": ("checkpointing", ""),
    "batch": ("batch", ""),
    "kept_mib": ("kept MiB", ".1f"),
    "peak_mib": ("peak MiB", ".1f"),
    "process_mib": ("process MiB", ".0f"),
    "images_per_second": ("images/s", ".1f"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--patch-size", type=int, default=8)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--memory", type=float, help="GiB for a step; by default all that the device has")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    take_out(parser)
    options = parser.parse_args()
    device = torch.device(options.device)
    make_fabric(options.device, "auto")
    options.batch, options.compile = max(options.batches), False
    bench = Bench("norm_mse", options)
    room = options.memory * 2**30 if options.memory else all_of(device)
    print(f"{options.model}/{options.patch_size} at {options.image_size} pixels, 75% hidden, norm_mse, not compiled")
    print(f"{described(device)}, torch {torch.__version__}\n")
    rows = list(measured(bench, sorted(options.batches), options.repeats))
    print(table(rows, COLUMNS) + "\n")
    for checkpointing in dict.fromkeys(row["checkpointing"] for row in rows):
        few, *_, many = [row for row in rows if row["checkpointing"] == checkpointing]
        line = growth(few, many, room)
        if device.type == "cuda":
            bench.model.gradient_checkpointing = checkpointing == "yes"
            line["largest_batch"] = largest_that_fits(bench, line["largest_batch"])
        print(
            f"checkpointing {checkpointing}: per image {line['kept_per_image']:.2f} MiB kept, "
            f"{line['peak_per_image']:.2f} MiB at the peak; largest batch in {room / 2**30:.1f} GiB: "
            f"{line['largest_batch']}"
        )
        rows.append(line)
    save(options.out, "experiments.benchmarks.memory", device, rows)


def measured(bench: Bench, batches: list[int], repeats: int) -> Iterator[dict[str, Any]]:
    for checkpointing in (False, True):
        bench.model.gradient_checkpointing = checkpointing
        for batch in batches:
            with of_batch(bench, batch):
                kept, peak = kept_for_backward(bench), peak_of_step(bench)
                grown = growth_of_process(bench) if bench.device.type == "cpu" else None
                seconds, _ = compare(bench.ours, lambda: None, repeats, bench.device)
            yield {
                "checkpointing": "yes" if checkpointing else "no",
                "batch": batch,
                "kept_mib": kept / MIB,
                "peak_mib": peak / MIB,
                "process_mib": grown,
                "images_per_second": batch / seconds,
            }


def growth(few: dict[str, Any], many: dict[str, Any], room: float) -> dict[str, Any]:
    """MiB per image from the smallest batch to the largest, and the batch that `room` bytes hold."""
    more = many["batch"] - few["batch"]
    kept, peak = ((many[key] - few[key]) / more for key in ("kept_mib", "peak_mib"))
    rest = room / MIB - (few["peak_mib"] - few["batch"] * peak)
    return {
        "checkpointing": few["checkpointing"],
        "kept_per_image": kept,
        "peak_per_image": peak,
        "largest_batch": max(0, int(rest / peak)),
    }


def largest_that_fits(bench: Bench, batch: int) -> int:
    """`batch`, or the first that fits where each is a fiftieth less than the one before."""
    while batch > 0:
        try:
            with of_batch(bench, batch):
                bench.ours()
            return batch
        except torch.OutOfMemoryError:
            bench.optimizer.zero_grad()
        torch.cuda.empty_cache()
        batch -= max(1, batch // 50)
    return 0


def all_of(device: torch.device) -> float:
    """Bytes of memory that the device has for a step."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return 0.95 * (free + torch.cuda.memory_reserved(device))  # less what fragments
    meminfo = Path("/proc/meminfo")
    return int(meminfo.read_text().split()[1]) * 1024 if meminfo.exists() else float("nan")


def growth_of_process(bench: Bench) -> float | None:
    """MiB by which the resident set of the process grows in a step; None where that cannot be told."""
    if platform.libc_ver()[0] != "glibc":
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back, or the step would find its memory there
    reset_peak(bench.device)
    before = peak_mib(bench.device)
    bench.ours()
    return peak_mib(bench.device) - before


if __name__ == "__main__":
    main()
