"""Distances and features of frozen networks: LPIPS, and VGG19's."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.features.vgg19 import DEFAULT_TAPS, VGG19
from losses.features.weights import SMALLEST, TRUNKS, load_lpips, load_vgg19
from recon.metrics.base import CACHE_VALUES, Metric, MetricInfo, Undefined, map_in_chunks
from recon.metrics.fidelity import area_mean

LPIPS_VALUES = 16 * CACHE_VALUES  # its layers have large strides and need more images to be busy


class Lpips(nn.Module):
    """Learned perceptual distance (Zhang et al. 2018, arXiv 1801.03924, version 0.1) over hidden pixels.

    The `lpips` package's network and linear layers on torchvision's ImageNet trunk. The package's map of distances,
    upsampled to the image layer by layer, is averaged over the hidden pixels; its plain value averages each layer
    before they are upsampled, so the two differ by a little even where everything is hidden. A deep feature sees far
    beyond its pixel: visible surroundings count too.

    Its parameters never require a gradient, and `train()` leaves it in evaluation.

    Args:
        net: `alex` (the paper's choice for judging) or `squeeze`.
        weights: a file of the trunk (.safetensors or .pth in torchvision's names); None for torchvision's own from
            the hub cache, downloaded if it is not there.

    Shape: images (B, 3, H, W) in [0, 1] twice, hidden (B, 1, H, W) bool -> (B,), 0 for the truth.

    Raises:
        InvalidSetting: the trunk's weights are not to be had; the message says how to get them.
        Undefined: images are smaller than the trunk's poolings need.
    """

    def __init__(self, net: str = "alex", weights: str | None = None):
        super().__init__()
        self.name = net
        self.package, self.provenance = load_lpips(net, weights, "lpips.weights", spatial=True)
        self.eval()

    def train(self, mode: bool = True) -> "Lpips":
        return super().train(False)

    def forward(self, image: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
        if min(image.shape[2:]) < SMALLEST[self.name]:
            raise Undefined(f"images below {SMALLEST[self.name]} pixels")
        return map_in_chunks(self._distance, image, truth, hidden, values=LPIPS_VALUES)

    def _distance(self, image: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
        dtype = next(self.package.buffers()).dtype
        return area_mean(self.package(2 * image.to(dtype) - 1, 2 * truth.to(dtype) - 1), hidden)


class FeatureDistance(nn.Module):
    """Mean-squared difference of VGG19 features over hidden area, summed over the taps.

    The perceptual loss's distance, image by image, on the whole image, each tap with weight 1: a feature position
    counts by the share of the pixels it was pooled from that are hidden. Unit: the network's features squared, so
    values compare under the same weights alone.

    Args:
        source: as of `load_vgg19`: bundled, imagenet, random, or a file's path.
        taps: the layers compared.

    Shape: images (B, 3, H, W) in [0, 1] twice, hidden (B, 1, H, W) bool -> (B,), 0 for the truth.

    Raises:
        InvalidSetting: the weights are not to be had.
        Undefined: images are smaller than the poolings need.
    """

    def __init__(self, source: str = "bundled", taps: Sequence[str] = DEFAULT_TAPS):
        super().__init__()
        self.net = VGG19(taps).to(memory_format=torch.channels_last)
        self.provenance = load_vgg19(self.net, source)
        self.strides = [_stride(self.net, index) for index in self.net.indices]

    def forward(self, image: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
        return map_in_chunks(self._distance, image, truth, hidden)

    def _distance(self, image: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
        maps = zip(features(self.net, image), features(self.net, truth), self.strides, strict=True)
        distances = (
            area_mean((x - y).square(), F.avg_pool2d(hidden.to(x.dtype), stride, stride)) for x, y, stride in maps
        )
        return reduce(torch.add, distances)


class PooledFeatures(nn.Module):
    """One VGG19 tap's features, mean over positions: what the distribution metrics compare.

    Shape: images (B, 3, H, W) in [0, 1] -> (B, D). Arguments and errors as of `FeatureDistance`.
    """

    def __init__(self, source: str = "bundled", tap: str = "conv3_1"):
        super().__init__()
        self.net = VGG19([tap]).to(memory_format=torch.channels_last)
        self.provenance = load_vgg19(self.net, source)

    def forward(self, images: Tensor) -> Tensor:
        return map_in_chunks(lambda few: features(self.net, few)[0].mean((2, 3)), images)


def features(net: VGG19, images: Tensor) -> list[Tensor]:
    """The network's outputs at its taps, in the network's precision; `Undefined` where a pooling has no pixels."""
    smallest = _stride(net, len(net.features) - 1)
    if min(images.shape[2:]) < smallest:
        raise Undefined(f"images below {smallest} pixels")
    return net(images.to(next(net.parameters()).dtype))


def _stride(net: VGG19, index: int) -> int:
    """Pixels between the positions of a layer's output."""
    return 2 ** sum(isinstance(layer, nn.MaxPool2d) for layer in net.features[: index + 1])


def network_metric(net: nn.Module, info: MetricInfo) -> Metric:
    """The metric that a loaded `Lpips` or `FeatureDistance` computes."""
    return Metric(**vars(info), function=lambda pair: net(pair.image, pair.truth, pair.hidden))


# Described without their networks, so that a table lists them where the weights are missing.
LPIPS = {
    net: MetricInfo(
        name="lpips",
        description=f"Learned perceptual distance (LPIPS-{net}), its map averaged over hidden pixels.",
        unit="0 for the truth",
        better="lower",
        reference="Zhang et al. 2018; the map of lpips.LPIPS(spatial=True), version 0.1",
    )
    for net in TRUNKS
}
VGG = MetricInfo(
    name="vgg19",
    description=f"Mean-squared difference of VGG19 features over hidden area, summed over {', '.join(DEFAULT_TAPS)}.",
    unit="features squared",
    better="lower",
    reference="Johnson et al. 2016, equation 1, without its square root; losses.perceptual, image by image",
)
