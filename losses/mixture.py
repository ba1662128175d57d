"""Mixture: K Gaussians per patch, in the space of the coefficients of a patch's principal components."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from losses.heads import PixelHead
from losses.options import InvalidSetting, MixtureOptions
from losses.term import Surroundings, Term

if TYPE_CHECKING:
    from losses.reconstruction import Reconstruction

COMPONENTS = 64  # principal components that the Gaussians share out, where a patch has as many
FLOOR = 1 / (255 * math.sqrt(12))  # deviation of what rounding to 8 bits adds, in intensities: nothing is narrower


class Basis(NamedTuple):
    """Principal components of standardised patches: `axes` (P, P) in columns, orthonormal, the widest first; their
    `deviations` (P,)."""

    axes: Tensor
    deviations: Tensor

    @classmethod
    def of(cls, patches: Tensor) -> "Basis":
        """Those of patches (n, P), by their uncentred second moments: a patch's distribution is centred elsewhere."""
        moments = patches.double().T @ patches.double() / len(patches)
        variances, axes = torch.linalg.eigh(moments)
        return cls(axes.flip(1).to(patches.dtype), variances.flip(0).clamp_min(1e-6).sqrt().to(patches.dtype))

    @classmethod
    def of_pixels(cls, values: int) -> "Basis":
        """The pixels themselves, for want of better."""
        return cls(torch.eye(values), torch.ones(values))


class Parameters(NamedTuple):
    """Of a patch's distribution, (B, N, ...). In units of each component's deviation, but for `centre`.

    centre: (P,) standardised pixels. log_share: (K,), the Gaussians' shares. means, log_std: (K, D), theirs, around the
    centre. rest: (P - D,), log deviations of the other components, which are Gaussian around the centre.
    """

    centre: Tensor
    log_share: Tensor
    means: Tensor
    log_std: Tensor
    rest: Tensor


