"""Reconstructions without training: mean colour, nearest patch, biharmonic inpainting."""

from concurrent.futures import ThreadPoolExecutor

import torch
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from losses.reconstruction import patchify, unpatchify
from recon.metrics.base import Pair
from recon.metrics.fidelity import mean_of_visible


def mean(truth: Tensor, mask: Tensor) -> Tensor:
    """Mean of the visible colours: one colour per image. (B, 3, H, W), (B, N) -> (B, 3, H, W)."""
    pair = Pair(truth, truth, mask)
    return mean_of_visible(pair.truth, pair.hidden)


def nearest_visible(truth: Tensor, mask: Tensor) -> Tensor:
    """Nearest visible patch: each hidden patch is a copy of it. (B, 3, H, W), (B, N) -> (B, 3, H, W).

    Nearest by the Euclidean distance of the centres; of several equally near the first in row order.
    """
    pair = Pair(truth, truth, mask)
    patches = patchify(pair.truth, pair.patch_size)
    source = nearest(mask, pair.grid).unsqueeze(-1).expand_as(patches)
    copies = patches.gather(1, source).masked_fill(mask.all(1)[:, None, None], torch.nan)
    return unpatchify(copies, pair.grid)


def nearest(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """The index of the visible patch nearest to each patch: (B, N) bool -> (B, N)."""
    rows, columns = (torch.arange(side, device=mask.device) for side in grid)
    centres = torch.cartesian_prod(rows, columns)
    distance = (centres[:, None] - centres).square().sum(-1)  # (N, N), in patches, squared
    n = mask.shape[1]
    order = distance * n + torch.arange(n, device=mask.device)  # no ties within a row
    return order.masked_fill(mask[:, None, :], torch.iinfo(order.dtype).max).argmin(-1)


def biharmonic(truth: Tensor, mask: Tensor) -> Tensor:
    """Biharmonic inpainting (scikit-image): the smoothest surface through the visible pixels, in float64.

    scikit-image clips each channel to the range of its visible values. Each image is a sparse linear system in its
    hidden pixels, solved directly: by far the slowest baseline. Images are independent, so as many threads as torch may
    use solve them (the solver releases the interpreter lock), and a caller that shows progress may pass few at a time.

    (B, 3, H, W), (B, N) -> (B, 3, H, W).
    """
    pair = Pair(truth, truth, mask)
    images, hidden = pair.truth.double().cpu(), pair.hidden.cpu()
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        inpainted = torch.stack(list(threads.map(inpaint, images, hidden)))
    return Pair(inpainted.to(pair.truth), truth, mask).image


def inpaint(image: Tensor, hidden: Tensor) -> Tensor:
    """One image of `biharmonic`: (3, H, W) and (1, H, W) bool, on the CPU -> (3, H, W)."""
    if hidden.all():
        return torch.full_like(image, torch.nan)
    return torch.from_numpy(inpaint_biharmonic(image.numpy(), hidden[0].numpy(), channel_axis=0))
