"""Layers of the masked autoencoder: positions, transformer blocks, and the refiner."""

from functools import partial
from typing import Any

import torch
from timm.layers import Attention as TimmAttention
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from losses.reconstruction import expand_to_pixels, patchify, unpatchify


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
    training step takes 1.43 times as long (nano/8, 64 pixels, batch 16), or 1.16 times (base/16, 224 pixels, batch 8);
    in float32 it takes 0.98 and 0.96 times as long. One thread, processor time, medians, `Bench("mse")` of
    `python -m experiments.benchmarks.step`.
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


def gather_tokens(tokens: Tensor, positions: Tensor) -> Tensor:
    """(B, N, D) at (B, n) -> (B, n, D)."""
    return tokens.gather(1, positions.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def statistics_head(width: int, outputs: int) -> nn.Sequential:
    """(..., width) -> (..., outputs), through one hidden layer."""
    head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, outputs))
    initialise_linear(head)
    return head


SHRINK = 2  # works at half resolution, within at a quarter: pixels of 2x2 squares become channels


class Refiner(nn.Module):
    """A residual correction of the hidden patches, read from visible and predicted pixels together.

    The decoder's last layer predicts every patch by itself, so edges remain where two patches meet, and texture does
    not continue from one to the next. This U-Net of two resolutions sees the whole composite. Its last layer is zero at
    initialisation, so that a model predicts the same with a new refiner as without.

    It also reads a fixed map of Gaussian noise (`grain`), as StyleGAN's layers do (Karras et al. 2018, arXiv
    1812.04948): without it convolutions make only regular patterns from smooth predictions. The map is the same for
    every image, so the model stays deterministic.

    Args:
        width: channels at half resolution; twice as many at a quarter.
        image_size: (H, W), multiples of 4.

    Shape: see `forward`.
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
