"""Terms on pixels, by patch (mse, norm_mse, l1, charbonnier) and by their structure (ssim, ms_ssim, by kornia)."""

from typing import Any

import torch
from torch import Tensor

from losses.heads import NormalisedPixelHead
from losses.options import InvalidSetting
from losses.reconstruction import Reconstruction
from losses.term import Term, TermContext, widened

WINDOW = 11  # pixels of SSIM's windows, with a Gaussian of 1.5, as Wang et al.


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


class Structural(Term):
    """A map of dissimilarity between composite and truth, averaged over the compared pixels.

    Reads images in [0, 1] (B, 3, H, W); predictions that overshoot are not clamped, so that they have a gradient. In
    a window that overlaps visible patches, those pixels are equal in both.
    """

    sees_images = True

    def __init__(self, options: Any = None, context: TermContext | None = None):
        super().__init__(options, context)
        if (side := min(self.context.image_size)) < WINDOW:
            raise InvalidSetting(f"ssim and ms_ssim need images of {WINDOW} pixels, not {side}; raise data.image_size")
        import kornia.losses

        self.library = kornia.losses

    def value(self, r: Reconstruction) -> Tensor:
        image, truth = widened(r.judged_image), widened(r.image)
        compared = r.hidden_pixels if r.over == "hidden" else torch.ones_like(r.hidden_pixels)
        with torch.autocast(image.device.type, enabled=False):
            dissimilarity = self.map(image, truth)
        return (dissimilarity * compared).sum() / compared.sum()

    def map(self, image: Tensor, truth: Tensor) -> Tensor:
        """(B, 1, H, W), 0 where both are the same."""
        raise NotImplementedError


class SSIM(Structural):
    """(1 - SSIM) / 2, in [0, 1]: Wang et al. 2004, by kornia.losses.ssim_loss; windows of 11 pixels, reflected borders.

    kornia copies its window from the host at every call, so the host waits for a GPU once a step.
    """

    def map(self, image: Tensor, truth: Tensor) -> Tensor:
        return self.library.ssim_loss(image, truth, WINDOW, eps=0.0, reduction="none").mean(1, keepdim=True)


class MultiScaleSSIM(Structural):
    """0.84 (1 - MS-SSIM) + 0.16 L1: the mix of Zhao et al. 2017 (arXiv 1511.08861), by kornia.losses.MS_SSIMLoss.

    Its scales are Gaussians of 0.5 to 8 pixels at full resolution, not a pyramid; images are zero beyond their borders.
    """

    def __init__(self, options: Any = None, context: TermContext | None = None):
        super().__init__(options, context)
        self.loss = self.library.MS_SSIMLoss(alpha=0.84, compensation=1.0, reduction="none")

    def map(self, image: Tensor, truth: Tensor) -> Tensor:
        return self.loss(image, truth)[:, None]
