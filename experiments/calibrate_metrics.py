"""How well each sharpness metric tells known blur, and how much noise makes blur pass for sharp.

    python -m experiments.calibrate_metrics [data=FOLDER] [images=64] [image_size=224] [patch_size=16] [seed=0]
                                            [out=runs/calibration]

Any folder of images, such as Kodak's; by default the eight photographs that come with scikit-image. Each image is
blurred by Gaussians of known width, then the same noise is added at every width, and the result is clamped and rounded
to 8 bits. 75% of the patches count, as in an evaluation. Writes table.md, which docs/sharpness.md shows, scores.csv
with every number, and calibration.png.

Spearman's rank correlation is with sharpness, minus the width of the blur: 1 where less blur always scores sharper.
Within an image: over the widths, mean over images. Across images: over all images and widths together, so that an
image that has more texture than another must not pass for a sharper one; then the same of the metric relative to its
value on the truth. A width passes for sharp at a noise where the median image scores as sharp as without blur and
noise.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from torch import Tensor

from losses import InvalidSetting
from recon.data import evaluation_crop
from recon.data.folder import images_below
from recon.data.public import PHOTOGRAPHS
from recon.data.source import UnreadableImage, as_unreadable, read_rgb
from recon.evaluation.evaluator import in_8_bits
from recon.metrics import GROUPS, METRICS, Pair
from recon.metrics.recovery import band_moments, summary
from recon.report.tables import write_csv
from recon.run_folder import write_text

BLUR = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)  # standard deviation of the Gaussian, in pixels
NOISE = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # standard deviation, in levels of 8 bits
PASSING = (1.0, 2.0, 4.0)  # widths for which the table says what noise makes them pass for sharp
SHARPER_LOWER = {"blur_effect", "edge_width", "seam_ratio", "log_spectral_distance"}
RECOVERED = ("retention", "coherent_retention")  # of each image
COMPARING = {"log_spectral_distance", *RECOVERED}  # with the truth
NAMES = [name for name in GROUPS["sharpness"] if name in METRICS] + list(RECOVERED)


@dataclass
class Settings:
    data: str | None = None
    images: int = 64
    image_size: int = 224
    patch_size: int = 16
    seed: int = 0
    out: str = "runs/calibration"


def photographs(settings: Settings) -> Tensor:
    """Central crops (n, 3, S, S) in [0, 1] of up to `images` pictures, evenly spaced in the folder's sorted list."""
    if settings.data is None:
        paths = [Path(skimage.data.__file__).parent / name for name in PHOTOGRAPHS]
    else:
        folder = Path(settings.data)
        if not folder.is_dir():
            raise InvalidSetting(f"data={folder}: there is no such folder")
        paths = [folder / name for name in images_below(folder)[0]]
    n = min(settings.images, len(paths))
    size, crops = (settings.image_size, settings.image_size), []
    for path in (paths[i * len(paths) // n] for i in range(n)):
        try:
            with as_unreadable(path):
                crops.append(evaluation_crop(read_rgb(path), size))
        except UnreadableImage as error:
            raise InvalidSetting(f"{error}; take it out of the folder, or ask for other images=") from error
    return torch.stack(crops).float() / 255


def degraded(images: Tensor, blur: float, noise: float, seed: int = 0) -> Tensor:
    """Images blurred by a Gaussian of `blur` pixels, with noise of `noise` 8-bit levels, in 8 bits: (n, 3, S, S)."""
    blurred = torch.from_numpy(gaussian_filter(images.double().numpy(), (0, 0, blur, blur), mode="reflect"))
    z = torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return in_8_bits((blurred + noise / 255 * z).clamp(0, 1)).float()


def scores_of(image: Tensor, truth: Tensor, mask: Tensor) -> dict[str, np.ndarray]:
    """Every metric of `NAMES`, as it is: (n,) each."""
    pair = Pair(image, truth, mask)
    moments = band_moments(pair.patches, pair.true_patches, mask, torch.full((3,), 0.5))
    recovered = summary(moments)
    found = {name: recovered[name] if name in RECOVERED else METRICS[name](pair) for name in NAMES}
    return {name: values.double().numpy() for name, values in found.items()}


def measure(images: Tensor, patch_size: int, seed: int) -> dict[str, np.ndarray]:
    """Metric -> (noise, blur, image) of all levels."""
    grid = (images.shape[2] // patch_size) ** 2
    noise = torch.rand(len(images), grid, generator=torch.Generator().manual_seed(seed))
    mask = noise.argsort(1).argsort(1) >= grid // 4
    levels = [[scores_of(degraded(images, b, n, seed), images, mask) for b in BLUR] for n in NOISE]
    return {name: np.array([[found[name] for found in line] for line in levels]) for name in NAMES}


def correlation(scores: np.ndarray, name: str) -> float:
    """Spearman's with sharpness, of scores (blur, ...); NaN scores are left out."""
    sharpness = -np.broadcast_to(np.reshape(BLUR, (-1, *[1] * (scores.ndim - 1))), scores.shape)
    known = np.isfinite(scores)
    if known.sum() < 3 or np.ptp(scores[known]) == 0:
        return float("nan")
    sign = -1 if name in SHARPER_LOWER else 1
    return float(spearmanr(sharpness[known], sign * scores[known]).statistic)


def within(scores: np.ndarray, name: str) -> float:
    """The mean over images of the correlation over the widths: scores (blur, image)."""
    each = np.array([correlation(image, name) for image in scores.T])
    return float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")


def passes_at(scores: np.ndarray, name: str, blur: float) -> float | None:
    """The least noise at which a width passes for sharp, of scores (noise, blur, image); None where none does."""
    sign = -1 if name in SHARPER_LOWER else 1
    gained = sign * (scores[:, BLUR.index(blur)] - scores[0, 0])
    return next((n for n, each in zip(NOISE, gained, strict=True) if np.nanmedian(each) >= 0), None)


def relative_to_truth(scores: np.ndarray, name: str) -> np.ndarray:
    """Scores (noise, blur, image) relative to the truth's; of metrics that compare with it, as they are."""
    true = scores[0, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        return scores if name in COMPARING else (scores - true) / abs(true)


def table(scores: dict[str, np.ndarray]) -> list[list[str]]:
    """Lines of cells: a metric's correlations, and the noise that makes each width pass for sharp."""
    heading = ["metric", "within an image", "with noise of 8", "across images", "relative to the truth"]
    lines = [[*heading, *(f"blur {b:g} passes at" for b in PASSING)]]
    for name, found in scores.items():
        numbers = [
            within(found[0], name),
            within(found[NOISE.index(8.0)], name),
            correlation(found[0], name),
            correlation(relative_to_truth(found, name)[0], name),
        ]
        passing = [passes_at(found, name, b) for b in PASSING]
        cells = [f"{x:.2f}" for x in numbers] + ["never" if n is None else f"{n:g}" for n in passing]
        lines.append([f"`{name}`", *cells])
    return lines


def draw(scores: dict[str, np.ndarray], out: Path) -> None:
    """Each metric's median over images against the width of the blur, a line per noise."""
    figure = Figure(figsize=(13, 9), layout="constrained")
    axes = figure.subplots(3, -(-len(scores) // 3), squeeze=False).ravel()
    shades = colormaps["viridis"](np.linspace(0, 0.9, len(NOISE)))
    for axis, (name, found) in zip(axes, scores.items(), strict=False):
        for noise, line, shade in zip(NOISE, found, shades, strict=True):
            median = np.nanmedian(line, axis=1)
            axis.plot(BLUR, median, color=shade, marker=".", label=f"noise {noise:g}")
        axis.axhline(np.nanmedian(found[0, 0]), color="0.4", linestyle=":", linewidth=1)
        axis.set_title(f"{name} ({'lower' if name in SHARPER_LOWER else 'higher'} is sharper)", fontsize=8)
        axis.tick_params(labelsize=7)
        if name in ("variance_of_laplacian", "tenengrad", "brenner", "high_frequency_share", "retention"):
            axis.set_yscale("log")
            axis.yaxis.set_minor_formatter(NullFormatter())
    for axis in axes[len(scores) :]:
        axis.set_axis_off()
    axes[-1].legend(*axes[0].get_legend_handles_labels(), title="8-bit levels", loc="center")
    figure.supxlabel("standard deviation of the blur, in pixels; dotted: the photographs themselves", fontsize=9)
    figure.savefig(out, dpi=110)


def main(words: list[str]) -> None:
    try:
        chosen = OmegaConf.merge(OmegaConf.structured(Settings), OmegaConf.from_dotlist(words))
    except (OmegaConfBaseException, ValueError) as error:
        raise InvalidSetting(f"{str(error).splitlines()[0]}; settings are key=value, see --help") from error
    settings = OmegaConf.to_object(chosen)
    if settings.patch_size < 1 or settings.image_size < 1 or settings.image_size % settings.patch_size:
        raise InvalidSetting(f"image_size={settings.image_size} is no multiple of patch_size={settings.patch_size}")
    images = photographs(settings)
    scores = measure(images, settings.patch_size, settings.seed)
    out = Path(settings.out)
    out.mkdir(parents=True, exist_ok=True)
    heading, *lines = table(scores)
    text = "\n".join("| " + " | ".join(line) + " |" for line in [heading, ["---"] * len(heading), *lines])
    write_text(out / "table.md", text + "\n")
    records = [
        {"metric": name, "noise": n, "blur": b, "image": k, "value": value}
        for name, found in scores.items()
        for n, of_noise in zip(NOISE, found, strict=True)
        for b, of_blur in zip(BLUR, of_noise, strict=True)
        for k, value in enumerate(of_blur.tolist())
    ]
    write_csv(records, out / "scores.csv")
    draw(scores, out / "calibration.png")
    print(f"{len(images)} images of {settings.image_size} pixels, patches of {settings.patch_size}\n\n{text}\n\n{out}")


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        sys.exit(0)
    try:
        main(sys.argv[1:])
    except InvalidSetting as error:
        print(error, file=sys.stderr)
        sys.exit(2)
