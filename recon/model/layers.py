"""The encoder of the masked autoencoder, a vision transformer; its layers; and the refiner behind the decoder."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import Attention as TimmAttention
from timm.layers import DropPath, PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from losses.reconstruction import expand_to_pixels, patchify, unpatchify

SHRINK = 2  # works at half resolution, within at a quarter: pixels of 2x2 squares become channels


def sincos_positions(width: int, grid: tuple[int, int]) -> Tensor:
    """Positions of a class token (zeros) and of `grid` = (rows, columns) patches, row by row: (1, 1 + N, width).

    The first half of the channels encodes the column, the second the row; each half is sines, then cosines, of
    frequencies 10000^(-i / (width/4)). `width` is a multiple of 4. Vaswani et al. 2017 in two dimensions, in the
    official code's order, so that its checkpoints' stored positions are reproduced.
    """
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in grid)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    halves = []
    for coordinate in (x, y):
        angle = coordinate.reshape(-1, 1) * frequencies
        halves += [angle.sin(), angle.cos()]
    patches = torch.cat(halves, dim=1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), patches]).float().unsqueeze(0)


class LayerNorm(nn.LayerNorm):
    """torch's, with the official MAE code's epsilon."""

    def __init__(self, width: int, **options: Any):
        super().__init__(width, eps=1e-6, **options)


class Attention(TimmAttention):
    """timm's attention: on a CPU two products and a softmax, elsewhere torch's fused kernels.

    torch's kernel for CPUs is slow in bfloat16, which training uses where the processor has such units: with it a
    training step takes 1.41 times as long (nano/8, 64 pixels, batch 16), or 1.15 times (base/16, 224 pixels, batch 8);
    in float32 it takes 1.00 and 0.97 times as long (`python -m experiments.benchmarks.libraries`, one thread).
    """

    @property
    def fused_attn(self) -> bool:  # pyright: ignore[reportGeneralTypeIssues]  timm declares a constant
        return self.qkv.weight.device.type != "cpu"

    @fused_attn.setter
    def fused_attn(self, switched: bool) -> None:
        """Ignores timm's global switch: numbers would depend on what ran before a model was made."""


def zero_initialise(layer: nn.Module) -> None:
    """Zero weights and biases."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def initialise_linear(module: nn.Module) -> None:
    """Xavier-uniform matrices and zero biases, as the official code."""
    for each in module.modules():
        if isinstance(each, nn.Linear):
            nn.init.xavier_uniform_(each.weight)
            nn.init.zeros_(each.bias)


def transformer_blocks(depth: int, width: int, heads: int) -> nn.ModuleList:
    """timm's, by names and shapes."""
    kind = partial(Block, mlp_ratio=4, qkv_bias=True, norm_layer=LayerNorm, attn_layer=Attention)
    return nn.ModuleList(kind(width, heads) for _ in range(depth))


def set_drop_path(blocks: nn.ModuleList, probability: float) -> None:
    """Skips the last block's branches with `probability` while training (stochastic depth, Huang et al. 2016), those
    before it linearly less often, from 0 at the first."""
    for number, block in enumerate(blocks):
        share = probability * number / max(1, len(blocks) - 1)
        block.drop_path1, block.drop_path2 = DropPath(share), DropPath(share)


