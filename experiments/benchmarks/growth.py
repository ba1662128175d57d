"""How the cost of a training step grows: with tokens, the model, what is hidden, and where the encoder sees all.

    python -m experiments.benchmarks.growth                                        # around ViT-Ti/8 at 64 pixels
    python -m experiments.benchmarks.growth --vary encoder --model large --patch-size 16 --image-size 224 --batch 12

One thing changes at a time, from the line marked *: image sizes, model sizes, mask ratios, and mask tokens in the
encoder (`model.mask_tokens=encoder`, the MAE paper's table 1c), against which the asymmetric encoder gains: 3 times and
more in the paper (tables 1c and 2), whose ViT-L and ViT-H are large beside their decoder; and how many patches are
predicted: visible ones too, as the official code does, or a share of the hidden ones (`masking.decoded`). Within this
one process each line takes turns with the line *, not compiled.

- GFLOP: of one image's step, counted. kept: MiB per image that the forward pass keeps for its backward.
- over *: the line's cost over that of the line *.
"""

import argparse
import statistics
from collections.abc import Iterator
from typing import Any

import torch

from experiments.benchmarks.floor import operations
from experiments.benchmarks.footprint import MIB, kept_for_backward, of_batch
from experiments.benchmarks.saved import described, save, table, take_out
from experiments.benchmarks.step import Bench
from experiments.benchmarks.turns import compare
from recon.training.device import make_fabric

COLUMNS = {
    "what": ("", ""),
    "tokens": ("tokens", ""),
    "gflop": ("GFLOP/image", ".3f"),
    "gflop_over": ("over *", ".2f"),
    "images_per_second": ("images/s", ".1f"),
    "time_over": ("over *", ".2f"),
    "kept_mib": ("kept MiB/image", ".2f"),
    "kept_over": ("over *", ".2f"),
}
WAYS = ("tokens", "models", "ratios", "encoder", "decoding")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vary", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--patch-size", type=int, default=8)
    parser.add_argument("--image-sizes", type=int, nargs="+", default=[32, 96, 128])
    parser.add_argument("--models", nargs="+", default=["nano", "small"])
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.25, 0.5, 0.9])
    parser.add_argument("--decoded", type=float, nargs="+", default=[0.5, 0.25])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    take_out(parser)
    options = parser.parse_args()
    options.compile = False
    device = torch.device(options.device)
    make_fabric(options.device, "auto")
    print(f"{described(device)}, torch {torch.__version__}, batch {options.batch}, norm_mse\n")
    start = Bench("norm_mse", options)
    first = {"what": f"* {options.model}/{options.patch_size}, {options.image_size} pixels, 75% hidden"} | cost(start)
    rows: list[dict[str, Any]] = []
    for what, bench in varied(options):
        here, there = compare(bench.ours, start.ours, options.repeats, device)
        row = {"what": what} | cost(bench) | {"seconds": here, "time_over": here / there, "first_seconds": there}
        row |= {"images_per_second": options.batch / here}
        row |= {f"{key}_over": row[f"{key}{unit}"] / first[f"{key}{unit}"] for key, unit in OVER}
        rows.append(row)
    seconds = statistics.median(row["first_seconds"] for row in rows)
    first |= {"seconds": seconds, "images_per_second": options.batch / seconds}
    print(table([first, *rows], COLUMNS))
    save(options.out, "experiments.benchmarks.growth", device, [first, *rows])


OVER = [("gflop", ""), ("kept", "_mib")]


def varied(options: argparse.Namespace) -> Iterator[tuple[str, Bench]]:
    """What is different, and the bench where it is; one at a time in memory."""
    size, name = options.image_size, options.model
    changes: list[tuple[str, str, dict[str, Any], dict[str, Any], float | None]] = []
    changes += [("tokens", f"{n} pixels", {"image_size": n}, {}, 1) for n in options.image_sizes if n != size]
    changes += [("models", other, {"model": other}, {}, 1) for other in options.models if other != name]
    changes += [("ratios", f"{ratio:.0%} hidden", {}, {"mask_ratio": ratio}, 1) for ratio in options.ratios]
    changes += [("encoder", "the encoder sees every patch", {}, {"mask_tokens": "encoder"}, 1)]
    changes += [("decoding", "visible patches predicted too", {}, {}, None)]
    changes += [("decoding", f"{share:.0%} of the hidden decoded", {}, {}, share) for share in options.decoded]
    for way, what, other, model, decoded in changes:
        if way in options.vary:
            bench = Bench("norm_mse", argparse.Namespace(**vars(options) | other), **model)
            bench.decoded = decoded
            yield what, bench


def cost(bench: Bench) -> dict[str, Any]:
    """Patches, GFLOP per image of a step, MiB per image kept for the backward pass."""
    batch = len(bench.images)
    half = batch // 2
    with of_batch(bench, half):
        few = kept_for_backward(bench)
    kept = (kept_for_backward(bench) - few) / (batch - half)
    return {
        "tokens": bench.model.patches,
        "gflop": operations(bench.ours) / batch / 1e9,
        "kept_mib": kept / MIB,
    }


if __name__ == "__main__":
    main()
