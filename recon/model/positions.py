"""Fixed two-dimensional sine-cosine positions, as in the official MAE code."""

import torch
from torch import Tensor


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
