"""The perceptual term: distance between features of a frozen VGG19."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from losses.critic import Critic
from losses.errors import InvalidSetting
from losses.features.distance import feature_distance
from losses.features.vgg19 import DEFAULT_TAPS, VGG19
from losses.features.weights import load_vgg19
from losses.reconstruction import Reconstruction
from losses.term import Surroundings, option


class Perceptual(Critic):
    """Mean-squared difference of VGG19 features of composite and truth, summed over the taps.

    Each tap: mean over channels and positions, times its weight. Reads the composite in [0, 1] (B, 3, H, W), cut so
    that the critic's pooling grid falls anywhere against the grid of patches. Unit: the critic's features squared.
    Johnson et al. 2016 (arXiv 1603.08155), equation 1, without its square root; as a pretraining objective, Dong et
    al. 2021 (PeCo, arXiv 2111.12710).
    """

    # With features scaled to a mean of 1, as the bundled ones are, this is no small regulariser: half of the push with
    # mse in the default run (perceptual/gradient_share in its metrics.jsonl). `10%perceptual` says it in gradients.
    default_weight = 0.01

    name = "perceptual"

    @dataclass
    class Options(Critic.Options):
        """Settings `losses.perceptual.<option>`."""

        weights: str = option("bundled", "imagenet (torchvision's), bundled (label-free), random, or a file's path")
        taps: list[str] = option(
            list(DEFAULT_TAPS), "layers compared, by name: conv3_1 (after its ReLU), pool2, features.7"
        )
        tap_weights: list[float] = option([], "one weight per tap; empty: 1 each")

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

    def value(self, r: Reconstruction) -> Tensor:
        predicted, true = (self.seen(r, image, self.stride) for image in (r.judged_image, r.image))
        dtype = self.surroundings.dtype
        with torch.autocast(predicted.device.type, dtype, enabled=dtype != torch.float32):
            return self.distance(self.net, predicted, true, self.tap_weights)

    def provenance(self) -> dict[str, str]:
        return self.source
