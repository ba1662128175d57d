"""Terms on filtered images: low frequencies alone, the whole spectrum, gradients."""

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from losses.heads import NormalisedPixelHead
from losses.options import LowPassOptions
from losses.reconstruction import Reconstruction
from losses.term import Term, widened


class LowPass(Term):
    """`norm_mse` with a truth from which high frequencies were removed, so that no capacity is spent on them.

    Of the whole image's spectrum the frequencies within a circle are kept; the patches of the result are normalised,
    and the model predicts them. PixMIM (Liu et al. 2023, arXiv 2303.02416), whose other change, gentler crops, is
    data.crop_scale. What is drawn lacks the high frequencies, as the target does.
    """

    Options = LowPassOptions
    head = NormalisedPixelHead()

    def value(self, r: Reconstruction) -> Tensor:
        target = self.head.target(r.patches_of(self.filtered(widened(r.standardised_image))))
        return r.judged_mean((self.head.patches(r.prediction, r.values) - target).square())

    def filtered(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) without the frequencies above the cutoff."""
        height, width = images.shape[2:]
        down = torch.fft.fftfreq(height, device=images.device)
        across = torch.fft.rfftfreq(width, device=images.device)
        kept = down[:, None].square() + across.square() <= self.options.cutoff**2
        with torch.autocast(images.device.type, enabled=False):
            return torch.fft.irfft2(torch.fft.rfft2(images) * kept, s=(height, width))


class Fourier(Term):
    """Focal frequency loss: squared distance of the images' spectra, in which badly predicted frequencies count more.

    Weights are the distances themselves, over the largest of their image and channel, and are constants. Reads the
    composite (B, 3, H, W) in [0, 1]; the transform is unitary, so that with equal weights this would be the squared
    error of a pixel. Jiang et al. 2021 (arXiv 2012.12821, alpha = 1); equals the package focal-frequency-loss.
    """

    sees_images = True

    def value(self, r: Reconstruction) -> Tensor:
        image = widened(r.judged_image)
        with torch.autocast(image.device.type, enabled=False):
            spectrum = torch.fft.fft2(image - widened(r.image), norm="ortho")
        squares = torch.view_as_real(spectrum).square().sum(-1)
        distance = squares.detach().sqrt()
        # The truth itself has neither distance nor weight.
        weight = (distance / distance.amax((2, 3), keepdim=True)).nan_to_num().clamp(0, 1)
        return (weight * squares).mean()


class Gradient(Term):
    """Absolute error of the sizes of differences between neighbouring pixels, where one of the two is hidden.

    Reads the composite (B, 3, H, W) in [0, 1]. It does not see a change of sign or of a constant, so it wants a pixel
    term beside it. The gradient difference loss of Mathieu et al. 2016 (arXiv 1511.05440, equation 6, alpha = 1), as a
    mean over pairs, then over images.
    """

    sees_images = True

    def value(self, r: Reconstruction) -> Tensor:
        image, truth = widened(r.judged_image), widened(r.image)
        judged = r.hidden_pixels if r.over == "hidden" else torch.ones_like(r.hidden_pixels)
        total, count = image.new_zeros(len(image)), image.new_zeros(len(image))
        for dim, window in ((2, (2, 1)), (3, (1, 2))):
            error = (image.diff(dim=dim).abs() - truth.diff(dim=dim).abs()).abs().mean(1, keepdim=True)
            either = max_pool2d(judged.to(error.dtype), window, stride=1)
            total, count = total + (error * either).sum((1, 2, 3)), count + either.sum((1, 2, 3))
        return (total / count).mean()
