"""The encoder of the masked autoencoder: a vision transformer."""

from collections.abc import Sequence

import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from recon.model.layers import LayerNorm, sincos_positions, transformer_blocks


class ViTEncoder(nn.Module):
    """A timm ViT by names and shapes, with fixed positions. Arguments: see `MaskedAutoencoder`."""

    pos_embed: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        image_size: tuple[int, int],
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        gradient_checkpointing: bool,
        mean: Sequence[float],
        std: Sequence[float],
    ):
        super().__init__()
        self.image_size, self.patch_size = image_size, patch_size
        self.grid = (image_size[0] // patch_size, image_size[1] // patch_size)
        self.patches = self.grid[0] * self.grid[1]
        self.gradient_checkpointing = gradient_checkpointing
        self.patch_embed = PatchEmbed(image_size, patch_size, 3, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("pos_embed", sincos_positions(width, self.grid))
        self.blocks = transformer_blocks(depth, width, heads)
        self.norm = LayerNorm(width)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def encode(self, images: Tensor) -> Tensor:
        """Class token and patch tokens of whole images, no masking: (B, 3, H, W) in [0, 1] -> (B, 1 + N, D)."""
        return self.encode_tokens(self.embed(images))

    def encode_layers(self, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """As `encode`, but after each of the blocks `layers`, counted from 1, in rising order; later blocks do not run.

        The final norm is applied to each, as DINOv2's `get_intermediate_layers` does (Oquab et al. 2023, arXiv
        2304.07193), so that the last block's is `encode`'s.
        """
        x, found = self._with_class_token(self.embed(images)), []
        for number, block in enumerate(self.blocks[: layers[-1]], start=1):
            x = block(x)
            if number in layers:
                found.append(self.norm(x))
        return found

    def standardise(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> the same in standard deviations of the data set."""
        return (images - self.mean) / self.std

    def embed(self, images: Tensor) -> Tensor:
        """Patch tokens with their positions, (B, N, D)."""
        return self.patch_embed(self.standardise(images)) + self.pos_embed[:, 1:]

    def embed_at(self, images: Tensor, positions: Tensor) -> Tensor:
        """As `embed`, but of the patches at `positions` (B, n) alone: (B, n, D).

        The patch embedding is a convolution without overlap, so a matrix product with the selected patches equals it.
        """
        (rows, columns), p = self.grid, self.patch_size
        patches = images.unflatten(3, (columns, p)).unflatten(2, (rows, p)).permute(0, 2, 4, 1, 3, 5)
        batch = torch.arange(len(images), device=images.device).unsqueeze(1)
        patches = self.standardise(patches[batch, positions // columns, positions % columns])
        convolution = self.patch_embed.proj
        tokens = F.linear(patches.flatten(2), convolution.weight.flatten(1), convolution.bias)
        return tokens + self.pos_embed[0, 1 + positions]

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Patch tokens (B, n, D) -> the encoder's output, class token first, (B, 1 + n, D)."""
        return self.norm(self.run_blocks(self.blocks, self._with_class_token(tokens)))

    def run_blocks(self, blocks: nn.ModuleList, x: Tensor) -> Tensor:
        """One block after the other, with gradient checkpointing if the model has it."""
        for block in blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x

    def _with_class_token(self, tokens: Tensor) -> Tensor:
        return torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1), tokens], dim=1)
