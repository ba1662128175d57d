"""Terms whose head predicts a distribution of each hidden patch: mixture (of Gaussians) and flow (rectified flow)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from losses.heads import PixelHead
from losses.options import FlowOptions, InvalidSetting, MixtureOptions
from losses.reconstruction import Reconstruction
from losses.term import Term

MAX_COMPONENTS = 64  # principal components over which the Gaussians are mixed by default
MIN_STD = 1 / (255 * math.sqrt(12))  # standard deviation of rounding to 8 bits, for pixels in [0, 1]


class PrincipalComponents(NamedTuple):
    """Of standardised patches: orthonormal `axes` in the columns of (P, P), by falling variance; `deviations` (P,)."""

    axes: Tensor
    deviations: Tensor

    @classmethod
    def fit(cls, patches: Tensor) -> "PrincipalComponents":
        """From patches (n, P), by their second moments; they are not centred, because each distribution has its own
        centre."""
        moments = patches.double().T @ patches.double() / len(patches)
        variances, axes = torch.linalg.eigh(moments)
        return cls(axes.flip(1).to(patches.dtype), variances.flip(0).clamp_min(1e-6).sqrt().to(patches.dtype))

    @classmethod
    def identity(cls, values: int) -> "PrincipalComponents":
        """The P pixels themselves, for a head that was not given any components."""
        return cls(torch.eye(values), torch.ones(values))


class MixtureParameters(NamedTuple):
    """Of every patch's distribution, (B, N, ...). All but `centre` are in units of the components' deviations."""

    centre: Tensor  # (P,) standardised pixels
    log_weights: Tensor  # (K,), of the Gaussians
    means: Tensor  # (K, D), relative to the centre
    log_std: Tensor  # (K, D)
    rest_log_std: Tensor  # (P - D,), of the other components, each one Gaussian around the centre


@dataclass(frozen=True)
class MixtureHead(PixelHead):
    """P pixels, and around them a mixture of K diagonal Gaussians over D principal components; the other P - D
    components have one Gaussian each. Its pixels are the distribution's mean.

    Args:
        gaussians: K.
        components: D, at most P; None: 64, or P if that is less.
        basis: the principal components, which the model has as a buffer; None: the pixels themselves.
    """

    gaussians: int = 8
    components: int | None = None
    basis: PrincipalComponents | None = None

    name = "mixture"
    renderings = ("mean", "mode", "sample")

    def component_count(self, values: int) -> int:
        """D, for patches of P `values`; InvalidSetting if these are fewer than the components."""
        d = min(MAX_COMPONENTS, values) if self.components is None else self.components
        if d > values:
            raise InvalidSetting(f"losses.mixture.components={d}, but a patch has {values} values; give at most these")
        return d

    def width(self, values: int) -> int:
        d = self.component_count(values)
        return values + self.gaussians * (1 + 2 * d) + values - d

    def basis_for(self, prediction: Tensor, values: int) -> PrincipalComponents:
        """The principal components in the precision and on the device of the prediction."""
        basis = self.basis or PrincipalComponents.identity(values)
        return PrincipalComponents(*(tensor.to(prediction) for tensor in basis))

    def parameters(self, prediction: Tensor, values: int, std: Sequence[float] | Tensor) -> MixtureParameters:
        """The distributions' parameters; no Gaussian is narrower than `MIN_STD` of images with channel deviations
        `std`."""
        raw, d = self._split(prediction, values), self.component_count(values)
        deviations = self.basis_for(prediction, values).deviations
        std = torch.as_tensor(std, dtype=deviations.dtype, device=deviations.device).mean()
        least = (MIN_STD / (std * deviations)).log()
        return raw._replace(log_std=bounded(raw.log_std, least[:d]), rest_log_std=bounded(raw.rest_log_std, least[d:]))

    def pixels(self, prediction: Tensor, values: int) -> Tensor:
        """The distribution's mean, (B, N, P)."""
        raw = self._split(prediction, values)
        mean = torch.einsum("bnk,bnkd->bnd", raw.log_weights.exp(), raw.means)
        return raw.centre + self._to_pixels(mean, prediction, values)

    def mode_pixels(self, prediction: Tensor, values: int) -> Tensor:
        """The mean of the Gaussian with the largest weight, (B, N, P)."""
        raw = self._split(prediction, values)
        return raw.centre + self._to_pixels(_select(raw.means, raw.log_weights.argmax(-1)), prediction, values)

    def sample_pixels(
        self, prediction: Tensor, uniform: Tensor, normal: Tensor, std: Sequence[float] | Tensor
    ) -> Tensor:
        """A sample, (B, N, P), from `uniform` numbers (B, N) in [0, 1) and standard normal ones (B, N, P)."""
        values = normal.shape[-1]
        q, d = self.parameters(prediction, values, std), self.component_count(values)
        index = (q.log_weights.exp().cumsum(-1) < uniform.unsqueeze(-1)).sum(-1).clamp(max=self.gaussians - 1)
        mixed = _select(q.means, index) + _select(q.log_std, index).exp() * normal[..., :d]
        coefficients = torch.cat([mixed, q.rest_log_std.exp() * normal[..., d:]], dim=-1)
        return q.centre + self._to_pixels(coefficients, prediction, values)

    def negative_log_likelihood(self, prediction: Tensor, true_pixels: Tensor, std: Sequence[float] | Tensor) -> Tensor:
        """-log p of the truth in nats, (B, N); p is a density over the P standardised pixels of a patch."""
        values = true_pixels.shape[-1]
        q, d = self.parameters(prediction, values, std), self.component_count(values)
        axes, deviations = self.basis_for(prediction, values)
        coefficients = (true_pixels.to(prediction) - q.centre) @ axes / deviations
        each = _gaussian_nll(coefficients[..., None, :d] - q.means, q.log_std).sum(-1)  # (B, N, K)
        mixed = -torch.logsumexp(q.log_weights - each, dim=-1)
        return mixed + _gaussian_nll(coefficients[..., d:], q.rest_log_std).sum(-1) + deviations.log().sum()

    def _split(self, prediction: Tensor, values: int) -> MixtureParameters:
        """The parameters as predicted, the deviations not bounded yet."""
        p, k, d = values, self.gaussians, self.component_count(values)
        centre, weights, means, log_std, rest = prediction.split([p, k, k * d, k * d, p - d], dim=-1)
        return MixtureParameters(
            centre, weights.log_softmax(-1), means.unflatten(-1, (k, d)), log_std.unflatten(-1, (k, d)), rest
        )

    def _to_pixels(self, coefficients: Tensor, prediction: Tensor, values: int) -> Tensor:
        """From coefficients (B, N, n) of the first n components, in units of their deviations, to (B, N, P)."""
        (axes, deviations), n = self.basis_for(prediction, values), coefficients.shape[-1]
        return (coefficients * deviations[:n]) @ axes[:, :n].T


