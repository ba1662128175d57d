"""Flow: a learnt velocity carries noise, or a noisy mean, to one plausible completion (rectified flow)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from losses.heads import PixelHead
from losses.options import FlowOptions, InvalidSetting, chosen
from losses.reconstruction import Reconstruction
from losses.term import Term, TermContext

SOURCES = ("mean", "noise")
NETWORKS = ("conv", "patch")


@dataclass(frozen=True)
class FlowHead(PixelHead):
    """P standardised pixels, the mean; in training 2P more: the velocity at a random time, and the source.

    A completion x₁ is reached from a source x₀ along dx/dt = v(x, t), 0 <= t <= 1, by `steps` of the midpoint method.
    Terms, metrics and renderings other than samples read the mean, which learns from `own_errors`, the squared error.

    Args:
        source: "mean", the model's mean plus Gaussian noise of deviation `noise` (for pixels in [0, 1]); or "noise",
            Gaussian with the data set's deviation.
        network: "conv" or "patch"; see `recon.model.velocity`.
    """

    source: str = "mean"
    network: str = "conv"
    noise: float = 0.1
    steps: int = 12

    name = "flow"
    renderings = ("mean", "sample")

    def width(self, values: int) -> int:
        return 3 * values

    def pixels(self, prediction: Tensor, values: int) -> Tensor:
        """The mean, (B, N, P)."""
        return prediction[..., :values]

    def velocity(self, prediction: Tensor, values: int) -> Tensor:
        """The network's velocity at the random time, (B, N, P) of standardised pixels.

        Raises:
            ValueError: the model was in evaluation or without gradients; it then predicts the mean alone.
        """
        _check_trained(prediction, values)
        return prediction[..., values : 2 * values]

    def source_pixels(self, prediction: Tensor, values: int) -> Tensor:
        """x₀, (B, N, P), without a gradient; raises as `velocity` does."""
        _check_trained(prediction, values)
        return prediction[..., 2 * values :].detach()

    def own_errors(self, prediction: Tensor, true_pixels: Tensor) -> Tensor:
        """Squared error of the mean, (B, N, P)."""
        return (self.pixels(prediction, true_pixels.shape[-1]) - true_pixels).square()


def _check_trained(prediction: Tensor, values: int) -> None:
    if prediction.shape[-1] == values:
        raise ValueError(
            "without gradients or in evaluation a model predicts the mean alone; call model.train() for flow's loss"
        )


class Flow(Term):
    """Squared error of the velocity: |v(x_t, t) - (x₁ - x₀)|² at x_t = (1 - t) x₀ + t x₁, over hidden patches.

    The flow that minimises it carries the source's distribution to the data's, given the visible patches: rectified
    flow (Liu, Gong and Liu 2022, arXiv 2209.03003). With source=mean it resembles posterior-mean rectified flow
    (Ohayon, Michaeli and Elad 2024, arXiv 2410.00418). Their velocity reads x_t alone, so it carries one marginal
    distribution to the other with the least squared error; this one reads the visible patches too, so with either
    source it ends at samples from the posterior, with twice the least error. Reads standardised pixels (B, N, P) of a
    `FlowHead`. Unit: variance of the dataset's pixels.
    """

    Options = FlowOptions
    head = FlowHead()
    sees_images = True  # the network looks across patches

    def __init__(self, options: Any = None, context: TermContext | None = None):
        super().__init__(options, context)
        self.head = self.head_of(self.options)

    @classmethod
    def head_of(cls, options: Any) -> FlowHead:
        chosen("losses.flow.source", options.source, SOURCES)
        chosen("losses.flow.network", options.network, NETWORKS)
        if not 0 < options.noise < 10:
            raise InvalidSetting(f"losses.flow.noise={options.noise} must be above 0, and below 10")
        if options.steps < 1:
            raise InvalidSetting(f"losses.flow.steps={options.steps} must be above 0")
        return FlowHead(options.source, options.network, options.noise, options.steps)

    def value(self, r: Reconstruction) -> Tensor:
        displacement = r.true_pixels - self.head.source_pixels(r.prediction, r.values)
        return r.judged_mean((self.head.velocity(r.prediction, r.values) - displacement).square())


def random_times(count: int, generator: torch.Generator) -> Tensor:
    """(B,) in [0, 1), stratified: one uniform time in each of B equal intervals, so that a batch covers them all."""
    u = torch.rand(count, generator=generator, device=generator.device)
    return (torch.arange(count, device=generator.device) + u) / count
