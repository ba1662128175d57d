"""The best possible reconstruction of `gaussian_field` under squared error, how much energy it keeps, and exact draws.

The data are a mixture of Gaussians whose covariances are known (see `recon.data.synthetic`), so the mean of the
hidden pixels given the visible ones is a linear solve for each class, and over classes their mean weighted by the
posterior (Rasmussen and Williams 2006, equations 2.25, 2.26 and 2.30). Rounding to 8 bits enters as white noise,
clipping (3 in 100,000 values) is left out. Apart from these two, no reconstruction has a smaller expected error.
"""

from functools import lru_cache, reduce
from math import isqrt

import torch
from torch import Tensor

from losses.reconstruction import expand_to_pixels
from recon.config import seed_of
from recon.data.synthetic import (
    CORRELATION,
    EXPONENTS,
    FIELD_SIDE,
    MEAN,
    QUANTISATION,
    STD,
    autocovariance,
    colour,
    power,
    smoothed,
)
from recon.metrics.spectrum import band_sums, dct2

# The orthonormal axes of colour along which fields are independent, by the variance that they share.
LUMINANCE = STD**2 * (1 + 2 * CORRELATION), ((3**-0.5, 3**-0.5, 3**-0.5),)
CHROMA = STD**2 * (1 - CORRELATION), ((2**-0.5, -(2**-0.5), 0.0), (6**-0.5, 6**-0.5, -2 * 6**-0.5))


