"""The same held-out images, reconstructed again and again while a run learns."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from losses.reconstruction import Reconstruction
from recon.metrics import Pair
from recon.metrics.fidelity import masked_psnr, mean_of_visible
from recon.metrics.sharpness import tenengrad
from recon.model import MaskedAutoencoder
from recon.report.pictures import reconstruction_rows, write_rows

# Of what needs no model: the name of its figure, and the words.
BASELINES = (
    ("mean_colour_psnr", "filling with the mean of the visible colours:"),
    ("corrupted_psnr", "the corrupted image:"),
)
SHOWN = 8  # images of the picture, spread over the held-out ones; figures are over all


@dataclass(frozen=True)
class Preview:
    """Held-out images (n, 3, H, W) in [0, 1] and their masks' noise (n, N), on the device; `batch` at a time.

    `autocast`: the run's precision, for what is no forward of a model that knows it.
    """

    images: Tensor
    noise: Tensor
    batch: int
    autocast: Callable[[], AbstractContextManager] = nullcontext

    @torch.no_grad()
    def reconstruct(self, model: nn.Module) -> list[Reconstruction]:
        pairs = zip(self.images.split(self.batch), self.noise.split(self.batch), strict=True)
        return [model(images, noise=noise) for images, noise in pairs]

    @torch.no_grad()
    def first(self, model: nn.Module) -> Reconstruction:
        """The first `batch` of them."""
        return model(self.images[: self.batch], noise=self.noise[: self.batch])

    def draws(self, model: MaskedAutoencoder, reconstructions: list[Reconstruction]) -> dict[str, Tensor]:
        """Two samples of the images that are shown, where a distribution is predicted: title -> (few, 3, H, W)."""
        if not reconstructions[0].head.renderings:
            return {}
        images, mask = _shown(self.images), _shown(torch.cat([r.mask for r in reconstructions]))
        with self.autocast():
            drawn = [model.render(images, mask, "sample", i) for i in range(2)]
        return {
            title: r.composite.float().clamp(0, 1) for title, r in zip(("a draw", "another draw"), drawn, strict=True)
        }


@dataclass(frozen=True)
class EarlierPicture:
    """What the weights of `init` reconstruct before training."""

    title: str  # of its row in the picture
    pictures: Tensor  # (few, 3, H, W) uint8, the composites that are shown
    figures: dict[str, float]  # of all held-out images
    beside: dict[str, Tensor] = field(default_factory=dict)  # rows of other models on the same images, by title

    @classmethod
    def of(cls, state: dict[str, Any]) -> Self:
        return cls(state["title"], state["pictures"], state["seen"], state.get("beside", {}))

    def state(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        return {"title": self.title, "pictures": self.pictures, "seen": self.figures, "beside": self.beside}


def earlier_picture(
    title: str, reconstructions: list[Reconstruction], beside: dict[str, list[Reconstruction]]
) -> EarlierPicture:
    """What a model reconstructs now, kept for later pictures; and what others do, by the titles of their rows."""
    others = {of: _kept(drawn) for of, drawn in beside.items()}
    return EarlierPicture(title, _kept(reconstructions), held_out_figures(reconstructions), others)


def held_out_figures(reconstructions: list[Reconstruction]) -> dict[str, float]:
    """Means over the held-out images.

    masked_psnr: dB. mean_colour_psnr: dB, of filling with the mean of the visible colours; or corrupted_psnr: dB, of
    the corrupted image. detail: squared gradient inside hidden patches (`recon.metrics.sharpness.tenengrad`) over the
    truth's; left out where patches are too small or the truth has none.
    """
    ours = [masked_psnr(r.composite.float(), r.image, r.hidden_pixels) for r in reconstructions]
    name = BASELINES[reconstructions[0].corrupted is not None][0]
    simple = [masked_psnr(_baseline(r), r.image, r.hidden_pixels) for r in reconstructions]
    found = {"masked_psnr": torch.cat(ours).mean().item(), name: torch.cat(simple).mean().item()}
    if reconstructions[0].patch_size >= 3:
        pairs = [Pair(r.composite.float(), r.image, r.mask) for r in reconstructions]
        detail = torch.cat([tenengrad(pair.grey_patches, pair.mask) for pair in pairs]).mean()
        true = torch.cat([tenengrad(pair.true_grey_patches, pair.mask) for pair in pairs]).mean()
        if true > 0:
            found["detail"] = (detail / true).item()
    return found


def describe(figures: dict[str, float]) -> str:
    """The figures for a caption."""
    detail = f", detail {figures['detail']:.2f} of the truth's" if "detail" in figures else ""
    return f"masked PSNR {figures['masked_psnr']:.2f} dB ({baseline(figures)}){detail}"


def baseline(figures: dict[str, float]) -> str:
    """The PSNR to which the run's is to be compared, in words."""
    return next(f"{words} {figures[name]:.2f} dB" for name, words in BASELINES if name in figures)


def write_picture(
    reconstructions: list[Reconstruction],
    caption: str,
    path: Path,
    earlier: EarlierPicture | None = None,
    samples: dict[str, Tensor] | None = None,
) -> Tensor:
    """Writes the rows truth, masked, earlier, reconstruction, samples, other models, error, and the oracle where
    the head needs statistics; returns the grid."""
    rows: dict[str, list[Tensor]] = {}
    for r in reconstructions:
        found = reconstruction_rows(r.image, r.hidden_pixels, r.composite.float())
        if r.corrupted is not None:
            truth, _, *rest = found.items()
            found = dict([truth, ("corrupted", r.corrupted.float().clamp(0, 1)), *rest])
        if r.head.statistics:
            found["oracle\n(true mean, std)"] = r.oracle_composite.float().clamp(0, 1)
        for title, images in found.items():
            rows.setdefault(title, []).append(images)
    shown = {title: _shown(torch.cat(parts)) for title, parts in rows.items()}
    if earlier is not None:
        truth, masked, (_, ours), *rest = shown.items()
        first, *beside = (
            (title, pictures.float() / 255)
            for title, pictures in [(earlier.title, earlier.pictures), *earlier.beside.items()]
        )
        shown = dict([truth, masked, first, ("after", ours), *(samples or {}).items(), *beside, *rest])
    elif samples:
        truth, masked, (_, ours), *rest = shown.items()
        shown = dict([truth, masked, ("the mean", ours), *samples.items(), *rest])
    return write_rows(shown, caption, path)


def _baseline(r: Reconstruction) -> Tensor:
    """The image that needs no model: the corrupted one, or the mean of the visible colours in hidden patches."""
    return mean_of_visible(r.image, r.hidden_pixels) if r.corrupted is None else r.corrupted.float()


def _kept(reconstructions: list[Reconstruction]) -> Tensor:
    composites = torch.cat([r.composite.float().clamp(0, 1) for r in reconstructions])
    return (_shown(composites) * 255).round().to(torch.uint8).cpu()


def _shown(images: Tensor) -> Tensor:
    return images[:: -(-len(images) // SHOWN)]
