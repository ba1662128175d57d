"""What turns a patch into discrete tokens, and codes back into pixels: a codebook of patches or colours, or a network.

A tokenizer is fitted on training images and then never trained: it has buffers, and no parameters.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.options import InvalidSetting

GRID = 4  # squares along a patch's side, of which each has one token of a colour


class Tokenizer(nn.Module):
    """A codebook of K entries with D values, (K, D), and how patches are told by them.

    Until it is fitted its entries are fixed numbers of mean 0 and variance 1, which no two entries share.

    Args:
        codes: K.
        patch_size: p; a patch has P = 3 p² standardised pixels.
    """

    codebook: Tensor
    per_patch = 1  # T, the tokens of a patch
    draws_together = False  # whether a patch's pixels depend on its neighbours' tokens

    def __init__(self, codes: int, patch_size: int):
        super().__init__()
        self.patch_size = patch_size
        self.check(patch_size)
        self.register_buffer("codebook", fixed_numbers(codes, self.entry_width(patch_size)))

    @staticmethod
    def check(patch_size: int) -> None:
        """Raises InvalidSetting for a patch that it cannot divide."""

    @staticmethod
    def entry_width(patch_size: int) -> int:
        """D."""
        raise NotImplementedError

    def vectors(self, patches: Tensor) -> Tensor:
        """What is looked up in the codebook, of standardised patches: (..., P) -> (..., T, D)."""
        raise NotImplementedError

    def pixels(self, vectors: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """The patches of codebook entries, or of means of them: (..., T, D) -> (..., P). Where neighbours are drawn
        together these are (B, N, 1, D) -> (B, N, P), all patches of images of that `grid`, or a ValueError."""
        raise NotImplementedError

    @torch.no_grad()
    def tokens(self, patches: Tensor) -> Tensor:
        """Indices of the nearest entries: (..., P) -> (..., T); of equally near ones the first."""
        codebook = self.codebook.to(patches)
        # |v - c|² less |v|², which all entries share.
        return (codebook.square().sum(-1) - 2 * self.vectors(patches).to(codebook) @ codebook.T).argmin(-1)


class KMeansTokenizer(Tokenizer):
    """One token a patch: the nearest of K patches."""

    @staticmethod
    def entry_width(patch_size: int) -> int:
        return 3 * patch_size**2

    def vectors(self, patches: Tensor) -> Tensor:
        return patches.unsqueeze(-2)

    def pixels(self, vectors: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        return vectors.squeeze(-2)


class ColourTokenizer(Tokenizer):
    """4 x 4 tokens a patch, row by row: the nearest of K colours to the mean colour of each square."""

    per_patch = GRID**2

    @staticmethod
    def check(patch_size: int) -> None:
        if patch_size % GRID:
            raise InvalidSetting(
                f"losses.tokens.tokenizer=colours has {GRID} x {GRID} squares in a patch, and {GRID} does not divide "
                f"its side of {patch_size} pixels; change model.patch_size"
            )

    @staticmethod
    def entry_width(patch_size: int) -> int:
        return 3

    def vectors(self, patches: Tensor) -> Tensor:
        square = self.patch_size // GRID
        return patches.unflatten(-1, (GRID, square, GRID, square, 3)).mean((-4, -2)).flatten(-3, -2)

    def pixels(self, vectors: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        square = self.patch_size // GRID
        colours = vectors.unflatten(-2, (GRID, 1, GRID, 1))
        return colours.expand(*colours.shape[:-4], square, GRID, square, 3).flatten(-5)


class VQTokenizer(Tokenizer):
    """One token a patch, of a vector-quantised autoencoder (van den Oord et al. 2017, arXiv 1711.00937).

    The encoder sees one patch, so that a visible patch's token tells nothing of a hidden one. The decoder is
    convolutional and sees the neighbours' codes: were it not, no network would beat k-means. (BEiT's dVAE, with a code
    for each 8 x 8 pixels, sees neighbours on both sides.) `recon.training.vector_quantisation` trains it.
    """

    draws_together = True
    WIDTH, CODE = 128, 32  # channels of the networks, and D

    def __init__(self, codes: int, patch_size: int):
        super().__init__(codes, patch_size)
        values, width = 3 * patch_size**2, self.WIDTH
        self.encoder = nn.Sequential(
            nn.Linear(values, 2 * width),
            *(nn.GELU(), nn.Linear(2 * width, 2 * width), nn.GELU()),
            nn.Linear(2 * width, self.CODE),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(self.CODE, width, 3, padding=1),
            *(ConvBlock(width) for _ in range(2)),
            nn.GELU(),
            nn.Conv2d(width, values, 1),
        )
        for module in self.modules():  # buffers: no optimiser, freezing or averaging of a model's parameters finds them
            for name, parameter in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, parameter.detach())

    @staticmethod
    def entry_width(patch_size: int) -> int:
        return VQTokenizer.CODE

    def vectors(self, patches: Tensor) -> Tensor:
        return F.layer_norm(self.encoder(patches.to(self.codebook)), (self.CODE,)).unsqueeze(-2)

    def pixels(self, vectors: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        if grid is None:
            raise ValueError("a VQ tokenizer draws neighbouring patches together; read a Reconstruction's pixels")
        # In the weights' own precision: the logits may be wider.
        codes = vectors.squeeze(-2).mT.unflatten(2, grid)
        return self.decoder(codes.to(self.codebook)).flatten(2).mT.to(vectors)


class ConvBlock(nn.Module):
    """x plus two 3x3 convolutions of it."""

    def __init__(self, width: int):
        super().__init__()
        self.convs = nn.Sequential(
            nn.GELU(), nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convs(x)


TOKENIZERS: dict[str, type[Tokenizer]] = {"kmeans": KMeansTokenizer, "colours": ColourTokenizer, "vq": VQTokenizer}


def fixed_numbers(rows: int, columns: int) -> Tensor:
    """(rows, columns), the same everywhere, spread evenly with mean 0 and variance 1; drawn from no generator."""
    spread = (torch.arange(rows * columns, dtype=torch.float64) * 12.9898).sin() * 43758.5453
    return (spread.frac() * 3**0.5).float().view(rows, columns)
