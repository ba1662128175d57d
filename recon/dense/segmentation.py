"""Class maps from an encoder: by the nearest patches, by a linear layer on frozen tokens, by UPerNet."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses import InvalidSetting
from losses.reconstruction import patchify
from recon.dense.encoder import DenseEncoder
from recon.dense.pyramids import PyramidBackbone
from recon.dense.scenes import IGNORED
from recon.dense.synced import rank_mean
from recon.neighbours import knn

NEIGHBOURS = 20


class Segmenter(nn.Module):
    """Logits of each pixel's class from images of any size.

    In training mode it takes images (B, 3, S, S) and class maps, a list of (S, S) int64, and returns the cross-entropy
    over judged pixels; otherwise it returns logits (B, C, H, W). The mean of what several ranks return is the
    cross-entropy over the judged pixels of all.
    """

    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, C, h, w) over the padded image."""
        raise NotImplementedError

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of the padded image."""
        raise NotImplementedError

    def forward(self, images: Tensor, targets: list[Tensor] | None = None) -> Tensor:
        height, width = images.shape[-2:]
        logits = self.logits(images).float()
        padded = self.padded_size(height, width)
        logits = F.interpolate(logits, padded, mode="bilinear", align_corners=False)[..., :height, :width]
        if targets is None:
            return logits
        classes = torch.stack(targets).to(logits.device)
        total = F.cross_entropy(logits, classes, ignore_index=IGNORED, reduction="sum")
        return total / rank_mean((classes != IGNORED).sum().float())


class LinearSegmenter(Segmenter):
    """Batch norm without scale and shift and a linear layer on each patch token of a frozen encoder.

    The linear probe of dense features, as in iBOT (arXiv 2111.07832) and DINOv2 (arXiv 2304.07193, section 7.4).
    """

    def __init__(self, encoder: DenseEncoder, classes: int):
        super().__init__()
        self.encoder = encoder
        self.norm = nn.BatchNorm2d(encoder.width, affine=False)
        self.linear = nn.Conv2d(encoder.width, classes, 1)
        nn.init.trunc_normal_(self.linear.weight, std=0.01)

    def logits(self, images: Tensor) -> Tensor:
        return self.linear(self.norm(self.encoder.tokens(images, [self.encoder.depth])[0].float()))

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        return self.encoder.padded_size(height, width)


class UPerNet(Segmenter):
    """UPerNet (Xiao et al. 2018, arXiv 1807.10221) on an encoder's pyramid, by segmentation_models_pytorch.

    Without the auxiliary head of the MAE paper's setting, which is BEiT's. Needs batches of two: its coarsest map is
    pooled to one value, over which a batch norm is taken.

    Raises:
        InvalidSetting: segmentation_models_pytorch is not installed.
    """

    def __init__(self, backbone: PyramidBackbone, classes: int):
        super().__init__()
        try:
            from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
        except ImportError as error:
            raise InvalidSetting(
                f"UPerNet needs a package that is missing: pip install recon[transfer] ({error})"
            ) from error
        self.backbone, self.encoder, width = backbone, backbone.encoder, backbone.out_channels
        self.decoder = UPerNetDecoder((0, 0, *[width] * 4), decoder_channels=width)  # the first two it does not read
        self.classify = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(width, classes, 1))

    def logits(self, images: Tensor) -> Tensor:
        maps: list[Any] = [None, None, *self.backbone(images).values()]
        return self.classify(self.decoder(maps))

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        return self.backbone.padded_size(height, width)


class PatchNeighbours:
    """The class of each patch by a weighted vote of the 20 nearest patches of the training images: no training.

    A patch of a training image stands for the class of most of its judged pixels. Cosine similarity of the tokens under
    the encoder's norm, votes as of `recon.neighbours.knn`.

    Args:
        most: training patches that are kept, drawn by `seed`.
    """

    def __init__(self, encoder: DenseEncoder, classes: int, most: int, seed: int):
        self.encoder, self.classes, self.most = encoder, classes, most
        self.generator = torch.Generator().manual_seed(seed)
        self.features, self.labels = torch.empty(0), torch.empty(0, dtype=torch.int64)

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Tensor, list[Tensor]]]) -> None:
        """Takes images (B, 3, S, S), S a multiple of the patch size, with their class maps (S, S)."""
        features, labels = [], []
        for images, class_maps in batches:
            tokens = self.encoder.tokens(images, [self.encoder.depth])[0]  # (B, D, h, w)
            found = patch_classes(torch.stack(class_maps), self.encoder.patch_size, self.classes)
            judged = found != IGNORED
            features.append(tokens.flatten(2).mT.float().cpu()[judged])
            labels.append(found[judged])
        everything, classes = torch.cat(features), torch.cat(labels)
        kept = torch.randperm(len(classes), generator=self.generator)[: self.most]
        self.features, self.labels = everything[kept].to(tokens.device), classes[kept].to(tokens.device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> the class of each pixel (1, H, W)."""
        height, width = images.shape[-2:]
        tokens = self.encoder.tokens(images, [self.encoder.depth])[0]
        found = knn(self.features, self.labels, tokens[0].flatten(1).T, self.classes, (NEIGHBOURS,))[NEIGHBOURS]
        found = found.view(tokens.shape[-2:])
        side = self.encoder.patch_size
        return found.repeat_interleave(side, 0).repeat_interleave(side, 1)[None, :height, :width]


def patch_classes(class_maps: Tensor, patch_size: int, classes: int) -> Tensor:
    """(B, S, S) -> (B, N), the class of most judged pixels of each patch; IGNORED where no pixel is judged.

    Of classes with equally many pixels the lowest.
    """
    patches = patchify(class_maps[:, None].float(), patch_size).long()  # (B, N, p²)
    counts = torch.stack([(patches == c).sum(-1) for c in range(classes)], -1)
    return torch.where(counts.sum(-1) > 0, counts.argmax(-1), IGNORED)


def class_map(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (1, C, h, w) -> the most likely class of each pixel of the image in its own size: (H, W)."""
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)[0].argmax(0)
