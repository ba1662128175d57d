"""Terms on patches: mean-squared and absolute error, and one between them."""

from typing import Any

from torch import Tensor

from losses.heads import NormalisedPixelHead
from losses.reconstruction import Reconstruction
from losses.term import Surroundings, Term


class MSE(Term):
    """Mean-squared error over hidden patches; its minimiser is the conditional mean.

    Reads standardised pixels (B, N, P). Unit: variance of the dataset's pixels. He et al. 2021 (arXiv 2111.06377),
    the objective "w/o norm".
    """

    def value(self, r: Reconstruction) -> Tensor:
        return r.judged_mean((r.pixels - r.true_pixels).square())


class NormMSE(Term):
    """Mean-squared error over hidden patches, the target normalised per patch.

    Reads the model's own space (B, N, P), where each patch of the truth has mean 0 and unbiased variance 1.
    Unitless; predicting nothing scores (P - 1) / P. He et al. 2021 (arXiv 2111.06377), "w/ norm": the paper's default.
    """

    head = NormalisedPixelHead()

    def value(self, r: Reconstruction) -> Tensor:
        return r.judged_mean((self.head.patches(r) - self.head.target(r)).square())


class L1(Term):
    """Mean absolute error over hidden patches; its minimiser is the conditional median.

    Reads standardised pixels (B, N, P). Unit: standard deviations of the dataset's pixels.
    """

    def value(self, r: Reconstruction) -> Tensor:
        return r.judged_mean((r.pixels - r.true_pixels).abs())


class Charbonnier(Term):
    """sqrt(e² + 1) - 1 over hidden patches: squared where errors are small, absolute where they are large.

    Reads standardised pixels (B, N, P). Charbonnier et al. 1994, by kornia.losses.charbonnier_loss.
    """

    def __init__(self, options: Any = None, surroundings: Surroundings | None = None):
        super().__init__(options, surroundings)
        import kornia.losses  # a second and a half, which other objectives need not wait for

        self.loss = kornia.losses.charbonnier_loss

    def value(self, r: Reconstruction) -> Tensor:
        return r.judged_mean(self.loss(r.pixels, r.true_pixels, reduction="none"))
