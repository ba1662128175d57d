"""Mask R-CNN on an encoder's pyramid, by torchvision."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from recon.dense.pyramids import PyramidBackbone

ANCHOR = 8  # side of an anchor over the stride of its map, as of torchvision's and detectron2's defaults
SHAPES = (0.5, 1.0, 2.0)  # height over width
BOX_POOL, MASK_POOL = 7, 14  # sides of the pooled features
CONFIDENT = 0.5  # of a pixel of a mask
DETECTIONS = 100  # of an image, as COCO judges


class Detector(nn.Module):
    """Boxes, classes and masks of instances.

    In training mode it takes images (B, 3, S, S) in [0, 1] and targets as of `recon.dense.views`, and returns the sum
    of Mask R-CNN's five losses (He et al. 2017, arXiv 1703.06870); otherwise, of one image (1, 3, h, w), a dictionary
    of "boxes" (m, 4) in its pixels, "labels" (m,), "scores" (m,) and "masks" (m, 1, h, w) in [0, 1].

    Args:
        classes: C. hidden: width of the two layers of the box head, and a quarter of it of the mask head's four (1024
            and 256 in the paper). proposals: kept per image, in training and in testing.
    """

    def __init__(self, backbone: PyramidBackbone, classes: int, hidden: int = 1024, proposals: int = 1000):
        super().__init__()
        self.encoder = backbone.encoder  # by this name for `parameter_groups`
        channels, mask_channels = backbone.out_channels, hidden // 4
        names, strides = backbone.names, backbone.strides
        self.model = MaskRCNN(
            backbone,
            rpn_anchor_generator=Anchors(strides),
            box_roi_pool=roi_align(names[:-1], strides[:-1], BOX_POOL),
            mask_roi_pool=roi_align(names[:-1], strides[:-1], MASK_POOL),
            box_head=TwoMLPHead(channels * BOX_POOL**2, hidden),
            box_predictor=FastRCNNPredictor(hidden, classes + 1),
            mask_head=MaskRCNNHeads(channels, (mask_channels,) * 4, 1),
            mask_predictor=MaskRCNNPredictor(mask_channels, mask_channels, classes + 1),
            rpn_post_nms_top_n_train=proposals,
            rpn_post_nms_top_n_test=proposals,
            rpn_pre_nms_top_n_train=2 * proposals,
            rpn_pre_nms_top_n_test=2 * proposals,
            box_batch_size_per_image=min(512, proposals // 2),
            box_detections_per_img=DETECTIONS,
        )
        self.model.transform = Padded(backbone)

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]] | None = None) -> Any:
        if targets is None:
            found = self.model(list(images))[0]
            return found | {"labels": found["labels"] - 1}  # 0 is torchvision's background
        shifted = [{key: value.to(images.device) for key, value in target.items()} for target in targets]
        losses = self.model(list(images), [target | {"labels": target["labels"] + 1} for target in shifted])
        return torch.stack(list(losses.values())).sum()


class Anchors(AnchorGenerator):
    """Three anchors at each value of each map; torchvision's would round strides that are no whole numbers."""

    def __init__(self, strides: list[float]):
        super().__init__(tuple((ANCHOR * stride,) for stride in strides), (SHAPES,) * len(strides))
        self.strides = strides

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """The anchors of all maps for each image, the same ones: (A, 4) each."""
        first = feature_maps[0]
        self.set_cell_anchors(first.dtype, first.device)
        strides = [[torch.tensor(stride, device=first.device)] * 2 for stride in self.strides]
        found = torch.cat(self.grid_anchors([list(x.shape[-2:]) for x in feature_maps], strides))
        return [found] * len(image_list.image_sizes)


def roi_align(names: list[str], strides: list[float], side: int) -> MultiScaleRoIAlign:
    """torchvision's pooling of regions from the maps of these strides, which it would round to powers of 2."""
    pool = MultiScaleRoIAlign(names, side, 2)
    pool.scales = [1 / stride for stride in strides]
    ends = (round(math.log2(stride)) for stride in (strides[0], strides[-1]))
    pool.map_levels = initLevelMapper(*ends, canonical_scale=pool.canonical_scale, canonical_level=pool.canonical_level)
    return pool


class Padded(nn.Module):
    """In the place of torchvision's resizing: images keep their size and are padded; the encoder standardises them."""

    def __init__(self, backbone: PyramidBackbone):
        super().__init__()
        self.pad = backbone.pad

    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        return ImageList(self.pad(torch.stack(images)), sizes), targets

    def postprocess(self, result: list[dict[str, Tensor]], seen: list[Any], original: list[Any]) -> Any:
        for found, size in zip(result, seen, strict=False):  # in training nothing is found
            found["masks"] = paste_masks_in_image(found["masks"], found["boxes"], size)
        return result


def in_own_size(found: dict[str, Tensor], seen: tuple[int, int], size: tuple[int, int]) -> dict[str, Tensor]:
    """A detection on an image of `seen` (h, w), in the pixels of the image's own `size` (H, W), on the CPU.

    "masks" become (m, H, W) bool.
    """
    factor = torch.tensor([size[1] / seen[1], size[0] / seen[0]]).repeat(2)
    masks = found["masks"].float().cpu()
    if size != seen and len(masks):
        masks = nn.functional.interpolate(masks, size, mode="bilinear", align_corners=False)
    masks = masks.reshape(-1, *size) > CONFIDENT
    boxes = found["boxes"].float().cpu() * factor
    return {"boxes": boxes, "scores": found["scores"].cpu(), "labels": found["labels"].cpu(), "masks": masks}