class Bayes:
    """E[hidden | visible] for images of `gaussian_field` at their own scale, every class equally likely beforehand.

    Computes in float64 on the device of its input, image by image: every mask needs matrices of its own. The time grows
    with the cube of the number of visible pixels.

    Args:
        image_size: (H, W), at most `FIELD_SIDE` each.
    """

    def __init__(self, image_size: tuple[int, int]):
        self.image_size = image_size

    def __call__(self, truth: Tensor, mask: Tensor) -> Tensor:
        """The truth where it is visible, its conditional mean elsewhere; with nothing visible, the data's mean.

        Truth (B, 3, H, W) in [0, 1], of which hidden pixels are not read, and mask (B, N) bool, True where hidden ->
        (B, 3, H, W) in [0, 1], float32 or wider.
        """
        truth = truth.to(torch.promote_types(truth.dtype, torch.float32))
        hidden = self._spread(mask)
        filled = [self.fill(image, ~where) for image, where in zip(truth, hidden, strict=True)]
        return torch.where(hidden[:, None], torch.stack(filled).clamp(0, 1).to(truth.dtype), truth)

    def fill(self, image: Tensor, visible: Tensor) -> Tensor:
        """The conditional mean of an image (3, H, W) given its `visible` (H, W) pixels: (3, H, W) float64."""
        log_likelihood, means = given_each_class(image, visible)
        return torch.einsum("k,kchw->chw", log_likelihood.softmax(0), means)

    def posterior(self, truth: Tensor, mask: Tensor) -> Tensor:
        """The probability of each class given the visible pixels: (B, 3, H, W), (B, N) -> (B, classes) float64."""
        pairs = zip(truth, self._spread(mask), strict=True)
        return torch.stack([weigh_classes(image, ~where)[0].softmax(0) for image, where in pairs])

    def exact_retention(self, mask: Tensor) -> Tensor:
        """Energy of the conditional mean over energy of the truth, per band of the hidden patches' DCT, exactly.

        For the best reconstruction its retention ρ, its coherence γ² and 1 - e are all equal to it. Energies are
        expectations around the known mean, summed over channels, classes and the hidden patches of all masks, as
        `recon.metrics.recovery` sums them over images. The class counts as known: visible pixels nearly always
        determine it.

        The time of a mask grows with the cube of the number of pixels. Random masks of one ratio differ little, so
        that a few dozen stand for all: (B, N) bool -> (bands,) float64.
        """
        p = self._patch_size(mask)
        energies = (expected_energies(where, p, a) for where in self._spread(mask) for a in EXPONENTS)
        kept, whole = band_sums(reduce(torch.add, energies))
        return kept / whole

    def _patch_size(self, mask: Tensor) -> int:
        return isqrt(self.image_size[0] * self.image_size[1] // mask.shape[1])

    def _spread(self, mask: Tensor) -> Tensor:
        """(B, N) -> (B, H, W)."""
        p = self._patch_size(mask)
        return expand_to_pixels(mask, (self.image_size[0] // p, self.image_size[1] // p), p)[:, 0]


class PosteriorDraw(Bayes):
    """One exact draw from p(hidden | visible): as sharp as the truth, with twice the least error.

    A class by its posterior, then Matheron's rule (Journel and Huijbregts 1978; Wilson et al. 2020, arXiv 2002.09309,
    section 2): a field of the prior, corrected by the conditional mean of what it has wrong at the visible pixels. It
    depends on visible pixels, mask and the number `draw` only.
    """

    def __init__(self, image_size: tuple[int, int], draw: int = 0):
        super().__init__(image_size)
        self.draw = draw

    def fill(self, image: Tensor, visible: Tensor) -> Tensor:
        """A draw in the conditional mean's place."""
        colours = image[:, visible].double()
        seen = (x.cpu().numpy().tobytes().hex() for x in (visible, colours))
        generator = torch.Generator().manual_seed(seed_of("posterior", self.draw, *seen))
        log_likelihood, _ = weigh_classes(image, visible)
        exponent = EXPONENTS[int(torch.multinomial(log_likelihood.softmax(0).cpu(), 1, generator=generator))]
        noise = torch.randn(3, FIELD_SIDE, FIELD_SIDE, dtype=torch.float64, generator=generator)
        rounding = QUANTISATION**0.5 * torch.randn(colours.shape, dtype=torch.float64, generator=generator)
        prior = STD * colour(noise, exponent).to(image.device)
        height, width = visible.shape
        wrong = colours - MEAN - prior[:, :height, :width][:, visible] - rounding.to(image.device)
        pixels = visible.nonzero()
        corrected = prior + conditional_mean(solve(wrong, lags(pixels, pixels), exponent)[1], pixels, exponent)
        return corrected[:, :height, :width] + MEAN


def given_each_class(image: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """What the visible (H, W) pixels of an image (3, H, W) say under each class, in float64.

    Returns:
        log_likelihood: (classes,) of the visible pixels, up to a constant.
        mean: (classes, 3, H, W), the conditional mean, at visible pixels without their rounding.
    """
    (log_likelihood, weights), pixels = weigh_classes(image, visible), visible.nonzero()
    means = [conditional_mean(w, pixels, exponent) for w, exponent in zip(weights, EXPONENTS, strict=True)]
    height, width = visible.shape
    return log_likelihood, torch.stack(means)[..., :height, :width] + MEAN


def weigh_classes(image: Tensor, visible: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`solve` for each class: the log-likelihoods (classes,), and the weights (3, V) of the visible pixels."""
    pixels = visible.nonzero()
    lag, colours = lags(pixels, pixels), image[:, visible].double() - MEAN
    log_likelihood, weights = zip(*(solve(colours, lag, exponent) for exponent in EXPONENTS), strict=True)
    return torch.stack(log_likelihood), weights


def solve(colours: Tensor, lag: Tensor, exponent: float) -> tuple[Tensor, Tensor]:
    """Log-likelihood () of visible pixels under a class, and the weight (3, V) of each of them in conditional means.

    From their centred colours (3, V), and the lags (V, V) of the pixels among each other.
    """
    shared = covariance_at(lag, exponent)
    log_likelihood, weights = shared.new_zeros(()), torch.zeros_like(colours)
    for variance, axes in (LUMINANCE, CHROMA):
        axes = shared.new_tensor(axes)  # (n, 3)
        values = (axes @ colours).T
        factor = cholesky_factor(variance, shared)
        solved = torch.cholesky_solve(values, factor)  # (V, n)
        log_likelihood -= (values * solved).sum() / 2 + len(axes) * factor.diagonal().log().sum()
        weights += variance * axes.T @ solved.T
    return log_likelihood, weights


def conditional_mean(weights: Tensor, pixels: Tensor, exponent: float) -> Tensor:
    """The centred mean of a class given visible pixels: weights (3, V), pixels (V, 2) -> (3, FIELD_SIDE, FIELD_SIDE).

    The covariance of a pixel with the visible ones depends on their lag alone, so this is a convolution on the torus.
    """
    impulses = weights.new_zeros(3, FIELD_SIDE, FIELD_SIDE)
    impulses[:, pixels[:, 0], pixels[:, 1]] = weights
    return smoothed(impulses, FIELD_SIDE**2 * power(exponent))


def expected_energies(hidden: Tensor, patch_size: int, exponent: float) -> Tensor:
    """Expected energy of a class in each DCT coefficient, summed over hidden patches and channels.

    Args:
        hidden: (H, W) bool, whole patches.

    Returns:
        (2, p, p) float64: of the conditional mean, and of the truth.
    """
    p = patch_size
    patch = torch.cartesian_prod(torch.arange(p), torch.arange(p)).to(hidden.device)
    waves = dct2(torch.eye(p * p, dtype=torch.float64, device=hidden.device).unflatten(1, (p, p))).flatten(1)
    corners, visible = hidden[::p, ::p].nonzero() * p, (~hidden).nonzero()
    shared = covariance_at(lags(visible, visible), exponent)
    across = covariance_at(lags(visible, (corners[:, None] + patch).flatten(0, 1)), exponent)
    across = across.unflatten(1, (len(corners), p * p)) @ waves  # of visible pixels with coefficients: (V, M, p*p)
    within = (waves * (covariance_at(lags(patch, patch), exponent) @ waves)).sum(0)
    kept, whole = torch.zeros_like(within), torch.zeros_like(within)
    for variance, axes in (LUMINANCE, CHROMA):
        reduced = torch.linalg.solve_triangular(
            cholesky_factor(variance, shared), variance * across.flatten(1), upper=False
        )
        kept += len(axes) * reduced.square().sum(0).reshape(-1, p * p).sum(0)
        whole += len(axes) * len(corners) * (variance * within + QUANTISATION)
    return torch.stack([kept, whole]).unflatten(1, (p, p))


def lags(these: Tensor, those: Tensor) -> Tensor:
    """From pixels (n, 2) to pixels (m, 2), as an index into the flattened autocovariance: (n, m) long."""
    row, column = ((these[:, None] - those) % FIELD_SIDE).unbind(-1)
    return FIELD_SIDE * row + column


def covariance_at(lag: Tensor, exponent: float) -> Tensor:
    """Covariance of a channel of unit variance at lags from `lags`, in their shape, float64."""
    return _autocovariance(exponent, lag.device)[lag]


@lru_cache(maxsize=8)
def _autocovariance(exponent: float, device: torch.device) -> Tensor:
    return autocovariance(exponent).to(device).flatten()


def cholesky_factor(variance: float, shared: Tensor) -> Tensor:
    """Cholesky factor of the covariance (V, V) of rounded values along one axis of colour."""
    return torch.linalg.cholesky(variance * shared + QUANTISATION * torch.eye(len(shared)).to(shared))
