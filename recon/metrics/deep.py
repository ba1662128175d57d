"""Distances in features of frozen networks: LPIPS, and VGG19's with its share where texture was added."""

from collections.abc import Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.features.vgg19 import DEFAULT_TAPS, VGG19
from losses.features.weights import SMALLEST, TRUNKS, load_lpips, load_vgg19
from losses.reconstruction import expand_to_pixels
from recon.metrics.base import CACHE_VALUES, Metric, MetricInfo, Pair, Undefined, map_in_chunks
from recon.metrics.fidelity import area_mean, halved
from recon.metrics.recovery import added_texture

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
        self.package.net.to(memory_format=torch.channels_last)  # a trunk on a CPU takes 0.85 of the time
        self.eval()

    def train(self, mode: bool = True) -> "Lpips":
        return super().train(False)

    def forward(self, image: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
        return map_in_chunks(
            lambda x, y, where: self._distance(self._maps(x), self._maps(y), where),
            *(image, truth, hidden),
            values=LPIPS_VALUES,
        )

    def of_pair(self, pair: Pair) -> Tensor:
        """As `forward`; the truth's features are computed once for all pairs that share it."""
        if self not in pair.true.kept:
            pair.true.kept[self] = map_in_chunks(self._maps, pair.truth, values=LPIPS_VALUES)
        return map_in_chunks(
            lambda x, where, *y: self._distance(self._maps(x), y, where),
            *(pair.image, pair.hidden, *pair.true.kept[self]),
            values=LPIPS_VALUES,
        )

    def _maps(self, images: Tensor) -> list[Tensor]:
        """Each layer's features of unit length: (B, C, h, w)."""
        if min(images.shape[2:]) < SMALLEST[self.name]:
            raise Undefined(f"images below {SMALLEST[self.name]} pixels")
        scaled = self.package.scaling_layer(2 * images.to(next(self.package.buffers()).dtype) - 1)
        maps = self.package.net(scaled.contiguous(memory_format=torch.channels_last))
        return [x.div_(torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10) for x in maps]

    def _distance(self, image: Sequence[Tensor], truth: Sequence[Tensor], hidden: Tensor) -> Tensor:
        """From `_maps`; each layer's map is averaged with the weights that its positions have in the upsampled one."""
        area: dict[tuple[int, ...], Tensor] = {}
        total = torch.zeros(len(hidden), dtype=image[0].dtype, device=hidden.device)
        for x, y, linear in zip(image, truth, self.package.lins, strict=True):
            size = tuple(x.shape[2:])
            if size not in area:
                rows, columns = (
                    _upsampling(*sides, x.device, x.dtype) for sides in zip(size, hidden.shape[2:], strict=True)
                )
                area[size] = rows.mT @ hidden.to(x.dtype) @ columns
            total += area_mean(linear((x - y).square_()), area[size])
        return total


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _upsampling(side: int, pixels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The matrix of bilinear upsampling along one axis: (pixels, side)."""
    return F.interpolate(torch.eye(side, dtype=dtype)[None], pixels, mode="linear")[0].T.to(device)


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
        self.provenance, self.source = load_vgg19(self.net, source), source
        self.strides = [_stride(self.net, index) for index in self.net.indices]

    def forward(self, image: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
        def of_chunk(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
            return self._squares(features(self.net, x), features(self.net, y))

        return self.averaged(map_in_chunks(of_chunk, image, truth), hidden)

    def of_pair(self, pair: Pair) -> Sequence[Tensor]:
        """Squared differences at each tap, mean over channels, (B, 1, h, w): computed once for all metrics of a pair.

        The truth's features are computed once for all pairs that share it. Means over positions of the last tap are
        left with the images, for `recon.metrics.feature_networks`.
        """
        if self in pair.kept:
            return pair.kept[self]
        last = (VGG19, self.source, self.net.taps[-1])
        if self not in pair.true.kept:
            pair.true.kept[self] = map_in_chunks(partial(features, self.net), pair.truth)
            pair.true.kept[last] = pair.true.kept[self][-1].mean((2, 3))

        def of_chunk(x: Tensor, *y: Tensor) -> tuple[Tensor, ...]:
            maps = features(self.net, x)
            return maps[-1].mean((2, 3)), *self._squares(maps, y)

        if pair.predicted is pair.true:
            pair.kept[self] = tuple(torch.zeros_like(x[:, :1]) for x in pair.true.kept[self])
        else:
            found = map_in_chunks(of_chunk, pair.image, *pair.true.kept[self])
            pair.predicted.kept[last], *pair.kept[self] = found
        return pair.kept[self]

    def _squares(self, image: Sequence[Tensor], truth: Sequence[Tensor]) -> tuple[Tensor, ...]:
        # In place, and without the squares' own memory: 1.0 ms for 14 at the widest map of 224 pixels.
        differences = (x.sub_(y) for x, y in zip(image, truth, strict=True))
        return tuple(torch.linalg.vector_norm(x, dim=1, keepdim=True).square_() / x.shape[1] for x in differences)

    def averaged(self, maps: Sequence[Tensor], hidden: Tensor, share: Tensor | float = 1) -> Tensor:
        """The mean of `share` times the maps over hidden area, summed over the taps: (B,).

        Hidden and share are (B, 1, H, W), of the image's pixels.
        """
        levels = [(hidden.to(maps[0].dtype), hidden * torch.as_tensor(share, dtype=maps[0].dtype))]
        while 2 ** len(levels) <= max(self.strides):  # of 1, 2, 4, ... pixels a position
            levels.append((halved(levels[-1][0]), halved(levels[-1][1])))
        total = torch.zeros(len(hidden), dtype=maps[0].dtype, device=hidden.device)
        for squares, stride in zip(maps, self.strides, strict=True):
            area, counted = levels[stride.bit_length() - 1]
            total += (squares * counted).sum((1, 2, 3)) / area.sum((1, 2, 3))
        return total


def features(net: VGG19, images: Tensor) -> list[Tensor]:
    """The network's outputs at its taps, in the network's precision; `Undefined` where a pooling has no pixels."""
    smallest = _stride(net, len(net.features) - 1)
    if min(images.shape[2:]) < smallest:
        raise Undefined(f"images below {smallest} pixels")
    return net(images.to(next(net.parameters()).dtype))


def _stride(net: VGG19, index: int) -> int:
    """Pixels between the positions of a layer's output."""
    return 2 ** sum(isinstance(layer, nn.MaxPool2d) for layer in net.features[: index + 1])


def network_metrics(net: Lpips | FeatureDistance, lpips: MetricInfo) -> list[Metric]:
    """The metrics that a loaded network computes: `lpips`, or VGG and HALLUCINATION."""
    if isinstance(net, Lpips):
        return [Metric(**vars(lpips), function=net.of_pair)]

    def hallucination(pair: Pair) -> Tensor:
        share = added_texture(pair).to(pair.truth.dtype)
        return net.averaged(net.of_pair(pair), pair.hidden, expand_to_pixels(share, pair.grid, pair.patch_size))

    return [
        Metric(**vars(VGG), function=lambda pair: net.averaged(net.of_pair(pair), pair.hidden)),
        Metric(**vars(HALLUCINATION), function=hallucination),
    ]


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
HALLUCINATION = MetricInfo(
    name="hallucination",
    description="The part of vgg19, the difference of features over hidden area, that lies where the reconstruction "
    "has texture which the truth does not support; 0 for the truth and for a blurred truth, not for a likely draw.",
    unit="features squared",
    better="lower",
    reference="recon.metrics.recovery.added_texture times the distance of the metric vgg19",
)
