"""Terms that compare features of a frozen network: VGG19's, and LPIPS."""

from typing import Any

import torch
from torch import Tensor

from losses.critic import Critic
from losses.features.distance import check_pool, feature_distance
from losses.features.trunks import SMALLEST, load_lpips
from losses.features.vgg19 import VGG19
from losses.features.weights import load_vgg19
from losses.options import InvalidSetting, LPIPSOptions, PerceptualOptions
from losses.reconstruction import Reconstruction
from losses.term import Surroundings


class Perceptual(Critic):
    """Mean-squared difference of VGG19 features of composite and truth, averaged over squares, summed over the taps.

    Each tap: mean over channels and positions, times its weight. Reads the composite in [0, 1] (B, 3, H, W), cut so
    that the critic's pooling grid falls anywhere against the grid of patches. Unit: the critic's features squared.
    With `pool=1` it is equation 1 of Johnson et al. 2016 (arXiv 1603.08155), without its square root, as pretrained
    with by Dong et al. 2021 (PeCo, arXiv 2111.12710). Compared position by position, features blur as pixels do:
    texture that falls elsewhere than in the truth is an error. Their means over squares are a texture's statistics.
    """

    Options = PerceptualOptions
    default_weight, default_is_share = Options.default_weight, Options.default_is_share
    name = "perceptual"

    def __init__(self, options: Any = None, surroundings: Surroundings | None = None):
        super().__init__(options, surroundings)
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
        self.distance = (
            torch.compile(feature_distance, dynamic=False) if self.surroundings.compiled else feature_distance
        )
        # Two poolings before conv3_1 make a grid of 4 pixels; each further stage doubles it.
        self.stride = 2 ** sum(isinstance(layer, torch.nn.MaxPool2d) for layer in self.net.features)
        self.check_crop(least=self.stride)
        side = self.options.crop or min(self.surroundings.image_size) - self.stride + 1  # of what is seen
        check_pool(self.name, self.options.pool, side)

    def value(self, r: Reconstruction) -> Tensor:
        predicted, true = (self.seen(r, image, self.stride) for image in (r.judged_image, r.image))
        dtype = self.surroundings.dtype
        with torch.autocast(predicted.device.type, dtype, enabled=dtype != torch.float32):
            return self.distance(self.net, predicted, true, self.tap_weights, self.options.pool)

    def provenance(self) -> dict[str, str]:
        return self.source


class LPIPS(Critic):
    """LPIPS of composite and truth (Zhang et al. 2018, arXiv 1801.03924), by the lpips package: a mean over images.

    Reads the composite in [0, 1] (B, 3, H, W), cut so that the network's grid falls anywhere against the grid of
    patches. Unit: LPIPS. Its trunk has seen ImageNet's labels. Judge such a run by another network.
    """

    Options = LPIPSOptions
    name = "lpips"

    STRIDE = 8  # half the stride of the deepest layers: their grid falls on every place of a patch of 8 pixels

    def __init__(self, options: Any = None, surroundings: Surroundings | None = None):
        super().__init__(options, surroundings)
        o = self.options
        self.package, self.source = load_lpips(o.net, o.weights, "losses.lpips.weights", spatial=False)
        least = SMALLEST[o.net]
        self.check_crop(least)
        if (side := min(self.surroundings.image_size) - self.STRIDE + 1) < least:
            raise InvalidSetting(
                f"losses.lpips.net={o.net} needs images of {least + self.STRIDE - 1} pixels, not "
                f"{side + self.STRIDE - 1}; raise data.image_size"
            )

    def train(self, mode: bool = True) -> "LPIPS":
        super().train(mode)
        self.package.train(False)  # dropout sleeps
        return self

    def value(self, r: Reconstruction) -> Tensor:
        predicted, true = (self.seen(r, image, self.STRIDE) * 2 - 1 for image in (r.judged_image, r.image))
        dtype = self.surroundings.dtype
        with torch.autocast(predicted.device.type, dtype, enabled=dtype != torch.float32):
            distance = self.package(predicted, true)
        return distance.to(torch.promote_types(distance.dtype, torch.float32)).mean()

    def provenance(self) -> dict[str, str]:
        return {"network": f"LPIPS-{self.options.net}"} | self.source
