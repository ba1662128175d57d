"""The refiner: a small convolutional network that lets neighbouring hidden patches agree."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.patches import patchify, spread, unpatchify

SHRINK = 2  # works at half resolution: pixels of 2x2 squares become channels


class Refiner(nn.Module):
    """A residual correction of the hidden patches, read from visible and predicted pixels together.

    The decoder's last layer draws every patch alone, so a step remains where two patches meet, and texture cannot run
    on from one to the next. Convolutions over the whole composite can. The last layer begins at zero: a model that
    gets a refiner predicts at first what it did before.

    Args:
        width: channels.
        depth: residual blocks of two 3x3 convolutions each.

    Shape: see `forward`.
    """

    def __init__(self, width: int, depth: int = 2):
        super().__init__()
        self.width = width
        self.inputs = nn.Conv2d(4 * SHRINK**2, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(depth)
        )
        self.outputs = nn.Conv2d(width, 3 * SHRINK**2, 3, padding=1)
        nn.init.zeros_(self.outputs.weight)
        nn.init.zeros_(self.outputs.bias)

    def forward(self, prediction: Tensor, truth: Tensor, mask: Tensor, hidden: Tensor) -> Tensor:
        """The prediction with the hidden patches corrected.

        Args:
            prediction: (B, n, P), standardised pixels of the patches `hidden`; n is the number of hidden patches.
            truth: (B, 3, H, W), standardised.
            mask: (B, N) bool, True = hidden.
            hidden: (B, n), the hidden patches' positions.
        """
        p = round((prediction.shape[-1] // 3) ** 0.5)
        grid = truth.shape[2] // p, truth.shape[3] // p
        at = hidden.unsqueeze(-1).expand(-1, -1, prediction.shape[-1])
        pixels = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        whole = pixels.new_zeros(*mask.shape, pixels.shape[-1]).scatter(1, at, pixels)
        covered = spread(mask, grid, p)
        composite = torch.where(covered, unpatchify(whole, grid), truth)
        x = torch.cat([composite, covered.to(composite.dtype)], dim=1)
        x = F.pixel_unshuffle(x, SHRINK).contiguous(memory_format=torch.channels_last)
        x = F.silu(self.inputs(x))
        for block in self.blocks:
            x = x + block(x)
        correction = F.pixel_shuffle(self.outputs(F.silu(x)).to(pixels.dtype), SHRINK)
        return pixels + patchify(correction, p).gather(1, at)
