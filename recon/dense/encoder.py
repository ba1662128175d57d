"""A pretrained encoder for dense prediction: maps of its tokens, from images of any size."""

from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache, partial
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn import functional as F

from recon.model import MaskedAutoencoder
from recon.model.layers import ViTEncoder, set_drop_path, sincos_positions

Grid = tuple[int, int]  # rows and columns of patches


class DenseEncoder(ViTEncoder):
    """A copy of an encoder, without its decoder, that takes images of any size.

    An image is padded at the right and at the bottom with the encoder's mean colour. Positions are the formula's for
    the padded grid; those that a fine-tuned classifier learnt are interpolated.

    With `windows` most blocks attend within windows alone (Li et al. 2022, arXiv 2203.16527, section 3), all but those
    of `quarters`. An encoder of at most four blocks has no other blocks, and so no windows. Where there are windows
    there are no class tokens, as in ViTDet. `encode` and `encode_layers` remain those of pretraining, without windows.

    Args:
        windows: patches a side of a window; None: every block is global.
        drop_path: as of `set_drop_path`.
        gradient_checkpointing: as of `MaskedAutoencoder`.
        frozen: always in evaluation mode; parameters and tokens have no gradients.
    """

    def __init__(
        self,
        model: MaskedAutoencoder,
        *,
        windows: int | None = None,
        drop_path: float = 0.0,
        gradient_checkpointing: bool = False,
        frozen: bool = False,
    ):
        block: Any = model.blocks[0]
        self.frozen, self.depth, self.width = frozen, len(model.blocks), model.cls_token.shape[-1]
        with torch.device("meta"):  # allocates nothing, and draws from no generator
            super().__init__(
                model.image_size,
                model.patch_size,
                self.width,
                self.depth,
                block.attn.num_heads,
                model.class_tokens,
                gradient_checkpointing,
                model.mean.flatten().tolist(),
                model.std.flatten().tolist(),
            )
        for name in [*self._modules, *self._parameters, *self._buffers]:
            setattr(self, name, deepcopy(getattr(model, name)))
        self.patch_embed.strict_img_size = False
        self.learnt_positions = not torch.allclose(self.pos_embed, self._formula(self.grid), atol=1e-6)
        self.global_blocks = set(quarters(self.depth))
        self.windows = windows if len(self.global_blocks) < self.depth else None
        set_drop_path(self.blocks, drop_path)
        self.requires_grad_(not frozen)
        self.cls_token.requires_grad_(not frozen and self.windows is None)
        self.train()

    def tokens(self, images: Tensor, blocks: Sequence[int], multiple: int = 1) -> list[Tensor]:
        """Patch tokens after each of `blocks`, counted from 1: (B, 3, H, W) in [0, 1] -> maps (B, D, h, w).

        Those of the last block are under the encoder's norm, as of `encode`; the others are not normalised.
        (h, w) is the grid of images of `padded_size(H, W, multiple)`.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            images = self.pad(images, multiple)
            grid = images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size
            x, found = self.embed(images), {}
            patches = x.shape[1]
            if self.windows is None:
                x = self._with_class_tokens(x)
            for number, block in enumerate(self.blocks[: max(blocks)], start=1):
                if self.windows is not None and number not in self.global_blocks:
                    block = partial(windowed_block, block, grid=grid, side=self.windows)
                x = self.run_blocks([block], x)
                if number in blocks:
                    y = self.norm(x) if number == self.depth else x
                    found[number] = y[:, -patches:].transpose(1, 2).unflatten(2, grid)
            return [found[number] for number in blocks]

    def embed(self, images: Tensor) -> Tensor:
        """As of `ViTEncoder`, for images of any size that the patch size divides."""
        grid = images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size
        return self.patch_embed(self.standardise(images)) + self.positions(grid)[:, 1:]

    def positions(self, grid: Grid) -> Tensor:
        """Of a class token and of the patches of `grid`, (1, 1 + h·w, D)."""
        if self.learnt_positions:
            return resample_abs_pos_embed(self.pos_embed, list(grid), list(self.grid))
        return self._formula(grid)

    def padded_size(self, height: int, width: int, multiple: int = 1) -> tuple[int, int]:
        """(H, W), in pixels, of a padded image, whose grid's sides are multiples of `multiple`."""
        side = self.patch_size * multiple
        return height + -height % side, width + -width % side

    def pad(self, images: Tensor, multiple: int = 1) -> Tensor:
        """Images (B, 3, H, W) with the mean colour at right and bottom, of `padded_size`."""
        height, width = images.shape[-2:]
        size = self.padded_size(height, width, multiple)
        if size == (height, width):
            return images
        padded = self.mean.to(images.dtype).expand(len(images), 3, *size).clone()
        padded[..., :height, :width] = images
        return padded

    def train(self, mode: bool = True) -> "DenseEncoder":
        """A frozen encoder stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    def _formula(self, grid: Grid) -> Tensor:
        return cached_positions(self.width, grid, self.pos_embed.device).to(self.pos_embed.dtype)


def quarters(depth: int) -> list[int]:
    """The last block of each quarter, counted from 1: depth times 1/4, 1/2, 3/4 and 1, rounded (halves up), at least 1.

    An encoder of fewer than four blocks has some of them twice: 2 blocks give 1, 1, 2, 2.
    """
    return [max(1, (depth * quarter + 2) // 4) for quarter in (1, 2, 3, 4)]


@lru_cache(maxsize=8)
def cached_positions(width: int, grid: Grid, device: torch.device) -> Tensor:
    """`sincos_positions` on `device`: their computation takes longer than a small encoder's pass."""
    return sincos_positions(width, grid).to(device)


def windowed_block(block: Any, x: Tensor, grid: Grid, side: int) -> Tensor:
    """A timm block whose attention is within windows: patch tokens (B, h·w, D) of `grid` -> (B, h·w, D)."""
    x = x + block.drop_path1(block.ls1(windowed_attention(block.attn, block.norm1(x), grid, side)))
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def windowed_attention(attention: nn.Module, x: Tensor, grid: Grid, side: int) -> Tensor:
    """Attention of (B, h·w, D) within windows of `side` x `side` patches without overlap, from the grid's upper left.

    The windows at the right and at the bottom may reach beyond the grid; nothing attends to what is there. (In
    detectron2's ViTDet zeros are there, which are attended to.)
    """
    below, right = -grid[0] % side, -grid[1] % side
    down, across = (grid[0] + below) // side, (grid[1] + right) // side

    def divided(y: Tensor) -> Tensor:
        """(B, h·w, D) -> (B, windows, side², D)."""
        y = F.pad(y.unflatten(1, grid), (0, 0, 0, right, 0, below))
        y = y.unflatten(2, (across, side)).unflatten(1, (down, side)).transpose(2, 3)
        return y.flatten(3, 4).flatten(1, 2)

    mask = None
    if below or right:
        outside = divided(x.new_ones(len(x), grid[0] * grid[1], 1)) == 0
        mask = torch.zeros_like(outside, dtype=x.dtype).masked_fill(outside, -torch.inf)
        mask = mask.flatten(0, 1).transpose(1, 2).unsqueeze(1)  # (B · windows, 1, 1, side²), added to all scores
    y = attention(divided(x).flatten(0, 1), attn_mask=mask)
    y = y.unflatten(1, (side, side)).unflatten(0, (len(x), down, across)).transpose(2, 3)
    return y.flatten(3, 4).flatten(1, 2)[:, : grid[0], : grid[1]].flatten(1, 2)
