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
from recon.report.pictures import reconstruction_rows, write_rows

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

    def draws(self, model: nn.Module, reconstructions: list[Reconstruction]) -> dict[str, Tensor]:
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
class Before:
    """What the weights of `init` draw, before training.

    Args:
        title: of its row in the picture.
        pictures: (few, 3, H, W) uint8, the composites that are shown.
        seen: the figures of all held-out images.
        beside: rows of other models on the same images, by title, as `pictures`.
    """

    title: str
    pictures: Tensor
    seen: dict[str, float]
    beside: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, state: dict[str, Any]) -> Self:
        return cls(**state)

    def state(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        return dict(vars(self))


def before(title: str, reconstructions: list[Reconstruction], beside: dict[str, list[Reconstruction]]) -> Before:
    """What a model draws now, kept for later; and what others do, by the titles of their rows."""
    others = {of: _kept(drawn) for of, drawn in beside.items()}
    return Before(title, _kept(reconstructions), figures(reconstructions), others)


def figures(reconstructions: list[Reconstruction]) -> dict[str, float]:
    """Means over the held-out images.

    masked_psnr: dB. mean_colour_psnr: dB, of filling with the mean of the visible colours. detail: squared gradient
    inside hidden patches (`recon.metrics.sharpness.tenengrad`) over the truth's; left out where patches are too small
    or the truth has none.
    """
    ours = [masked_psnr(r.composite.float(), r.image, r.hidden_pixels) for r in reconstructions]
    filled = [masked_psnr(mean_of_visible(r.image, r.hidden_pixels), r.image, r.hidden_pixels) for r in reconstructions]
    found = {"masked_psnr": torch.cat(ours).mean().item(), "mean_colour_psnr": torch.cat(filled).mean().item()}
    if reconstructions[0].patch_size >= 3:
        pairs = [Pair(r.composite.float(), r.image, r.mask) for r in reconstructions]
        detail = torch.cat([tenengrad(pair.grey_patches, pair.mask) for pair in pairs]).mean()
        true = torch.cat([tenengrad(pair.true_grey_patches, pair.mask) for pair in pairs]).mean()
        if true > 0:
            found["detail"] = (detail / true).item()
    return found


def in_words(seen: dict[str, float]) -> str:
    """The figures for a caption."""
    detail = f", detail {seen['detail']:.2f} of the truth's" if "detail" in seen else ""
    colour = f"mean of the visible colours {seen['mean_colour_psnr']:.2f} dB"
    return f"masked PSNR {seen['masked_psnr']:.2f} dB ({colour}){detail}"


def draw(
    reconstructions: list[Reconstruction],
    caption: str,
    path: Path,
    before: Before | None = None,
    samples: dict[str, Tensor] | None = None,
) -> Tensor:
    """Writes truth, masked, what was there before, reconstruction, samples, what others draw, error, and where the head
    needs statistics the oracle; returns the grid."""
    rows: dict[str, list[Tensor]] = {}
    for r in reconstructions:
        found = reconstruction_rows(r.image, r.hidden_pixels, r.composite.float())
        if r.head.statistics:
            found["oracle\n(true mean, std)"] = r.oracle_composite.float().clamp(0, 1)
        for title, images in found.items():
            rows.setdefault(title, []).append(images)
    shown = {title: _shown(torch.cat(parts)) for title, parts in rows.items()}
    if before is not None:
        truth, masked, (_, ours), *rest = shown.items()
        earlier, *beside = (
            (title, pictures.float() / 255)
            for title, pictures in [(before.title, before.pictures), *before.beside.items()]
        )
        shown = dict([truth, masked, earlier, ("after", ours), *(samples or {}).items(), *beside, *rest])
    elif samples:
        truth, masked, (_, ours), *rest = shown.items()
        shown = dict([truth, masked, ("the mean", ours), *samples.items(), *rest])
    return write_rows(shown, caption, path)


def _kept(reconstructions: list[Reconstruction]) -> Tensor:
    composites = torch.cat([r.composite.float().clamp(0, 1) for r in reconstructions])
    return (_shown(composites) * 255).round().to(torch.uint8).cpu()


def _shown(images: Tensor) -> Tensor:
    return images[:: -(-len(images) // SHOWN)]
