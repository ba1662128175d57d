"""Images and the patches they are made of, in the order of the official MAE code."""

from torch import Tensor


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) -> (B, N, p*p*C): patches row by row; within a patch rows, columns, then channels.

    H and W are multiples of `patch_size`.
    """
    b, c, h, w = images.shape
    p = patch_size
    x = images.reshape(b, c, h // p, p, w // p, p)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // p) * (w // p), p * p * c)


def unpatchify(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, N, p*p*3) -> (B, 3, H, W), the inverse of `patchify`; `grid` is (H / p, W / p)."""
    b, _, values = patches.shape
    rows, columns = grid
    p = round((values // 3) ** 0.5)
    x = patches.reshape(b, rows, columns, p, p, 3)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(b, 3, rows * p, columns * p)


def spread(per_patch: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """One value per patch to one per pixel: (B, N) -> (B, 1, H, W)."""
    b, (rows, columns), p = per_patch.shape[0], grid, patch_size
    patches = per_patch.reshape(b, rows, 1, columns, 1).expand(-1, -1, p, -1, p)
    return patches.reshape(b, 1, rows * p, columns * p)
