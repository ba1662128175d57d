"""All metrics on 256 pairs at 224 pixels, beside the same numbers from scikit-image, piq and lpips.

    python -m experiments.benchmarks.metrics [--pairs 256] [--size 224] [--repeats 3] [--device cpu] [--lpips FILE]

Pairs are crops of scikit-image's photographs and the same blurred and with noise. A metric that has a reference is
computed for the whole image as one hidden patch, so that both sides give the same numbers; the largest relative
difference is printed beside the times. LPIPS stands beside the package called directly, a batch at a time, where its
trunk's weights are: FILE, by default ../shared/weights/alexnet_features.safetensors. The others, which nobody else has,
are timed on hidden patches of 16 pixels, once. Both sides run over everything in turns, and the fastest of `repeats`
runs counts; ours runs a batch first to warm up. With one thread (OMP_NUM_THREADS=1) the processor's time is taken, else
the wall's, which other work on the machine spoils. `together` computes every metric of a pair before the next pair:
what several metrics need is computed once. `of one truth` does so for six reconstructions of each truth, as the rows of
an evaluation are: the truth's features are computed once. With
--device cuda piq and lpips are on the device too; scikit-image and scipy stay on the CPU. Peak memory is the process's,
the images included: it does not grow with the number of pairs beyond them.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from scipy import ndimage
from scipy.fft import dctn
from skimage import color, measure, metrics
from torch import Tensor

from experiments.benchmarks.footprint import peak_mib, reset_peak
from losses.features.weights import load_lpips
from recon.metrics import METRICS, Pair
from recon.metrics.deep import FeatureDistance, Lpips
from recon.metrics.distribution import SlicedWasserstein, kid
from recon.metrics.feature_networks import VGG19Features
from recon.metrics.fidelity import ms_ssim
from recon.metrics.recovery import band_moments
from recon.metrics.spectrum import dct2

try:
    import piq
except ImportError:  # its rows are missing then
    piq = None

BATCH = 32
ROWS = 6  # reconstructions of one truth


def photographs(count: int, size: int) -> Tensor:
    """Crops (count, 3, size, size) in [0, 1], float32."""
    sources = [getattr(skimage.data, name)() for name in ("astronaut", "chelsea", "coffee")]
    generator = np.random.default_rng(0)
    crops = []
    for i in range(count):
        image = sources[i % len(sources)]
        top, left = (int(generator.integers(0, side - size + 1)) for side in image.shape[:2])
        crops.append(torch.from_numpy(image[top : top + size, left : left + size].copy()).permute(2, 0, 1))
    return torch.stack(crops).float() / 255


def degraded(images: Tensor) -> Tensor:
    blurred = torch.from_numpy(ndimage.gaussian_filter(images.numpy(), (0, 0, 1, 1)))
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (blurred + 0.02 * noise).clamp(0, 1)


def _grey(image: np.ndarray) -> np.ndarray:
    return color.rgb2gray(image)


def _sobel_energy(image: np.ndarray) -> float:
    """Interior, as ours: scipy's kernels are 8 times a derivative per pixel."""
    y, x = (ndimage.sobel(_grey(image), axis=axis)[1:-1, 1:-1] / 8 for axis in (0, 1))
    return float(np.mean(x**2 + y**2))


def _ssim(image: np.ndarray, truth: np.ndarray) -> float:
    """Over every pixel, where scikit-image's own mean leaves out a border."""
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    _, full = metrics.structural_similarity(truth, image, channel_axis=2, full=True, **options)
    return float(full.mean())


# Reference functions of one image and its truth, (H, W, 3) in [0, 1] each.
REFERENCES: dict[str, tuple[str, Callable[[np.ndarray, np.ndarray], float]]] = {
    "masked_mse": ("scikit-image", lambda x, y: metrics.mean_squared_error(y, x)),
    "masked_psnr": ("scikit-image", lambda x, y: metrics.peak_signal_noise_ratio(y, x, data_range=1)),
    "ssim": ("scikit-image", _ssim),
    "variance_of_laplacian": ("scipy", lambda x, y: float(ndimage.laplace(_grey(x))[1:-1, 1:-1].var())),
    "tenengrad": ("scipy", lambda x, y: _sobel_energy(x)),
    "blur_effect": ("scikit-image", lambda x, y: measure.blur_effect(x, channel_axis=2)),
}


