"""Terms on the pixels of patches: mse, norm_mse, l1 and charbonnier."""

from typing import Any

from torch import Tensor

from losses.heads import NormalisedPixelHead
from losses.reconstruction import Reconstruction
from losses.term import Term, TermContext


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
    Unitless; zeros have the value (P - 1) / P. He et al. 2021 (arXiv 2111.06377), "w/ norm": the paper's default.
    """

    head = NormalisedPixelHead()

    def value(self, r: Reconstruction) -> Tensor:
        patches = self.head.patches(r.prediction, r.values)
        return r.judged_mean((patches - self.head.target(r.true_pixels)).square())


class L1(Term):
    """Mean absolute error over hidden patches; its minimiser is the conditional median.

    Reads standardised pixels (B, N, P). Unit: standard deviations of the dataset's pixels.
    """

    def value(self, r: Reconstruction) -> Tensor:
        return r.judged_mean((r.pixels - r.true_pixels).abs())


class Charbonnier(Term):
    """sqrt(e² + 1) - 1 over hidden patches: quadratic for small errors, linear for large ones.

    Reads standardised pixels (B, N, P). Charbonnier et al. 1994, by kornia.losses.charbonnier_loss.
    """

    def __init__(self, options: Any = None, context: TermContext | None = None):
        super().__init__(options, context)
        import kornia.losses  # takes 1.5 s, which other objectives should not wait for

        self.loss = kornia.losses.charbonnier_loss

    def value(self, r: Reconstruction) -> Tensor:
        return r.judged_mean(self.loss(r.pixels, r.true_pixels, reduction="none"))
