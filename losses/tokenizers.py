"""What turns a patch into discrete tokens, and codes back into pixels: a codebook of patches, or of colours.

A tokenizer is fitted on training images and then never trained: it has buffers, and no parameters.
"""

import torch
from torch import Tensor, nn

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

    def pixels(self, vectors: Tensor) -> Tensor:
        """The patches of codebook entries, or of means of them: (..., T, D) -> (..., P)."""
        raise NotImplementedError

    @torch.no_grad()
    def tokens(self, patches: Tensor) -> Tensor:
        """Indices of the nearest entries: (..., P) -> (..., T); of equally near ones the first."""
        codebook = self.codebook.to(patches)
        # |v - c|² less |v|², which all entries share.
        return (codebook.square().sum(-1) - 2 * self.vectors(patches) @ codebook.T).argmin(-1)


class KMeansTokenizer(Tokenizer):
    """One token a patch: the nearest of K patches."""

    @staticmethod
    def entry_width(patch_size: int) -> int:
        return 3 * patch_size**2

    def vectors(self, patches: Tensor) -> Tensor:
        return patches.unsqueeze(-2)

    def pixels(self, vectors: Tensor) -> Tensor:
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

    def pixels(self, vectors: Tensor) -> Tensor:
        square = self.patch_size // GRID
        colours = vectors.unflatten(-2, (GRID, 1, GRID, 1))
        return colours.expand(*colours.shape[:-4], square, GRID, square, 3).flatten(-5)


TOKENIZERS: dict[str, type[Tokenizer]] = {"kmeans": KMeansTokenizer, "colours": ColourTokenizer}


def fixed_numbers(rows: int, columns: int) -> Tensor:
    """(rows, columns), the same everywhere, spread evenly with mean 0 and variance 1; drawn from no generator."""
    spread = (torch.arange(rows * columns, dtype=torch.float64) * 12.9898).sin() * 43758.5453
    return (spread.frac() * 3**0.5).float().view(rows, columns)
