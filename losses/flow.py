"""Flow: a learnt velocity carries noise, or a noisy mean, to one plausible completion (rectified flow)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from losses.heads import PixelHead
from losses.options import FlowOptions, InvalidSetting, chosen
from losses.term import Surroundings, Term

if TYPE_CHECKING:
    from losses.reconstruction import Reconstruction

SOURCES = ("mean", "noise")
NETWORKS = ("conv", "patch")


@dataclass(frozen=True)
class FlowHead(PixelHead):
    """P standardised pixels, the mean; while it trains, 2P more: a velocity at a random time, and where it came from.

    A completion x₁ is reached from a source x₀ along dx/dt = v(x, t), 0 <= t <= 1, by `steps` of the midpoint method.
    Everything but a draw sees the mean, which `own_loss` teaches: the squared error.

    Args:
        source: "mean", the model's own with Gaussian noise of deviation `noise` (intensities in [0, 1]); or "noise",
            Gaussian of the data set's deviation.
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

    def pixels(self, r: "Reconstruction") -> Tensor:
        """The mean, (B, N, P)."""
        return r.prediction[..., : r.values]

    patches = oracle_pixels = pixels

    def velocity(self, r: "Reconstruction") -> Tensor:
        """What the network said at the random time, (B, N, P) of standardised pixels.

        Raises:
            ValueError: the prediction is that of a model in evaluation, or without gradients: it draws no time.
        """
        self._needs_way(r)
        return r.prediction[..., r.values : 2 * r.values]

    def source_pixels(self, r: "Reconstruction") -> Tensor:
        """Where the way began, (B, N, P); a constant."""
        self._needs_way(r)
        return r.prediction[..., 2 * r.values :].detach()

    def own_loss(self, r: "Reconstruction") -> Tensor:
        """Squared error of the mean over the judged patches."""
        return r.judged_mean((self.pixels(r) - r.true_pixels).square())

    def _needs_way(self, r: "Reconstruction") -> None:
        if r.prediction.shape[-1] == r.values:
            raise ValueError(
                "without gradients or in evaluation a model predicts the mean alone; call model.train() for flow's loss"
            )


class Flow(Term):
    """Squared error of the velocity: |v(x_t, t) - (x₁ - x₀)|² at x_t = (1 - t) x₀ + t x₁, over hidden patches.

    Its minimiser's flow carries the source's distribution to the data's given the visible patches: rectified flow
    (Liu, Gong and Liu 2022, arXiv 2209.03003). The mean with noise is the source of posterior-mean rectified flow
    (Ohayon, Michaeli and Elad 2024, arXiv 2410.00418); but theirs sees x_t alone, and so moves one marginal
    distribution to the other, at the least squared error that allows. This one sees what is visible: from either source
    it ends at draws from the posterior, with twice the least error. Reads standardised pixels (B, N, P) of a
    `FlowHead`. Unit: variance of the dataset's pixels.
    """

    Options = FlowOptions
    head = FlowHead()
    sees_images = True  # the network looks across patches

    def __init__(self, options: Any = None, surroundings: Surroundings | None = None):
        super().__init__(options, surroundings)
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

    def value(self, r: "Reconstruction") -> Tensor:
        way = r.true_pixels - self.head.source_pixels(r)
        return r.judged_mean((self.head.velocity(r) - way).square())


def random_times(count: int, generator: torch.Generator) -> Tensor:
    """(B,) in [0, 1): one in each of B equal parts, so that a batch has early and late ones (stratified, uniform)."""
    u = torch.rand(count, generator=generator, device=generator.device)
    return (torch.arange(count, device=generator.device) + u) / count