def gather_tokens(tokens: Tensor, positions: Tensor) -> Tensor:
    """(B, N, D) at (B, n) -> (B, n, D)."""
    return tokens.gather(1, positions.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


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
        class_tokens: int,
        gradient_checkpointing: bool,
        mean: Sequence[float],
        std: Sequence[float],
    ):
        super().__init__()
        self.image_size, self.patch_size = image_size, patch_size
        self.grid = (image_size[0] // patch_size, image_size[1] // patch_size)
        self.patches = self.grid[0] * self.grid[1]
        self.class_tokens, self.gradient_checkpointing = class_tokens, gradient_checkpointing
        self.patch_embed = PatchEmbed(image_size, patch_size, 3, width)
        self.cls_token = nn.Parameter(torch.zeros(1, class_tokens, width))
        self.register_buffer("pos_embed", sincos_positions(width, self.grid))
        self.blocks = transformer_blocks(depth, width, heads)
        self.norm = LayerNorm(width)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def encode(self, images: Tensor) -> Tensor:
        """Class and patch tokens of whole images, no masking: (B, 3, H, W) in [0, 1] -> (B, K + N, D)."""
        return self.encode_tokens(self.embed(images))

    def encode_layers(self, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """As `encode`, but after each of the blocks `layers`, counted from 1, in rising order; later blocks do not run.
        Each gets the final norm, as in DINOv2's `get_intermediate_layers` (Oquab et al. 2023, arXiv 2304.07193)."""
        x, found = self._with_class_tokens(self.embed(images)), []
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
        """Patch tokens (B, n, D) -> the encoder's output, class tokens first, (B, K + n, D)."""
        return self.norm(self.run_blocks(self.blocks, self._with_class_tokens(tokens)))

    def run_blocks(self, blocks: Iterable[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
        """One block after the other, with gradient checkpointing if the model has it."""
        for block in blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x

    def _with_class_tokens(self, tokens: Tensor) -> Tensor:
        return torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1), tokens], dim=1)


class Refiner(nn.Module):
    """A residual correction of the hidden patches, read from visible and predicted pixels together.

    The decoder's last layer predicts every patch by itself, so edges remain where two patches meet, and texture does
    not continue from one to the next. This U-Net of two resolutions, `width` channels at half resolution and twice as
    many at a quarter, sees the whole composite, of sides that are multiples of 4. Its last layer is zero at
    initialisation, so that a model predicts the same with a new refiner as without.

    It also reads a fixed map of Gaussian noise (`grain`), as StyleGAN's layers do (Karras et al. 2018, arXiv
    1812.04948): without it convolutions make only regular patterns from smooth predictions. The map is the same for
    every image, so the model stays deterministic.
    """

    grain: Tensor

    def __init__(self, width: int, image_size: tuple[int, int]):
        super().__init__()
        self.width = width
        self.inputs = nn.Conv2d(5 * SHRINK**2, width, 3, padding=1)
        self.before = Residual(width)
        self.down = nn.Conv2d(width * SHRINK**2, 2 * width, 1)
        self.within = nn.Sequential(Residual(2 * width), Residual(2 * width))
        self.up = nn.Conv2d(2 * width, width, 1)
        self.after = Residual(width)
        self.outputs = nn.Conv2d(width, 3 * SHRINK**2, 3, padding=1)
        zero_initialise(self.outputs)
        grain = torch.randn(1, 1, *image_size, generator=torch.Generator().manual_seed(0), device="cpu")
        self.register_buffer("grain", grain, persistent=False)

    def forward(self, prediction: Tensor, truth: Tensor, mask: Tensor, hidden: Tensor) -> Tensor:
        """The prediction with the hidden patches corrected, in its own shape.

        Args:
            prediction: standardised pixels of every patch, (B, N, P), or of the patches `hidden` alone, (B, n, P).
            truth: (B, 3, H, W), standardised.
            mask: (B, N) bool, True = hidden.
            hidden: (B, n), the positions of all hidden patches, n < N.
        """
        p = round((prediction.shape[-1] // 3) ** 0.5)
        grid = truth.shape[2] // p, truth.shape[3] // p
        at = hidden.unsqueeze(-1).expand(-1, -1, prediction.shape[-1])
        pixels = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        everywhere = prediction.shape[1] == mask.shape[1]
        whole = pixels if everywhere else pixels.new_zeros(*mask.shape, pixels.shape[-1]).scatter(1, at, pixels)
        covered = expand_to_pixels(mask, grid, p)
        composite = torch.where(covered, unpatchify(whole, grid), truth)
        correction = patchify(self.correction(composite, covered.to(composite.dtype)).to(pixels.dtype), p)
        return pixels + (correction * mask.unsqueeze(-1) if everywhere else correction.gather(1, at))

    def correction(self, composite: Tensor, covered: Tensor) -> Tensor:
        """(B, 3, H, W), of a standardised composite (B, 3, H, W) and where it is predicted (B, 1, H, W), 0 or 1."""
        grain = self.grain.to(composite.dtype).expand(len(composite), -1, -1, -1)
        x = F.pixel_unshuffle(torch.cat([composite, covered, grain], dim=1), SHRINK)
        x = self.before(F.silu(self.inputs(x.contiguous(memory_format=torch.channels_last))))
        below = self.within(self.down(F.pixel_unshuffle(x, SHRINK)))
        # Bilinear: a shuffle of channels into pixels would leave a pattern of its own.
        x = self.after(x + F.interpolate(self.up(F.silu(below)), scale_factor=SHRINK, mode="bilinear"))
        return F.pixel_shuffle(self.outputs(F.silu(x)), SHRINK)


class Residual(nn.Sequential):
    """x plus two 3x3 convolutions of it."""

    def __init__(self, width: int):
        super().__init__(nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)
