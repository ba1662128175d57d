"""What the decoder's last layer puts out per patch, and how that becomes pixels, which terms and metrics read.

A head has no parameters: every term and every metric works with every head.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from losses.reconstruction import Reconstruction

EPSILON = 1e-6  # of the official code's per-patch normalisation


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each patch, (B, N, P) -> two (B, N, 1), as in the official MAE code: the root of
    unbiased variance + 1e-6."""
    mean = patches.mean(-1, keepdim=True)
    # Not `var`, whose sum is not vectorised on a CPU.
    variance = (patches - mean).square().sum(-1, keepdim=True) / (patches.shape[-1] - 1)
    return mean, (variance + EPSILON).sqrt()


class PixelHead:
    """P = p*p*3 standardised pixels per patch. Methods take predictions (B, N, W), true pixels (B, N, P), and P."""

    name = "pixels"
    decoder = "pixels"  # what the decoder's last layer predicts; other outputs come from layers beside it
    has_pixels = True  # False: nothing can be drawn from a prediction, and no term or metric of pixels reads it
    statistics = 0  # predicted numbers per patch beside what the decoder's last layer puts out
    renderings: tuple[str, ...] = ()  # of a predicted distribution: those of "mean", "mode", "sample" that it has

    def decoder_width(self, values: int) -> int:
        """The numbers per patch that the decoder's last layer puts out."""
        return values

    def width(self, values: int) -> int:
        """W, the numbers per patch that the model must predict."""
        return self.decoder_width(values) + self.statistics

    def pixels(self, prediction: Tensor, values: int) -> Tensor:
        """The prediction as standardised pixels, (B, N, P). ValueError if the head has none."""
        return prediction

    def pixels_of(self, r: "Reconstruction") -> Tensor:
        """`pixels` of a reconstruction's prediction; a head that draws neighbouring patches together reads more."""
        return self.pixels(r.prediction, r.values)

    def oracle_pixels(self, prediction: Tensor, true_pixels: Tensor) -> Tensor:
        """The prediction as pixels with the truth's help, which only a normalised head needs; (B, N, P)."""
        return self.pixels(prediction, true_pixels.shape[-1])

    def patches(self, prediction: Tensor, values: int) -> Tensor:
        """The prediction in the model's own space, (B, N, P), or as wide as the target is."""
        return self.pixels(prediction, values)

    def target(self, true_pixels: Tensor) -> Tensor:
        """The truth in the model's own space, (B, N, P), or as wide as that is."""
        return true_pixels

    def own_errors(self, prediction: Tensor, true_pixels: Tensor) -> Tensor | None:
        """Errors (B, N, ...) whose mean the head must learn to reduce, whatever the objective is; None for none."""
        return None


class NormalisedPixelHead(PixelHead):
    """P pixels normalised per patch, and two statistics that undo the normalisation: mean and log-std.

    The statistics learn from `own_errors` alone and send no gradient into the model, which predicts them from detached
    features. A prediction of width P has none, as official checkpoints; only `oracle_pixels` can render it.
    """

    name = decoder = "normalised pixels"
    statistics = 2

    def patches(self, prediction: Tensor, values: int) -> Tensor:
        return prediction[..., :values]

    def target(self, true_pixels: Tensor) -> Tensor:
        mean, std = patch_statistics(true_pixels)
        return (true_pixels - mean) / std

    def predicted_statistics(self, prediction: Tensor, values: int) -> Tensor:
        """(B, N, 2): each patch's mean and log standard deviation, in standardised pixels.

        Raises:
            ValueError: the prediction carries no statistics.
        """
        if prediction.shape[-1] == values:
            raise ValueError("this prediction has no patch statistics; only r.oracle_pixels can render it")
        return prediction[..., values:]

    def pixels(self, prediction: Tensor, values: int) -> Tensor:
        mean, log_std = self.predicted_statistics(prediction, values).detach().split(1, dim=-1)
        # A wild log-std early in training must not overflow; exp(3) is 20 standard deviations of the dataset.
        return self.patches(prediction, values) * log_std.clamp(-7, 3).exp() + mean

    def oracle_pixels(self, prediction: Tensor, true_pixels: Tensor) -> Tensor:
        """Rendered with the true patch's mean and std, which is the answer: label such results `oracle`."""
        mean, std = patch_statistics(true_pixels)
        return self.patches(prediction, true_pixels.shape[-1]) * std + mean

    def own_errors(self, prediction: Tensor, true_pixels: Tensor) -> Tensor | None:
        """Squared errors of mean and log-std, (B, N, 2)."""
        values = true_pixels.shape[-1]
        if prediction.shape[-1] == values:
            return None
        mean, std = patch_statistics(true_pixels)
        return (self.predicted_statistics(prediction, values) - torch.cat([mean, std.log()], -1)).square()


@dataclass(frozen=True)
class FeatureHead(PixelHead):
    """D features of each patch, from which no picture can be drawn.

    Args:
        features: D.
        name: of the term that predicts them.
    """

    features: int
    name: str = "features"

    has_pixels = False

    @property
    def decoder(self) -> str:
        return self.name

    def decoder_width(self, values: int) -> int:
        return self.features

    def pixels(self, prediction: Tensor, values: int) -> Tensor:
        raise ValueError(f"{self.name} predicts {self.features} features of each patch, of which there are no pixels")
