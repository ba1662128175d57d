"""The pretraining step under `norm_mse`, beside other people's and beside the floor.

    python -m experiments.benchmarks.peers --official MAE --compile                        # ViT-Ti/8 at 64 pixels
    python -m experiments.benchmarks.peers --official MAE --compile --model base --patch-size 16 --image-size 224 \\
        --batch 16 --out FILE.json

MAE is a checkout of github.com/facebookresearch/mae, which is not ours to ship; without it that row is missing. lightly
and transformers come from their packages (`uv sync --group peers`). All train one model from the same weights on one
batch that lies on the device, in one precision, with AdamW, each by its own code and with its own choice of attention
kernel; each file beside this one says what it put together. Within this one process they take turns, a step each:

- loss: of the first step's weights, every side under the same masks, in float32. It tells that all do the same thing.
- GFLOP: of one image, counted (`torch.utils.flop_counter`), a forward pass and the whole step.
- over NAME: its time over that row's, the median of the turns, and in brackets their lowest and highest. NAME is the
  official code as it is, or ours where there is none.
- of the floor: the step's operations over its time, over the rate of a large matrix product that takes its turns too.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.floor import Product, operations
from experiments.benchmarks.peers.official import MODEL, Official
from experiments.benchmarks.peers.ours import Ours
from experiments.benchmarks.peers.side import Side, Task
from experiments.benchmarks.saved import described, save, table, take_out
from experiments.benchmarks.turns import in_turns
from recon.model import create_model
from recon.training.device import fast_bfloat16, make_fabric

MATRIX = "matrix product"
COLUMNS = {
    "side": ("", ""),
    "parameters": ("parameters", ",d"),
    "loss": ("loss", ".6f"),
    "forward_gflop": ("GFLOP forward", ".3f"),
    "step_gflop": ("step", ".3f"),
    "images_per_second": ("images/s", ".1f"),
    "ratio": ("over {}", ".2f"),
    "spread": ("", ""),
    "of_floor": ("of the floor", ".1%"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, help="checkout of facebookresearch/mae")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--patch-size", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="rows for ours and the official code, compiled")
    take_out(parser)
    options = parser.parse_args()
    if options.official and not (options.official / MODEL).is_file():
        parser.error(
            f"no {MODEL} in {options.official}: give --official the folder of a checkout of facebookresearch/mae"
        )
    device = torch.device(options.device)
    task = Task(
        options.model, options.image_size, options.patch_size, options.batch, device, fast_bfloat16(device.type)
    )
    print(f"{task.model}/{task.patch_size} at {task.image_size} pixels, batch {task.batch}, 75% hidden, norm_mse")
    precision = "bfloat16" if task.low else "float32"
    print(f"{described(device)}, {precision}, torch {torch.__version__}\n", flush=True)
    sides, missing = all_sides(task, options.official)
    for line in missing:
        print(f"left out: {line}", file=sys.stderr)
    rows = measured(sides, ["default"] if options.compile else [], options.repeats)
    product = rows.pop()
    reference = rows[0]["over"]
    rows.sort(key=lambda row: row["ratio"])
    headings = {key: (heading.format(reference), how) for key, (heading, how) in COLUMNS.items()}
    print(table(rows, headings))
    side, rate = product["matrix"], product["flop_per_second"]
    print(f"\nfloor: {rate / 1e12:.3f} TFLOP/s, a product of {side} x {side} matrices")
    save(options.out, "experiments.benchmarks.peers", device, [*rows, product], ["lightly", "transformers"])


def measured(sides: list[Side], modes: Sequence[str], repeats: int) -> list[dict[str, Any]]:
    """A row for each side, and for ours and the official one compiled in each of the `modes` of torch.compile.

    The last row is the matrix product's.
    """
    task = sides[0].task
    rows = [facts(side) for side in sides]  # of what is not compiled: counting would keep it from being run so
    for mode in modes:
        for row, side in zip(list(rows), list(sides), strict=True):
            if side.name in ("ours", "official"):
                sides = [*sides, side.compiled(mode)]
                rows.append(row | {"side": sides[-1].name})
    product = Product(task.device, task.low)
    seconds = in_turns({side.name: side.step for side in sides} | {MATRIX: product}, repeats, task.device)
    rate = statistics.median(product.operations / s for s in seconds[MATRIX])
    reference = "official" if "official" in seconds else "ours"
    for row in rows:
        row.update(speed(row, seconds, task.batch, reference, product.operations))
    return [*rows, {"side": MATRIX, "flop_per_second": rate, "matrix": product.side}]


def all_sides(task: Task, official: Path | None) -> tuple[list[Side], list[str]]:
    """Every side that is there, with the same weights, and a line for each whose package is missing."""
    torch.manual_seed(0)
    weights = create_model(task.model, image_size=task.image_size, patch_size=task.patch_size).state_dict()
    sides: list[Side] = [Official(task, weights, official)] if official else []
    missing: list[str] = []
    for module, name in (("lightly", "Lightly"), ("hugging_face", "HuggingFace")):
        try:
            side = getattr(import_module(f"experiments.benchmarks.peers.{module}"), name)
            sides.append(side(task, weights))
        except Exception as error:  # of somebody else's code, in versions that this was not written for
            missing.append(f"{name}: {type(error).__name__}: {error}")
    make_fabric(str(task.device), "auto")
    return [*sides, Ours(task, weights)], missing


def facts(side: Side) -> dict[str, Any]:
    """What a side trains: parameters, the loss at its first weights, operations of an image in GFLOP."""
    noise = side.task.noise()
    with torch.no_grad():
        loss = side.loss(noise).item()  # without autocast
        forward = operations(side.loss)
    return {
        "side": side.name,
        "parameters": side.parameters,
        "loss": loss,
        "forward_gflop": forward / side.task.batch / 1e9,
        "step_gflop": operations(side.step) / side.task.batch / 1e9,
    }


def speed(
    row: dict[str, Any], seconds: dict[str, list[float]], batch: int, reference: str, product: int
) -> dict[str, Any]:
    """A side's speed, over the reference's and the floor's, turn by turn; `product`: operations of the floor's."""
    mine = seconds[row["side"]]
    ratios = [theirs / own for theirs, own in zip(seconds[reference], mine, strict=True)]
    step = row["step_gflop"] * 1e9 * batch
    shares = [(step / product) * floor / own for floor, own in zip(seconds[MATRIX], mine, strict=True)]
    return {
        "images_per_second": batch / statistics.median(mine),
        "over": reference,
        "ratio": statistics.median(ratios),
        "spread": f"({min(ratios):.2f} .. {max(ratios):.2f})",
        "of_floor": statistics.median(shares),
        "seconds": mine,
    }


if __name__ == "__main__":
    main()
