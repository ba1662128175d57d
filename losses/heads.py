"""The socket: what the decoder's last layer puts out per patch, and how that becomes pixels.

A head has no parameters. The model gives it `width` numbers per patch; everything behind it sees
standardised pixels, so every term and every metric works with every head.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from losses.reconstruction import Reconstruction

EPSILON = 1e-6  # of the official code's per-patch normalisation


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each patch over all its values, (B, N, P) -> two (B, N, 1).

    As the official MAE code: unbiased variance, and the root is of variance + 1e-6.
    """
    mean = patches.mean(-1, keepdim=True)
    # Not `var`, which sums up value by value on a CPU.
    variance = (patches - mean).square().sum(-1, keepdim=True) / (patches.shape[-1] - 1)
    return mean, (variance + EPSILON).sqrt()


class PixelHead:
    """P = p*p*3 standardised pixels per patch."""

    name = "pixels"
    decoder = "pixels"  # what the decoder's last layer predicts; what more there is comes from layers beside it
    statistics = 0  # predicted numbers per patch beside the P pixels
    renderings: tuple[str, ...] = ()  # of a distribution: how it can be drawn, of "mean", "mode", "sample"

    def width(self, values: int) -> int:
        """W, of the predictions of patches with P `values`."""
        return values + self.statistics

    def patches(self, r: "Reconstruction") -> Tensor:
        """The prediction in the model's own space, (B, N, P)."""
        return r.prediction

    def target(self, r: "Reconstruction") -> Tensor:
        """The truth in the model's own space, (B, N, P)."""
        return r.true_pixels

    def pixels(self, r: "Reconstruction") -> Tensor:
        """The prediction as standardised pixels, (B, N, P)."""
        return r.prediction

    def oracle_pixels(self, r: "Reconstruction") -> Tensor:
        """The prediction as pixels with the truth's help; a pixel head needs none."""
        return r.prediction

    def own_loss(self, r: "Reconstruction") -> Tensor | None:
        """What the head itself must learn beside the objective; a scalar, or None."""
        return None


class NormalisedPixelHead(PixelHead):
    """P pixels normalised per patch, and two statistics that undo the normalisation: mean and log-std.

    The statistics are read from the decoder's detached features, and the pixels that terms see are rendered
    with the statistics detached: they learn from `own_loss` alone and send no gradient into the model.
    A prediction of width P (an official checkpoint has no statistics) can be rendered only by the oracle.
    """

    name = decoder = "normalised pixels"
    statistics = 2

    def patches(self, r: "Reconstruction") -> Tensor:
        return r.prediction[..., : r.values]

    def target(self, r: "Reconstruction") -> Tensor:
        mean, std = r.true_statistics
        return (r.true_pixels - mean) / std

    def predicted_statistics(self, r: "Reconstruction") -> Tensor:
        """(B, N, 2): each patch's mean and log standard deviation, in standardised pixels.

        Raises:
            ValueError: the prediction carries no statistics.
        """
        if r.prediction.shape[-1] == r.values:
            raise ValueError("this prediction has no patch statistics; only r.oracle_pixels can render it")
        return r.prediction[..., r.values :]

    def pixels(self, r: "Reconstruction") -> Tensor:
        mean, log_std = self.predicted_statistics(r).detach().split(1, dim=-1)
        # A wild log-std early in training must not overflow; exp(3) is 20 standard deviations of the dataset.
        return self.patches(r) * log_std.clamp(-7, 3).exp() + mean

    def oracle_pixels(self, r: "Reconstruction") -> Tensor:
        """Rendered with the true patch's mean and std. That leaks the answer: label it `oracle`."""
        mean, std = r.true_statistics
        return self.patches(r) * std + mean

    def own_loss(self, r: "Reconstruction") -> Tensor | None:
        """Squared error of mean and log-std on the judged patches."""
        if r.prediction.shape[-1] == r.values:
            return None
        mean, std = r.true_statistics
        return r.judged_mean((self.predicted_statistics(r) - torch.cat([mean, std.log()], -1)).square())
