"""Corruptions of whole images, which hide no patch: Gaussian noise, and hidden principal components.

The encoder sees every patch of the corrupted image, and every patch is judged. What is drawn by chance is a function of
an image's row of mask noise (N,), by a hash on the row's device: it depends on nothing else of the batch, and the host
does not wait.
"""

import math

import torch
from torch import Tensor, nn

from losses.reconstruction import patchify, unpatchify
from recon.model.fitted import FittedComponents
from recon.model.masking import corrupts


class GaussianNoise(nn.Module):
    """Adds noise of deviation `std` to images (B, 3, H, W) in [0, 1], which may overshoot: denoising autoencoders.

    Vincent et al. 2010 (JMLR 11), section 3.3, on all pixels instead of hiding any.
    """

    title = "the noisy image"

    def __init__(self, std: float):
        super().__init__()
        self.std = std

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """The noisy images, by the mask noise (B, N)."""
        return images + self.std * normal_numbers(noise, images[0].numel()).view(images.shape).to(images.dtype)

    def complete(self, prediction: Tensor, corrupted: Tensor, noise: Tensor) -> Tensor:
        """The prediction as it is: noise leaves no part of an image as it was."""
        return prediction


class HiddenComponents(FittedComponents):
    """Hides a random set of principal components, the same in all patches of an image.

    As principal masked autoencoders (Bizeul et al. 2025, arXiv 2502.06314): components are taken in random order until
    their share of the variance comes nearest to `ratio`, one at least; the model sees the others, and the error is that
    of the hidden ones, since the rest of the prediction is replaced by what was visible. They hide components of whole
    images, and find the ratio of 0.2 good on all their data. Ours are of patches: a PCA of whole images has as many
    values as images have pixels, squared.

    Args:
        ratio: share of the variance to hide, above 0 and below 1.
        mean, std: (3, 1, 1), by which images are standardised.
    """

    mean: Tensor
    std: Tensor
    title = "what is left of the image"

    def __init__(self, ratio: float, patch_size: int, mean: Tensor, std: Tensor):
        super().__init__(3 * patch_size**2)
        self.ratio, self.patch_size = ratio, patch_size
        self.register_buffer("mean", mean.clone(), persistent=False)
        self.register_buffer("std", std.clone(), persistent=False)

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """What the visible components make of images (B, 3, H, W) in [0, 1]; it may overshoot."""
        grid = images.shape[2] // self.patch_size, images.shape[3] // self.patch_size
        patches = self.patches_of(images)
        return unpatchify(patches - self.projected(patches, noise), grid) * self.std + self.mean

    def complete(self, prediction: Tensor, corrupted: Tensor, noise: Tensor) -> Tensor:
        """Predicted standardised pixels (B, N, P) in the hidden components, the truth in the visible ones."""
        patches = self.patches_of(corrupted)
        return patches + self.projected(prediction.to(patches.dtype), noise)

    def patches_of(self, images: Tensor) -> Tensor:
        """Standardised patches (B, N, P)."""
        return patchify((images - self.mean) / self.std, self.patch_size)

    def projected(self, patches: Tensor, noise: Tensor) -> Tensor:
        """The hidden components of (B, N, P)."""
        with torch.autocast(patches.device.type, enabled=False):  # what is visible is not to be rounded
            return ((patches @ self.axes) * self.hidden(noise).unsqueeze(1)) @ self.axes.T

    def hidden(self, noise: Tensor) -> Tensor:
        """Which components are hidden, (B, P) bool, by the mask noise (B, N)."""
        variances = self.deviations.square()
        shares = variances / variances.sum()
        order = hashed(noise, len(shares)).argsort(dim=1)
        hidden_share = shares[order].cumsum(dim=1)
        count = 1 + (hidden_share[:, :-1] - self.ratio).abs().argmin(dim=1, keepdim=True)
        return order.argsort(dim=1) < count


def corruption_of(
    strategy: str, ratio: float, patch_size: int, mean: Tensor, std: Tensor
) -> GaussianNoise | HiddenComponents | None:
    """That of a masking strategy's name; None where it hides patches."""
    if not corrupts(strategy):
        return None
    kind, _, deviation = strategy.partition(" of ")
    return HiddenComponents(ratio, patch_size, mean, std) if kind == "components" else GaussianNoise(float(deviation))


def normal_numbers(noise: Tensor, count: int) -> Tensor:
    """Standard normal numbers (B, count), float32, by the rows of mask noise (B, N): Box and Muller's."""
    bits = hashed(noise, -(-count // 2))
    first, second = (((bits >> shift & 0xFFFFFFFF).float() + 0.5) / 2**32 for shift in (32, 0))
    radius = (-2 * first.log()).sqrt()
    angle = 2 * math.pi * second
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count]


def hashed(noise: Tensor, count: int) -> Tensor:
    """Uniform 64-bit numbers (B, count) by the rows of mask noise (B, N): SplitMix64 seeded by a hash of the row."""
    bits = noise.float().contiguous().view(torch.int32).long()
    seed = _mixed(bits + GOLDEN * torch.arange(1, bits.shape[1] + 1, device=noise.device)).sum(dim=1, keepdim=True)
    return _mixed(_mixed(seed) + GOLDEN * torch.arange(1, count + 1, device=noise.device))


GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # SplitMix64's constants (Steele et al. 2014), as signed numbers that overflow
FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def _mixed(x: Tensor) -> Tensor:
    """SplitMix64's finaliser; right shifts of signed numbers are stripped of the sign's copies."""
    x = (x ^ (x >> 30 & 2**34 - 1)) * FACTORS[0]
    x = (x ^ (x >> 27 & 2**37 - 1)) * FACTORS[1]
    return x ^ (x >> 31 & 2**33 - 1)