class Mixture(Term):
    """Negative log-likelihood of hidden patches under a mixture of Gaussians, per value.

    A mixture density network (Bishop 1994) for each patch; with K = 1 and a fixed width it is `mse` up to constants.
    Reads standardised pixels (B, N, P) of a `MixtureHead`. Unit: nats per value, of a density over standardised pixels;
    it may be negative.
    """

    Options = MixtureOptions
    head = MixtureHead()

    @classmethod
    def head_of(cls, options: Any) -> MixtureHead:
        return MixtureHead(options.gaussians, options.components)

    def value(self, r: Reconstruction) -> Tensor:
        head: Any = r.head  # with the model's principal components
        nll = head.negative_log_likelihood(r.prediction, r.true_pixels, r.std)
        return r.judged_mean(nll.unsqueeze(-1)) / r.values


def bounded(log_std: Tensor, least: Tensor) -> Tensor:
    """Keeps a log deviation above `least`, by a soft bound whose gradient never vanishes, and at most 3."""
    return least + torch.nn.functional.softplus(log_std.clamp(max=3) - least)


def _gaussian_nll(errors: Tensor, log_std: Tensor) -> Tensor:
    return (errors * (-log_std).exp()).square() / 2 + log_std + math.log(2 * math.pi) / 2


def _select(values: Tensor, index: Tensor) -> Tensor:
    """The Gaussian `index` (B, N) of each patch: (B, N, K, D) -> (B, N, D)."""
    return values.gather(2, index[..., None, None].expand(-1, -1, 1, values.shape[-1])).squeeze(2)


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
        """The network's velocity at the random time, (B, N, P) of standardised pixels; a ValueError if the prediction
        was made in evaluation or without gradients, and has the mean alone."""
        return self._parts(prediction, values)[1]

    def source_pixels(self, prediction: Tensor, values: int) -> Tensor:
        """x₀, (B, N, P), without a gradient; raises as `velocity` does."""
        return self._parts(prediction, values)[2].detach()

    def _parts(self, prediction: Tensor, values: int) -> tuple[Tensor, ...]:
        if prediction.shape[-1] == values:
            raise ValueError(
                "without gradients or in evaluation a model predicts the mean alone; call model.train() for flow's loss"
            )
        return prediction.split(values, dim=-1)

    def own_errors(self, prediction: Tensor, true_pixels: Tensor) -> Tensor:
        """Squared error of the mean, (B, N, P)."""
        return (self.pixels(prediction, true_pixels.shape[-1]) - true_pixels).square()


class Flow(Term):
    """Squared error of the velocity: |v(x_t, t) - (x₁ - x₀)|² at x_t = (1 - t) x₀ + t x₁, over hidden patches.

    Rectified flow (Liu, Gong and Liu 2022, arXiv 2209.03003), given the visible patches: with either source it ends at
    samples from the posterior, with twice the least error. Posterior-mean rectified flow (Ohayon, Michaeli and Elad
    2024, arXiv 2410.00418), which source=mean resembles, reads x_t alone, and so carries one marginal distribution to
    the other with the least squared error. Reads standardised pixels (B, N, P) of a `FlowHead`. Unit: variance of the
    dataset's pixels.
    """

    Options = FlowOptions
    head = FlowHead()
    sees_images = True  # the network looks across patches

    @classmethod
    def head_of(cls, options: Any) -> FlowHead:
        return FlowHead(options.source, options.network, options.noise, options.steps)

    def value(self, r: Reconstruction) -> Tensor:
        displacement = r.true_pixels - self.head.source_pixels(r.prediction, r.values)
        return r.judged_mean((self.head.velocity(r.prediction, r.values) - displacement).square())


def random_times(count: int, generator: torch.Generator) -> Tensor:
    """(B,) in [0, 1), stratified: one uniform time in each of B equal intervals, so that a batch covers them all."""
    u = torch.rand(count, generator=generator, device=generator.device)
    return (torch.arange(count, device=generator.device) + u) / count
