"""Which patches to hide, given as noise: the lowest values stay visible, as in the official MAE code.

A strategy draws one image's noise (N,) from a generator, so an image's mask depends on nothing else.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from losses import InvalidSetting, nearest

Strategy = Callable[[tuple[int, int], float, torch.Generator | None], Tensor]


def random(grid: tuple[int, int], ratio: float, generator: torch.Generator | None) -> Tensor:
    """Every patch is hidden with the same probability."""
    return torch.rand(grid[0] * grid[1], generator=generator)


def block(
    grid: tuple[int, int], ratio: float, generator: torch.Generator | None, across_borders: bool = False
) -> Tensor:
    """Hides rectangles, of areas from 16 patches up and aspect ratios 0.3 to 3.3, until the ratio is reached.

    After BEiT (Bao et al. 2021, arXiv 2106.08254, algorithm 1), the MAE paper's "block". The last rectangle loses
    random patches, so that the number is exact. Rectangles lie within the image, so its centre is nearly always hidden
    and a corner rarely: of 14 x 14 patches at ratio 0.75 in 98% and 18% of the masks. With `across_borders` they go on
    at the opposite border, and every patch is hidden equally often.
    """
    rows, columns = grid
    hidden_count = rows * columns - visible_count(rows * columns, ratio)
    noise = torch.rand(rows, columns, generator=generator)
    hidden = torch.zeros(rows, columns, dtype=torch.bool)
    while (missing := hidden_count - int(hidden.sum())) > 0:
        area, aspect, u, v = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        area = min(16, missing) + area * max(0, missing - 16)
        aspect = 0.3 * (1 / 0.3**2) ** aspect
        height = min(rows, max(1, round((area * aspect) ** 0.5)))
        width = min(columns, max(1, round((area / aspect) ** 0.5)))
        tops, lefts = (rows, columns) if across_borders else (rows - height + 1, columns - width + 1)
        new = torch.zeros_like(hidden)
        new[:height, :width] = True
        new = new.roll((int(u * tops), int(v * lefts)), (0, 1)) & ~hidden
        if int(new.sum()) > missing:
            last = noise.masked_fill(~new, -1).flatten().topk(missing).indices
            new = torch.zeros_like(hidden).flatten().index_fill(0, last, True).view(rows, columns)
        hidden |= new
    return (noise + hidden).flatten()


def regular(grid: tuple[int, int], ratio: float, generator: torch.Generator | None) -> Tensor:
    """Keeps patches on a regular grid: at ratio 0.75 the first of every 2 x 2, the MAE paper's "grid".

    Other ratios keep the first in the order of a Bayer matrix, which spreads any number evenly. Nothing is random.
    """
    size = 1
    bayer = torch.zeros(1, 1)
    while size < max(grid):
        bayer = torch.cat([torch.cat([4 * bayer, 4 * bayer + 2], 1), torch.cat([4 * bayer + 3, 4 * bayer + 1], 1)])
        size *= 2
    return bayer[: grid[0], : grid[1]].flatten() / size**2


def blocks(grid: tuple[int, int], ratio: float, generator: torch.Generator | None, side: int = 4) -> Tensor:
    """Hides squares of `side` x `side` patches as wholes, each with the same probability.

    As Pixio (arXiv 2512.15715), with 4 of 16 pixels. Where the number of visible patches is no multiple of a square's,
    one square is visible in part, its first rows.
    """
    rows, columns = grid
    squares = torch.rand(-(-rows // side), -(-columns // side), generator=generator)
    patches = squares.repeat_interleave(side, 0).repeat_interleave(side, 1)
    return patches[:rows, :columns].flatten()


def centre(grid: tuple[int, int], ratio: float, generator: torch.Generator | None) -> Tensor:
    """Hides the middle of the image, a rectangle of its shape: the hole of context encoders. Nothing is random.

    Pathak et al. 2016 (arXiv 1604.07379) hide a quarter of the image, ratio=0.25.
    """
    down, across = ((2 * torch.arange(n) + 1 - n).abs() / n for n in grid)
    return 1 - torch.maximum(down[:, None], across).flatten()


# Those that hide no patch: their noise decides how `recon.model.corruption` corrupts the whole image.
CORRUPTIONS = ("noise", "components")

STRATEGIES: dict[str, Strategy] = {
    "random": random,
    "block": block,
    "torus": partial(block, across_borders=True),
    "grid": regular,
    "blocks": blocks,
    "centre": centre,
    **dict.fromkeys(CORRUPTIONS, random),
}


def strategy(name: str) -> Strategy:
    """The strategy of that name, "blocks of 2" with squares of that side, "noise of 0.25" with noise of that deviation;
    InvalidSetting if there is none."""
    kind, _, number = name.partition(" of ")
    if kind == "blocks" and number.isdecimal():
        return partial(blocks, side=int(number))
    if kind == "noise" and number:
        return random
    if name not in STRATEGIES:
        raise InvalidSetting(f"unknown masking.strategy '{name}'{nearest(name, STRATEGIES)} ({', '.join(STRATEGIES)})")
    return STRATEGIES[name]


def corrupts(name: str) -> bool:
    """Whether a strategy corrupts whole images instead of hiding patches."""
    return name.partition(" of ")[0] in CORRUPTIONS


def in_words(name: str, ratio: float, patches: int | None = None) -> str:
    """What a strategy of that name hides: 75% hidden (random); of so many `patches` 48 of 64 hidden (random)."""
    if corrupts(name):
        return f"{ratio:.0%} of the variance hidden (components)" if name == "components" else f"{name} on all pixels"
    share = f"{ratio:.0%}" if patches is None else f"{patches - visible_count(patches, ratio)} of {patches}"
    return f"{share} hidden ({name})"


def visible_count(patches: int, ratio: float) -> int:
    """How many of `patches` stay visible: `int(patches * (1 - ratio))`, the official code's rounding."""
    return int(patches * (1 - ratio))


def mask_from_noise(noise: Tensor, visible: int) -> Tensor:
    """(B, N) noise -> (B, N) bool, True = hidden: all but the `visible` lowest of each row, ties by position."""
    order = noise.argsort(dim=1, stable=True)
    mask = torch.ones_like(noise, dtype=torch.bool)
    return mask.scatter_(1, order[:, :visible], False)


def count_visible(mask: Tensor) -> int:
    """The number of visible patches in every row of (B, N), a ValueError if they differ; waits for the device."""
    counts = (~mask).sum(dim=1).unique()
    if len(counts) != 1:
        raise ValueError(f"every image must hide the same number of patches, not {counts.tolist()} visible")
    return int(counts)


def decoding_order(mask: Tensor, visible: int, share: float = 1, noise: Tensor | None = None) -> Tensor:
    """The patches that a decoder sees, visible ones first, each kind by position: (B, N) -> (B, n).

    Args:
        visible: how many are visible in every row.
        share: of the hidden patches, those with the lowest `noise` (B, N), without which a share below 1 raises
            ValueError.
    """
    order, shown = mask.to(torch.uint8), mask.shape[1]
    if share < 1:
        if noise is None:
            raise ValueError(f"decoded={share} of the hidden patches are those with the lowest noise; give noise")
        shown = visible + max(1, round(share * (shown - visible)))
        order += mask_from_noise(noise.to(mask.device), shown)
    return order.argsort(dim=1, stable=True)[:, :shown]
