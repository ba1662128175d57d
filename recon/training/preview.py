"""The same held-out images, reconstructed again and again while a run learns."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from losses.reconstruction import Reconstruction
from recon.metrics.fidelity import masked_psnr, mean_of_visible
from recon.report.pictures import reconstruction_rows, write_rows

SHOWN = 8  # images of the picture, spread over the held-out ones; PSNR is over all


@dataclass(frozen=True)
class Preview:
    """Held-out images (n, 3, H, W) in [0, 1] and their masks' noise (n, N), on the device; `batch` at a time."""

    images: Tensor
    noise: Tensor
    batch: int

    @torch.no_grad()
    def reconstruct(self, model: nn.Module) -> list[Reconstruction]:
        pairs = zip(self.images.split(self.batch), self.noise.split(self.batch), strict=True)
        return [model(images, noise=noise) for images, noise in pairs]


def masked_psnrs(reconstructions: list[Reconstruction]) -> tuple[float, float]:
    """Mean masked PSNR in dB over images: of the reconstructions, and of the mean of the visible colours."""
    ours = [masked_psnr(r.composite.float(), r.image, r.hidden_pixels) for r in reconstructions]
    filled = [masked_psnr(mean_of_visible(r.image, r.hidden_pixels), r.image, r.hidden_pixels) for r in reconstructions]
    return torch.cat(ours).mean().item(), torch.cat(filled).mean().item()


def draw(reconstructions: list[Reconstruction], caption: str, path: Path) -> Tensor:
    """Writes truth, masked, reconstruction, error, and where the head needs statistics the oracle; returns the grid."""
    rows: dict[str, list[Tensor]] = {}
    for r in reconstructions:
        found = reconstruction_rows(r.image, r.hidden_pixels, r.composite.float())
        if r.head.statistics:
            found["oracle\n(true mean, std)"] = r.oracle_composite.float().clamp(0, 1)
        for title, images in found.items():
            rows.setdefault(title, []).append(images)
    whole = {title: torch.cat(parts) for title, parts in rows.items()}
    return write_rows({title: images[:: -(-len(images) // SHOWN)] for title, images in whole.items()}, caption, path)