def pairs(images: Tensor, truths: Tensor, patch: int, device: str) -> Iterator[Pair]:
    """Batches in which every patch is hidden."""
    n = (images.shape[2] // patch) * (images.shape[3] // patch)
    for x, y in zip(images.split(BATCH), truths.split(BATCH), strict=True):
        yield Pair(x.to(device), y.to(device), torch.ones(len(x), n, dtype=torch.bool, device=device))


def seconds(function: Callable[[], object], device: str) -> tuple[float, object]:
    """Seconds and the result; of one thread on a CPU the processor's seconds, which other work does not change."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    began = clock()
    found = function()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - began, found


def over(
    function: Callable[[Pair], Tensor], images: Tensor, truths: Tensor, patch: int, device: str, warm: bool = False
) -> tuple[float, Tensor]:
    """Seconds for all images after a warm-up, and the values; the views that a metric needs are made in its time."""
    if not warm:
        function(next(pairs(images, truths, patch, device)))
    total, values = 0.0, []
    for pair in pairs(images, truths, patch, device):
        took, found = seconds(lambda pair=pair: function(pair), device)
        total += took
        values.append(found.cpu())
    return total, torch.cat(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--lpips", default="../shared/weights/alexnet_features.safetensors")
    o = parser.parse_args()
    truths = photographs(o.pairs, o.size)
    images = degraded(truths)
    print(
        f"{o.pairs} pairs, {o.size} pixels, {o.device}, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    print(
        f"{'metric':<26}{'images/s':>10}{'reference':>16}{'images/s':>10}"
        f"{'faster':>9}{'difference':>12}{'peak MiB':>10}"
    )
    with torch.inference_mode():
        for row in compared(images, truths, o.device, o.lpips, repeats=o.repeats):
            print(line(row, o.pairs), flush=True)
        rows = list(alone(images, truths, o.device))
    print("\n" + "\n".join(line(row, o.pairs) for row in rows))
    total = sum(row["seconds"] for row in rows)
    print(f"\neverything on patches of 16 pixels: {o.pairs / total:.0f} images/s, {total:.1f} s")


def compared(
    images: Tensor, truths: Tensor, device: str, weights: str, beside: int | None = None, repeats: int = 1
) -> Iterator[dict[str, Any]]:
    """A row for each metric that others have too, and six for all of them, the last one for all as in an evaluation.

    Seconds are those of all images, the fewest of `repeats` turns. `beside`: so many images are given to the references
    that take one at a time, and the seconds for all are reckoned from these.
    """
    count, size = len(images), images.shape[2]
    few = min(count, beside or count)
    arrays = [[image.permute(1, 2, 0).double().numpy() for image in each[:few]] for each in (images, truths)]
    net = Lpips("alex", weights).to(device) if Path(weights).is_file() else None
    rows: dict[str, dict[str, Any]] = {}

    def in_turns(ours: Callable[[], tuple[float, Any]], theirs: Callable[[], tuple[float, Any]]) -> dict[str, Any]:
        reset_peak(torch.device(device))
        (took, values), peak = ours(), peak_mib(torch.device(device))
        reference, expected = theirs()
        for _ in range(1, repeats):
            took, reference = min(took, ours()[0]), min(reference, theirs()[0])
        return {"seconds": took, "peak_mib": peak, "reference_seconds": reference} | {
            "difference": largest(torch.as_tensor(values).cpu()[: len(expected)], torch.as_tensor(expected).cpu())
        }

    for name, (whose, reference) in REFERENCES.items():
        row = in_turns(
            partial(over, METRICS[name], images, truths, size, device),
            lambda of=reference: seconds(lambda: [of(x, y) for x, y in zip(*arrays, strict=True)], "cpu"),
        )
        row |= {"reference_seconds": row["reference_seconds"] * count / few, "images_given": few}
        rows[name] = {"metric": name, "reference": whose} | row
        yield rows[name]
    for name, whose, ours, theirs in others(images.to(device), truths.to(device), net, weights):
        ours(), theirs()  # both sides warm up
        row = in_turns(partial(seconds, ours, device), partial(seconds, theirs, device))
        rows[name] = {"metric": name, "reference": whose} | row
        yield rows[name]
    of_pair = {"lpips": net.of_pair if net else None, **{name: METRICS[name] for name in [*REFERENCES, "ms_ssim"]}}
    for title, without in (("all but lpips", {"lpips"}), ("all", set())):
        chosen = [row for name, row in rows.items() if name not in without]
        totals = {key: sum(row[key] for row in chosen) for key in ("seconds", "reference_seconds")}
        yield {"metric": f"{title}, one by one"} | totals
        shared = [name for name in of_pair if name in rows and name not in without]
        apart = sum(row["seconds"] for name, row in rows.items() if name not in {*shared, *without})

        def together(pair: Pair, names: list[str] = shared) -> Tensor:
            return torch.stack([of_pair[name](pair).double() for name in names], 1)

        def of_rows(pair: Pair, evaluate: Callable[[Pair], Tensor] = together) -> Tensor:
            each = [Pair(pair.image, pair.true, pair.mask) for _ in range(ROWS)]
            return torch.stack([evaluate(row) for row in each], 1)

        for how, function, times in (("together", together, 1), (f"{ROWS} of one truth", of_rows, ROWS)):
            took = min(over(function, images, truths, size, device, warm=i > 0)[0] for i in range(repeats))
            yield {"metric": f"{title}, {how}", **totals, "seconds": took / times + apart}


def others(
    images: Tensor, truths: Tensor, net: Lpips | None, weights: str
) -> list[tuple[str, str, Callable, Callable]]:
    """Metrics whose reference takes batches, or is not of images; both sides on the images' device, where they can."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2048, 256, generator=generator).to(images.device) + shift for shift in (0, 0.1))
    patches = truths[:, 0].unfold(1, 16, 16).unfold(2, 16, 16)
    ones = torch.ones(1, 1, *images.shape[2:], dtype=torch.bool, device=images.device)

    def each(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], Tensor]:
        batches = list(zip(images.split(BATCH), truths.split(BATCH), strict=True))
        return lambda: torch.cat([function(x, y) for x, y in batches])

    def piq_kid() -> Tensor:
        return piq.KID(subset_size=2048, n_subsets=1).compute_metric(a.double(), b.double()).reshape(1)

    found = [
        (
            "dct of 16-pixel patches",
            "scipy",
            lambda: dct2(patches),
            lambda: torch.from_numpy(dctn(patches.cpu().double().numpy(), axes=(-2, -1), norm="ortho")),
        )
    ]
    if piq is not None:
        ours = each(lambda x, y: ms_ssim(x, y, ones.expand(len(x), -1, -1, -1)))
        found += [
            ("ms_ssim", "piq", ours, each(partial(piq.multi_scale_ssim, reduction="none"))),  # with other borders
            ("kid of 2048 features", "piq", lambda: torch.tensor([kid(a, b)[0]]), piq_kid),
        ]
    if net is not None:
        package = load_lpips("alex", weights, "--lpips", spatial=True)[0].to(images.device)
        found.append(
            (
                "lpips",
                "lpips",
                each(lambda x, y: net(x, y, ones.expand(len(x), -1, -1, -1))),
                each(lambda x, y: package(2 * x - 1, 2 * y - 1).mean((1, 2, 3))),
            )
        )
    return found


