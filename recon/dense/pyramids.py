"""Feature pyramids: maps of several scales from the tokens of a plain encoder, as detectors expect them."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar

from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from recon.dense.encoder import DenseEncoder, quarters

SCALES = (4, 2, 1, 0.5)  # of the maps over the encoder's grid


class Pyramid(nn.Module):
    """Maps (B, D, h, w) of an encoder -> maps (B, C, s·h, s·w) "0" to "3" of the scales s = 4, 2, 1, 1/2.

    Args:
        width, depth: of the encoder, D and its blocks.
        out_channels: C.
        pool: adds every second value of "3" as "pool", which Mask R-CNN proposes large regions from.
    """

    blocks: tuple[int, ...]  # after which the maps are read that `forward` takes, counted from 1
    multiple: ClassVar[int] = 2  # of the grid's sides, which the last scale halves

    def __init__(self, out_channels: int, pool: bool):
        super().__init__()
        self.out_channels, self.pool = out_channels, pool
        self.names = [*map(str, range(len(SCALES))), *(["pool"] if pool else [])]

    def strides(self, patch_size: int) -> list[float]:
        """Pixels between neighbouring values of each map."""
        return [patch_size / scale for scale in (*SCALES, 0.25)[: len(self.names)]]

    def forward(self, maps: Sequence[Tensor]) -> "OrderedDict[str, Tensor]":
        raise NotImplementedError


class SimplePyramid(Pyramid):
    """ViTDet's, from the last map alone (Li et al. 2022, arXiv 2203.16527, section 3), as in detectron2.

    Each resampled map goes through a 1x1 and a 3x3 convolution, each under a layer norm over channels.
    """

    def __init__(self, width: int, depth: int, out_channels: int = 256, pool: bool = False):
        super().__init__(out_channels, pool)
        self.blocks = (depth,)
        widths = (width // 4, width // 2, width, width)
        self.levels = nn.ModuleList(
            nn.Sequential(
                resampled,
                nn.Conv2d(resampled_width, out_channels, 1, bias=False),
                LayerNorm2d(out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                LayerNorm2d(out_channels),
            )
            for resampled, resampled_width in zip(resampling(width, *widths[:2]), widths, strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> "OrderedDict[str, Tensor]":
        found, names = [level(maps[0]) for level in self.levels], self.names[: len(SCALES)]
        if self.pool:
            found, names = LastLevelMaxPool()(found, [], names)
        return OrderedDict(zip(names, found, strict=True))


class FourBlockPyramid(Pyramid):
    """The MAE paper's (He et al. 2021, A.3): the maps after each quarter of the blocks, resampled, under an FPN.

    After Li et al. 2021 (arXiv 2111.11429), whose batch norms behind the FPN's convolutions are layer norms over
    channels here, as in ViTDet, so that small batches do. Blocks: see `recon.dense.encoder.quarters`.
    """

    def __init__(self, width: int, depth: int, out_channels: int = 256, pool: bool = False):
        super().__init__(out_channels, pool)
        self.blocks = tuple(quarters(depth))
        self.resampling = resampling(width, width, width)
        extra = LastLevelMaxPool() if pool else None
        self.fpn = FeaturePyramidNetwork([width] * len(SCALES), out_channels, extra, LayerNorm2d)

    def forward(self, maps: Sequence[Tensor]) -> "OrderedDict[str, Tensor]":
        resampled = [layer(x) for layer, x in zip(self.resampling, maps, strict=True)]
        return self.fpn(OrderedDict(zip(self.names, resampled, strict=False)))


PYRAMIDS: dict[str, type[SimplePyramid] | type[FourBlockPyramid]] = {
    "simple": SimplePyramid,
    "four_block": FourBlockPyramid,
}


def resampling(width: int, quadrupled: int, doubled: int) -> nn.ModuleList:
    """Layers that bring a map of `width` channels to each of `SCALES`; the first two give so many channels."""
    quadruple = nn.Sequential(
        nn.ConvTranspose2d(width, doubled, 2, stride=2),
        LayerNorm2d(doubled),
        nn.GELU(),
        nn.ConvTranspose2d(doubled, quadrupled, 2, stride=2),
    )
    return nn.ModuleList([quadruple, nn.ConvTranspose2d(width, doubled, 2, stride=2), nn.Identity(), nn.MaxPool2d(2)])


class PyramidBackbone(nn.Module):
    """An encoder under a pyramid: images (B, 3, H, W) in [0, 1] of any size -> maps by name, the finest first.

    A backbone of torchvision's detectors. They take the images for as large as the maps, so they need images that are
    already padded (`pad`), not standardised (`image_mean` 0, `image_std` 1); and where the patch size is no power of
    2, the strides from here, since they round those that they infer.

    Args:
        kind: of `PYRAMIDS`.
        out_channels, pool: as of `Pyramid`.
    """

    def __init__(
        self,
        encoder: DenseEncoder,
        kind: type[SimplePyramid] | type[FourBlockPyramid],
        out_channels: int = 256,
        pool: bool = False,
    ):
        super().__init__()
        self.encoder, self.pyramid = encoder, kind(encoder.width, encoder.depth, out_channels, pool)
        self.out_channels, self.names = out_channels, self.pyramid.names
        self.strides = self.pyramid.strides(encoder.patch_size)  # in pixels

    def forward(self, images: Tensor) -> "OrderedDict[str, Tensor]":
        pyramid = self.pyramid
        return pyramid(self.encoder.tokens(images, pyramid.blocks, pyramid.multiple))

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W), in pixels, of the images that the maps cover."""
        return self.encoder.padded_size(height, width, self.pyramid.multiple)

    def pad(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) with the encoder's mean colour at right and bottom, of `padded_size`."""
        return self.encoder.pad(images, self.pyramid.multiple)
