"""Terms that compare features of a frozen network: VGG19's, and LPIPS."""

from typing import Any

import torch
from torch import Tensor

from losses.features.vgg19 import VGG19, feature_distance, squared_difference
from losses.features.weights import SMALLEST, load_lpips, load_vgg19
from losses.options import InvalidSetting, LPIPSOptions, PerceptualOptions
from losses.reconstruction import Reconstruction
from losses.term import Critic, TermContext, widened


class Perceptual(Critic):
    """Mean-squared difference of VGG19 features of composite and truth, averaged over squares, summed over the taps.

    Each tap: mean over channels and positions, times its weight. Reads the composite in [0, 1] (B, 3, H, W), cropped so
    that the network's pooling grid is randomly shifted against the grid of patches. Unit: the network's features
    squared. With `pool=1` it is equation 1 of Johnson et al. 2016 (arXiv 1603.08155), without its square root, as used
    in pretraining by Dong et al. 2021 (PeCo, arXiv 2111.12710): features then blur as pixels do, because texture at
    other positions than in the truth is an error. Means over squares are texture statistics.
    """

    Options = PerceptualOptions
    name = "perceptual"

    def __init__(self, options: Any = None, context: TermContext | None = None):
        super().__init__(options, context)
        taps, weights = list(self.options.taps), list(self.options.tap_weights)
        if not taps:
            raise InvalidSetting("losses.perceptual.taps is empty; name at least one layer, such as conv3_1")
        if weights and len(weights) != len(taps):
            raise InvalidSetting(f"losses.perceptual.tap_weights has {len(weights)} numbers for {len(taps)} taps")
        self.tap_weights = weights or [1.0] * len(taps)
        self.net = VGG19(taps)
        self.source = load_vgg19(self.net, self.options.weights)
        self.net.to(memory_format=torch.channels_last)
        # Static shapes: those of a batch are always the same.
        self.difference = (
            torch.compile(squared_difference, dynamic=False) if self.context.compiled else squared_difference
        )
        self.stride = max(self.net.strides)  # 4 pixels by default, from two poolings before conv3_1
        self.check_crop(least=self.stride)
        self.check_pool(self.stride)

    def value(self, r: Reconstruction) -> Tensor:
        predicted, true = (self.sampled(r, image, self.stride) for image in (r.judged_image, r.image))
        with self.autocast(r):
            return feature_distance(self.net, predicted, true, self.tap_weights, self.options.pool, self.difference)

    def provenance(self) -> dict[str, str]:
        return self.source


class LPIPS(Critic):
    """LPIPS of composite and truth (Zhang et al. 2018, arXiv 1801.03924), by the lpips package: a mean over images.

    Reads the composite in [0, 1] (B, 3, H, W), cropped so that the network's grid is randomly shifted against the grid
    of patches. Unit: LPIPS. Its trunk was trained on ImageNet's labels. Measure such a run with another network.
    """

    Options = LPIPSOptions
    name = "lpips"

    # Pixels by which the grid is shifted at most: half the stride of the deepest layers, and a whole patch of 8.
    STRIDE = 8

    def __init__(self, options: Any = None, context: TermContext | None = None):
        super().__init__(options, context)
        o = self.options
        self.package, self.source = load_lpips(o.net, o.weights, "losses.lpips.weights", spatial=False)
        least = SMALLEST[o.net]
        self.check_crop(least)
        if (side := min(self.context.image_size) - self.STRIDE + 1) < least:
            raise InvalidSetting(
                f"losses.lpips.net={o.net} needs images of {least + self.STRIDE - 1} pixels, not "
                f"{side + self.STRIDE - 1}; raise data.image_size"
            )

    def train(self, mode: bool = True) -> "LPIPS":
        super().train(mode)
        self.package.train(False)  # no dropout
        return self

    def value(self, r: Reconstruction) -> Tensor:
        predicted, true = (self.sampled(r, image, self.STRIDE) * 2 - 1 for image in (r.judged_image, r.image))
        with self.autocast(r):
            return widened(self.package(predicted, true)).mean()

    def provenance(self) -> dict[str, str]:
        return {"network": f"LPIPS-{self.options.net}"} | self.source
