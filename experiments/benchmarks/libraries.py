"""What this project computes itself beside the library call that it could have been.

    python -m experiments.benchmarks.libraries [--device cuda] [--repeats 7] [--only NAME ...]

Both sides get the same input and take turns; `ratio` is the library's median time over ours, `difference` the largest
one of their results, relative to the library's largest value. Metrics are given photographs of 224 pixels in patches of
16. Attention and the sum of squares are timed as whole training steps. Where a docstring says that a library was not
taken because of its cost, the figure is a row of this table.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from unittest import mock

import kornia
import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.benchmarks.metrics import degraded, photographs
from experiments.benchmarks.saved import save, table, take_out
from experiments.benchmarks.step import Bench
from experiments.benchmarks.turns import in_turns
from losses.features.vgg19 import VGG19, pooled
from recon.data.crops import CropBatch
from recon.metrics.base import grey, grey_patches
from recon.metrics.fidelity import similarity
from recon.metrics.sharpness import box_size, sobel
from recon.model.layers import Attention

Side = Callable[[], Tensor | None]

COLUMNS = {
    "what": ("", ""),
    "library": ("library", ""),
    "ours_ms": ("ours ms", ".1f"),
    "library_ms": ("library ms", ".1f"),
    "ratio": ("ratio", ".2f"),
    "difference": ("difference", ".1e"),
}


def metrics(device: torch.device) -> Iterator[tuple[str, str, Side, Side]]:
    """Filters, colour and SSIM: kornia's functions give the same values."""
    truths = photographs(32, 224)
    images, truths = degraded(truths).to(device), truths.to(device)
    patches = grey_patches(images, 16).flatten(0, 1)[:, None]  # (B * N, 1, p, p)
    gradient = partial(kornia.filters.spatial_gradient, mode="sobel", normalized=True)
    yield (
        "Sobel",
        "kornia.filters.spatial_gradient",
        lambda: torch.stack([sobel(patches), sobel(patches.mT).mT], 2),
        lambda: gradient(patches)[..., 1:-1, 1:-1],
    )
    cross = torch.tensor([[[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]], device=device)
    yield (
        "Laplacian",
        "kornia.filters.filter2d",
        lambda: laplacian(patches),
        lambda: kornia.filters.filter2d(patches, cross, padding="valid"),
    )
    side = box_size(patches)
    yield (
        "means of 11 pixels along rows",
        "kornia.filters.box_blur",
        lambda: box_means(patches, side),
        lambda: kornia.filters.box_blur(patches, (1, side))[..., side // 2 : -(side // 2)],
    )
    weights = torch.tensor([0.2125, 0.7154, 0.0721], device=device)
    yield (
        "luminance",
        "kornia.color.rgb_to_grayscale",
        lambda: grey(images),
        lambda: kornia.color.rgb_to_grayscale(images, weights)[:, 0],
    )
    few, true = images[:8].double(), truths[:8].double()
    yield "SSIM", "kornia.metrics.ssim", lambda: similarity(few, true), lambda: mirrored_ssim(few, true)


def laplacian(patches: Tensor) -> Tensor:
    """The response of `variance_of_laplacian`."""
    rows = patches[..., :-2, 1:-1] + patches[..., 2:, 1:-1]
    return (rows + patches[..., 1:-1, :-2] + patches[..., 1:-1, 2:]).sub_(patches[..., 1:-1, 1:-1], alpha=4)


def box_means(patches: Tensor, side: int) -> Tensor:
    """Box means of windows that lie inside a row; `blur_effect` needs their differences alone, two pixels each."""
    return patches.unfold(-1, side, 1).mean(-1)


def mirrored_ssim(image: Tensor, truth: Tensor) -> Tensor:
    """kornia's map with borders as scikit-image has them."""
    pad = 5
    x, y = (torch.cat([t[..., :pad, :].flip(-2), t, t[..., -pad:, :].flip(-2)], -2) for t in (image, truth))
    x, y = (torch.cat([t[..., :pad].flip(-1), t, t[..., -pad:].flip(-1)], -1) for t in (x, y))
    return kornia.metrics.ssim(x, y, 11)[..., pad:-pad, pad:-pad]


def crops(device: torch.device) -> Iterator[tuple[str, str, Side, Side]]:
    """Crops of photographs of 160 pixels, resized to 64 on the device; kornia resizes one sample after the other."""
    generator = torch.Generator().manual_seed(0)
    boxes = []
    for _ in range(64):
        height, width = torch.randint(72, 161, (2,), generator=generator).tolist()
        top, left = (int(torch.randint(0, 161 - side, (), generator=generator)) for side in (height, width))
        boxes.append((top, left, height, width))
    pixels = photographs(64, 160).to(device)
    copies = torch.zeros(64, 160, 160, 3, dtype=torch.uint8, device=device)
    for copy, image, (top, left, height, width) in zip(copies, pixels, boxes, strict=True):
        part = image[:, top : top + height, left : left + width]
        copy[:height, :width] = (255 * part).round().byte().permute(1, 2, 0)
    sides = torch.tensor([box[2:] for box in boxes], device=device)
    batch = CropBatch(copies, sides, torch.zeros(64, dtype=torch.bool, device=device), (64, 64))
    corners = torch.tensor([outline(*box) for box in boxes])
    yield (
        "crops of a batch of 64",
        "kornia crop_by_indices, antialiased",
        lambda: batch.resized(device),
        lambda: kornia.geometry.transform.crop_by_indices(
            255 * pixels, corners.to(device), size=(64, 64), interpolation="bicubic", antialias=True
        ),
    )


def outline(top: int, left: int, height: int, width: int) -> list[tuple[int, int]]:
    """The corners' pixels (x, y) of a box, clockwise from the upper left."""
    right, bottom = left + width - 1, top + height - 1
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def steps(device: torch.device) -> Iterator[tuple[str, str, Side, Side]]:
    """Whole training steps with and without our attention, and our sum of squares in VGG19's distance."""
    for model, image_size, patch_size, batch in (("nano", 64, 8, 16), ("base", 224, 16, 8)):
        for low in (True, False) if device.type == "cpu" else (True,):
            options = argparse.Namespace(
                model=model,
                image_size=image_size,
                patch_size=patch_size,
                batch=batch,
                device=device.type,
                compile=False,
            )
            bench, precision = Bench("mse", options), "bfloat16" if low else "float32"
            bench.low = low
            yield (
                f"attention, step of {model}/{patch_size} in {precision}",
                "scaled_dot_product_attention",
                bench.ours,
                partial(fused, bench),
            )
            if model == "nano" and low:
                critic = Bench("perceptual+mse", options)
                critic.low = low
                yield (
                    "sum of squares, step of perceptual+mse",
                    "torch.nn.functional.mse_loss",
                    critic.ours,
                    partial(with_mse_loss, critic),
                )


def fused(bench: Bench) -> None:
    """A step with torch's fused kernels."""
    with mock.patch.object(Attention, "fused_attn", True):
        bench.ours()


def by_mse_loss(net: VGG19, x: Tensor, y: Tensor, weights: Sequence[float], pool: int) -> Tensor:
    """As `losses.features.vgg19.squared_difference`, by torch's squared error of whole feature maps in float32."""
    with torch.no_grad():
        targets = net.outputs(y)
    value = x.new_zeros((), dtype=torch.float32)
    for output, target, weight, stride in zip(net.outputs(x), targets, weights, net.strides, strict=True):
        maps = (pooled(output, pool // stride).float(), pooled(target, pool // stride).float())
        value = value + weight * F.mse_loss(*maps)
    return value


def with_mse_loss(bench: Bench) -> None:
    """A step whose VGG19 distance is `by_mse_loss`."""
    with mock.patch.object(bench.objective.terms["perceptual"], "difference", by_mse_loss):
        bench.ours()


PARTS = {"metrics": metrics, "crops": crops, "steps": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    take_out(parser)
    options = parser.parse_args()
    print(
        f"{options.device}, {torch.get_num_threads()} threads, torch {torch.__version__}, kornia {kornia.__version__}\n"
    )
    rows = [row for part in options.only for row in map(partial(timed, options), PARTS[part](options.device))]
    print(table(rows, COLUMNS))
    save(options.out, "experiments.benchmarks.libraries", options.device, rows, ["kornia"])


def timed(options: argparse.Namespace, pair: tuple[str, str, Side, Side]) -> dict[str, object]:
    """A row of the table."""
    what, library, ours, theirs = pair
    seconds = in_turns({"ours": ours, "library": theirs}, options.repeats, options.device)
    own, other = (1000 * statistics.median(seconds[side]) for side in ("ours", "library"))
    row = {"what": what, "library": library, "ours_ms": own, "library_ms": other, "ratio": other / own}
    found, expected = ours(), theirs()
    if found is not None and expected is not None:
        row["difference"] = ((found - expected).abs().max() / expected.abs().max()).item()
    return row


if __name__ == "__main__":
    main()