@dataclass(frozen=True)
class MixtureHead(PixelHead):
    """P pixels, around which K diagonal Gaussians are mixed in D principal components; the others are Gaussian.

    Everything but a draw sees the distribution's mean.

    Args:
        gaussians: K.
        components: D, at most P; None: 64, or P where that is less.
        basis: the principal components; the model knows them. None: the pixels themselves.
    """

    gaussians: int = 8
    components: int | None = None
    basis: Basis | None = None

    name = "mixture"
    renderings = ("mean", "mode", "sample")

    def mixed(self, values: int) -> int:
        """D, of patches of P `values`.

        Raises:
            InvalidSetting: more components than a patch has values.
        """
        d = min(COMPONENTS, values) if self.components is None else self.components
        if d > values:
            raise InvalidSetting(f"losses.mixture.components={d}, but a patch has {values} values; give at most these")
        return d

    def width(self, values: int) -> int:
        d = self.mixed(values)
        return values + self.gaussians * (1 + 2 * d) + values - d

    def with_basis(self, basis: Basis) -> "MixtureHead":
        return replace(self, basis=basis)

    def basis_of(self, r: "Reconstruction") -> Basis:
        """In the precision and on the device of the prediction."""
        basis = self.basis or Basis.of_pixels(r.values)
        return Basis(*(tensor.to(r.prediction) for tensor in basis))

    def parameters(self, r: "Reconstruction") -> Parameters:
        p, k, d = r.values, self.gaussians, self.mixed(r.values)
        centre, share, means, log_std, rest = r.prediction.split([p, k, k * d, k * d, p - d], dim=-1)
        deviations = self.basis_of(r).deviations
        std = torch.as_tensor(r.std, dtype=deviations.dtype, device=deviations.device).mean()
        least = (FLOOR / (std * deviations)).log()
        return Parameters(
            centre,
            share.log_softmax(-1),
            means.unflatten(-1, (k, d)),
            bounded(log_std.unflatten(-1, (k, d)), least[:d]),
            bounded(rest, least[d:]),
        )

    def pixels(self, r: "Reconstruction") -> Tensor:
        """The distribution's mean, (B, N, P)."""
        q = self.parameters(r)
        return self._pixels(r, q.centre, torch.einsum("bnk,bnkd->bnd", q.log_share.exp(), q.means))

    patches = oracle_pixels = pixels

    def mode_pixels(self, r: "Reconstruction") -> Tensor:
        """The mean of the Gaussian with the largest share, (B, N, P)."""
        q = self.parameters(r)
        return self._pixels(r, q.centre, _of(q.means, q.log_share.argmax(-1)))

    def sample_pixels(self, r: "Reconstruction", uniform: Tensor, normal: Tensor) -> Tensor:
        """A draw, (B, N, P), by `uniform` numbers (B, N) in [0, 1) and standard normal ones (B, N, P)."""
        q, d = self.parameters(r), self.mixed(r.values)
        at = (q.log_share.exp().cumsum(-1) < uniform.unsqueeze(-1)).sum(-1).clamp(max=self.gaussians - 1)
        mixed = _of(q.means, at) + _of(q.log_std, at).exp() * normal[..., :d]
        return self._pixels(r, q.centre, torch.cat([mixed, q.rest.exp() * normal[..., d:]], dim=-1))

    def nats(self, r: "Reconstruction") -> Tensor:
        """-log p of the truth, (B, N), a density over the P standardised pixels of a patch."""
        q, basis, d = self.parameters(r), self.basis_of(r), self.mixed(r.values)
        deviations = basis.deviations
        found = (r.true_pixels.to(r.prediction) - q.centre) @ basis.axes / deviations
        each = _gaussian_nats(found[..., None, :d] - q.means, q.log_std).sum(-1)  # (B, N, K)
        mixed = -torch.logsumexp(q.log_share - each, dim=-1)
        return mixed + _gaussian_nats(found[..., d:], q.rest).sum(-1) + deviations.log().sum()

    def _pixels(self, r: "Reconstruction", centre: Tensor, coefficients: Tensor) -> Tensor:
        """Centre plus coefficients of the first components, in units of their deviations."""
        basis, n = self.basis_of(r), coefficients.shape[-1]
        return centre + (coefficients * basis.deviations[:n]) @ basis.axes[:, :n].T


class Mixture(Term):
    """Negative log-likelihood of hidden patches under a mixture of Gaussians, per value.

    A mixture density network (Bishop 1994) for each patch; its mean is that of the distribution, and where K is 1 and
    the width fixed it is `mse`. Reads standardised pixels (B, N, P) of a `MixtureHead`. Unit: nats per value, of a
    density over standardised pixels; it may be negative.
    """

    Options = MixtureOptions
    head = MixtureHead()

    def __init__(self, options: Any = None, surroundings: Surroundings | None = None):
        super().__init__(options, surroundings)
        self.head = self.head_of(self.options)

    @classmethod
    def head_of(cls, options: Any) -> MixtureHead:
        for key in ("gaussians", "components"):
            if (value := getattr(options, key)) is not None and value < 1:
                raise InvalidSetting(f"losses.mixture.{key}={value} must be above 0")
        return MixtureHead(options.gaussians, options.components)

    def value(self, r: "Reconstruction") -> Tensor:
        return r.judged_mean(r.head.nats(r).unsqueeze(-1)) / r.values


def bounded(log_std: Tensor, least: Tensor) -> Tensor:
    """A log deviation above `least`, by a soft bound whose gradient never vanishes; beyond 3 it grows no more."""
    return least + torch.nn.functional.softplus(log_std.clamp(max=3) - least)


def _gaussian_nats(errors: Tensor, log_std: Tensor) -> Tensor:
    return (errors * (-log_std).exp()).square() / 2 + log_std + math.log(2 * math.pi) / 2


def _of(values: Tensor, at: Tensor) -> Tensor:
    """(B, N, K, D) at (B, N) -> (B, N, D)."""
    return values.gather(2, at[..., None, None].expand(-1, -1, 1, values.shape[-1])).squeeze(2)