def alone(images: Tensor, truths: Tensor, device: str) -> Iterator[dict[str, Any]]:
    """A row for each metric on hidden patches of 16 pixels."""
    features, distance = (net("random").to(device) for net in (VGG19Features, FeatureDistance))
    texture = SlicedWasserstein(16)
    mean = torch.full((3,), 0.5, dtype=torch.float64, device=device)
    functions: dict[str, Callable[[Pair], Tensor]] = {
        **METRICS,
        "vgg19": lambda pair: distance(pair.image, pair.truth, pair.hidden),
        "kid's features": lambda pair: features(pair.image),
        "sliced_wasserstein": lambda pair: torch.zeros(len(pair.image)) if texture.update(pair) is None else pair.mask,
        "recovery": lambda pair: band_moments(pair.patches, pair.true_patches, pair.mask, mean),
    }
    for name, function in functions.items():
        reset_peak(torch.device(device))
        took, _ = over(function, images, truths, 16, device)
        yield {"metric": f"{name}, p=16", "seconds": took, "peak_mib": peak_mib(torch.device(device))}


def largest(values: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the reference's largest value."""
    return ((values.double() - expected.double()).abs().max() / expected.double().abs().max()).item()


def line(row: dict[str, Any], count: int) -> str:
    text = f"{row['metric']:<26}{count / row['seconds']:>10.0f}"
    if "reference_seconds" in row:
        theirs = row["reference_seconds"]
        text += f"{row.get('reference', ''):>16}{count / theirs:>10.1f}{theirs / row['seconds']:>8.1f}x"
        text += f"{row['difference']:>12.1e}" if "difference" in row else " " * 12
    else:
        text += " " * 47
    return text + (f"{row['peak_mib']:>10.0f}" if "peak_mib" in row else "")


if __name__ == "__main__":
    main()
