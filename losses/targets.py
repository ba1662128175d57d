"""Terms whose target is not the pixels of a patch: components, orientations, features."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.features.vgg19 import VGG19, in_cache
from losses.features.weights import load_vgg19
from losses.heads import FeatureHead, PixelHead
from losses.options import LAYERS, FeaturesOptions, InvalidSetting, PCAOptions, tap_index
from losses.posterior import PrincipalComponents
from losses.reconstruction import Reconstruction
from losses.term import Term, TermContext, widened

ORIENTATIONS = 9  # of a histogram of gradients, over 180 degrees
CELLS = 2  # along a patch's side: 8 pixels each in patches of 16


@dataclass(frozen=True)
class PCAHead(PixelHead):
    """K coefficients of principal components, which are drawn as their sum: what the other components add is missing.

    Args:
        components: K, at most P; None: P / 8, as the paper's 96 of 768.
        basis: the principal components, which the model has as a buffer; None: the pixels themselves.
    """

    components: int | None = None
    basis: PrincipalComponents | None = None

    name = decoder = "pca"

    def decoder_width(self, values: int) -> int:
        """K, for patches of P `values`; InvalidSetting if these are fewer than the components."""
        k = max(1, values // 8) if self.components is None else self.components
        if k > values:
            raise InvalidSetting(f"losses.pca.components={k}, but a patch has {values} values; give at most these")
        return k

    def axes(self, like: Tensor, values: int) -> Tensor:
        """(P, K), orthonormal columns, in the precision and on the device of `like`."""
        basis = self.basis or PrincipalComponents.identity(values)
        return basis.axes[:, : self.decoder_width(values)].to(like)

    def pixels(self, prediction: Tensor, values: int) -> Tensor:
        return prediction @ self.axes(prediction, values).T

    def patches(self, prediction: Tensor, values: int) -> Tensor:
        """The coefficients, (B, N, K)."""
        return prediction

    def target(self, true_pixels: Tensor) -> Tensor:
        """The coefficients of the truth, (B, N, K)."""
        return true_pixels @ self.axes(true_pixels, true_pixels.shape[-1])


class PCA(Term):
    """Mean-squared error of the largest principal components of each hidden patch.

    The components are those of standardised patches of training images, about the data set's mean colour. He et al.
    2021 (arXiv 2111.06377, table 1d, "PCA"). With all P components it is mse.
    """

    Options = PCAOptions

    @classmethod
    def head_of(cls, options: PCAOptions) -> PCAHead:
        return PCAHead(options.components)

    def value(self, r: Reconstruction) -> Tensor:
        return r.judged_mean((r.patches - r.target).square())


@dataclass(frozen=True)
class HOGHead(FeatureHead):
    """Histograms of oriented gradients of a patch of an even side: 2 x 2 cells, 3 channels, 9 orientations."""

    features: int = CELLS**2 * 3 * ORIENTATIONS
    name: str = "hog"

    def decoder_width(self, values: int) -> int:
        if (side := math.isqrt(values // 3)) % CELLS:
            raise InvalidSetting(f"hog halves a patch's side, and {side} pixels are odd; change model.patch_size")
        return self.features


class HOG(Term):
    """Mean-squared error of histograms of oriented gradients, of 2 x 2 cells in each hidden patch; nothing is drawn.

    Each channel's histogram of 9 orientations is divided by its L2 norm. The target of MaskFeat (Wei et al. 2022, arXiv
    2112.09133) without its Gaussian window; equals skimage.feature.hog with one cell per block and block_norm="L2".
    """

    head = HOGHead()

    def value(self, r: Reconstruction) -> Tensor:
        cells = histograms_of_gradients(widened(r.image), r.patch_size // CELLS)
        target = F.pixel_unshuffle(cells, CELLS).flatten(2).mT
        return r.judged_mean((r.prediction - r.of_predicted(target)).square())


def histograms_of_gradients(images: Tensor, cell: int) -> Tensor:
    """Normalised histograms of the orientations of gradients in cells of `cell` x `cell` pixels.

    (B, C, H, W) -> (B, C * 9, H / cell, W / cell), each 9 of L2 norm 1, or 0 in a flat cell. Gradients are differences
    of the two neighbours, 0 along the border; an orientation in [20 k, 20 (k + 1)) degrees votes for bin k with the
    gradient's length.
    """
    down, across = torch.zeros_like(images), torch.zeros_like(images)
    down[:, :, 1:-1] = images[:, :, 2:] - images[:, :, :-2]
    across[..., 1:-1] = images[..., 2:] - images[..., :-2]
    degrees = torch.rad2deg(torch.atan2(down, across)) % 180
    bins = (degrees * (ORIENTATIONS / 180)).long().clamp_(max=ORIENTATIONS - 1)  # 180, where a remainder is rounded up
    votes = images.new_zeros(*images.shape[:2], ORIENTATIONS, *images.shape[2:])
    votes.scatter_(2, bins.unsqueeze(2), torch.hypot(down, across).unsqueeze(2))
    histograms = F.avg_pool3d(votes, (1, cell, cell))
    return (histograms / (histograms.square().sum(2, keepdim=True) + 1e-10).sqrt()).flatten(1, 2)


class Features(Term):
    """Mean-squared error of a frozen network's features of each hidden patch; nothing is drawn.

    The target is the output of one layer of VGG19 for the whole true image, averaged over each patch, and normalised
    over channels to mean 0 and variance 1, as in MaskFeat and data2vec. With weights=bundled or random the network has
    seen no labels; with imagenet's the target carries them (table 2 of MaskFeat, arXiv 2112.09133, has both kinds).
    """

    Options = FeaturesOptions

    def __init__(self, options: Any = None, context: TermContext | None = None):
        super().__init__(options, context)
        self.net = VGG19([self.options.tap])
        self.source = load_vgg19(self.net, self.options.weights)
        self.net.to(memory_format=torch.channels_last)

    @classmethod
    def head_of(cls, options: FeaturesOptions) -> FeatureHead:
        return FeatureHead(LAYERS[tap_index(options.tap)][1])

    @torch.no_grad()
    def target(self, r: Reconstruction) -> Tensor:
        """(B, N, D)."""
        dtype = self.context.dtype
        with torch.autocast(r.image.device.type, dtype, enabled=dtype != torch.float32):
            maps = [
                F.adaptive_avg_pool2d(widened(self.net(few)[0]), r.grid) for few in r.image.split(in_cache(r.image))
            ]
        per_patch = torch.cat(maps).flatten(2).mT
        return r.of_predicted(F.layer_norm(per_patch, per_patch.shape[-1:]))

    def value(self, r: Reconstruction) -> Tensor:
        return r.judged_mean((r.prediction - self.target(r)).square())

    def provenance(self) -> dict[str, str]:
        return self.source
