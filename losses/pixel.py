"""Terms on pixels, by patch (mse, norm_mse, l1, charbonnier) and by their structure (ssim, ms_ssim)."""

from typing import Any

import torch
from torch import Tensor

from losses.heads import NormalisedPixelHead
from losses.options import InvalidSetting
from losses.reconstruction import Reconstruction
from losses.term import Term, TermContext, widened

WINDOW = 11  # pixels of SSIM's windows, with a Gaussian of 1.5, as Wang et al.
DEVIATIONS = (0.5, 1.0, 2.0, 4.0, 8.0)  # pixels, of the scales of MS-SSIM
REACH = 16  # pixels, of their windows
NOTHING = 1e-30  # weights below it would be denormal numbers, on which a CPU computes ten times as long
STRUCTURE = 0.84  # of MS-SSIM in the mix with L1
C1, C2 = 0.01**2, 0.03**2  # of SSIM, for images in [0, 1]


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

    def __init__(self, options: Any = None, context: TermContext | None = None):
        super().__init__(options, context)
        import kornia.losses  # takes 1.5 s, which other objectives should not wait for

        self.loss = kornia.losses.ssim_loss

    def map(self, image: Tensor, truth: Tensor) -> Tensor:
        return self.loss(image, truth, WINDOW, eps=0.0, reduction="none").mean(1, keepdim=True)


class MultiScaleSSIM(Structural):
    """0.84 (1 - MS-SSIM) + 0.16 L1 at every pixel: the mix of Zhao et al. 2017 (arXiv 1511.08861).

    Its scales are Gaussians of 0.5 to 8 pixels at full resolution, not a pyramid; images are zero beyond their borders;
    the L1 is smoothed by the widest. The values are those of kornia.losses.MS_SSIMLoss(alpha=0.84, compensation=1),
    which convolves with windows of 33 x 33 pixels; products with matrices along rows and columns are far faster.
    """

    deviations: Tensor

    def __init__(self, options: Any = None, context: TermContext | None = None):
        super().__init__(options, context)
        self.register_buffer("deviations", torch.tensor(DEVIATIONS), persistent=False)

    def map(self, image: Tensor, truth: Tensor) -> Tensor:
        scales = [self.gaussians(side).to(image.dtype) for side in image.shape[-2:]]
        energy, similarity = image.square() + truth.square(), 1.0
        for rows, columns in zip(*scales, strict=True):
            mean, true_mean, product, power = (rows @ x @ columns.mT for x in (image, truth, image * truth, energy))
            means, squares = mean * true_mean, mean.square() + true_mean.square()
            similarity = similarity * (2 * (product - means) + C2) / (power - squares + C2)
        similarity = similarity * (2 * means + C1) / (squares + C1)  # luminance at the coarsest scale alone
        difference = rows @ (image - truth).abs() @ columns.mT
        return (STRUCTURE * (1 - similarity) + (1 - STRUCTURE) * difference).mean(1, keepdim=True)

    def gaussians(self, side: int) -> Tensor:
        """(scales, side, side): row i has a Gaussian about pixel i, cut at `REACH` pixels from it."""
        pixels = torch.arange(-REACH, side + REACH, device=self.deviations.device)
        distance = (pixels - pixels[REACH:-REACH, None]).abs()  # also to the pixels beyond the borders
        bells = (-0.5 * (distance / self.deviations[:, None, None]).square()).exp()
        bells = bells * ((distance <= REACH) & (bells > NOTHING))
        return (bells / bells.sum(2, keepdim=True))[:, :, REACH:-REACH]
