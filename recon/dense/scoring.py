"""What predictions are worth: mIoU and pixel accuracy of class maps, average precision of instances.

A score of a whole set of images is no mean over images. Its interval comes from the jackknife: the score is computed
anew without each image, or without each of a few groups of images where that takes long.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from losses import InvalidSetting
from recon.dense.scenes import IGNORED, Instances

GROUPS = 20  # of images, left out in turn for the interval of average precision
AP = {"box_ap": "bbox_map", "box_ap50": "bbox_map_50", "mask_ap": "segm_map", "mask_ap50": "segm_map_50"}


def confusion(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """How many pixels of each class (row) were given each class (column): (C, C) int64; ignored pixels do not count.

    predicted, truth: (H, W) classes; IGNORED may stand in the truth alone.
    """
    judged = truth != IGNORED
    pairs = truth[judged].long() * classes + predicted[judged].long()
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def mean_iou(counts: Tensor) -> Tensor:
    """Confusions (..., C, C) -> (...), the mean over classes of intersection over union, in [0, 1].

    Classes that are neither in the truth nor in the prediction are left out, as torchmetrics does.
    """
    counts = counts.double()
    hits = counts.diagonal(dim1=-2, dim2=-1)
    union = counts.sum(-1) + counts.sum(-2) - hits
    return torch.where(union > 0, hits / union, torch.nan).nanmean(-1)


def pixel_accuracy(counts: Tensor) -> Tensor:
    """Confusions (..., C, C) -> (...), the share of judged pixels that have their class, in [0, 1]."""
    counts = counts.double()
    return counts.diagonal(dim1=-2, dim2=-1).sum(-1) / counts.sum((-1, -2))


CLASS_MAP_SCORES: dict[str, Callable[[Tensor], Tensor]] = {"miou": mean_iou, "pixel_accuracy": pixel_accuracy}


def class_map_scores(confusions: Tensor) -> dict[str, Tensor]:
    """Confusions of n images (n, C, C) -> score -> (n,), what each image adds; the mean is the score of all images."""
    total = confusions.sum(0)
    return {name: parts(score(total), score(total - confusions)) for name, score in CLASS_MAP_SCORES.items()}


class InstanceScorer:
    """COCO's average precision of boxes and masks, by faster-coco-eval through torchmetrics.

    The mean over IoU thresholds 0.5, 0.55, ..., 0.95 and classes, in [0, 1]; at most 100 detections an image; crowd
    regions are not judged. Masks are kept run-length encoded.

    Raises:
        InvalidSetting: a package is not installed.
    """

    def __init__(self) -> None:
        self.metric = mean_average_precision()
        self.images = self.instances = 0

    def update(self, prediction: dict[str, Tensor], truth: Instances) -> None:
        """Takes one image. `prediction`: "boxes" (m, 4), "scores" (m,), "labels" (m,) and "masks" (m, H, W) bool."""
        target = {"boxes": truth.boxes, "labels": truth.labels, "masks": truth.masks, "iscrowd": truth.crowd.long()}
        self.metric.update([prediction], [target])
        self.images += 1
        self.instances += int((~truth.crowd).sum())

    def scores(self) -> dict[str, Tensor]:
        """Score -> (G,), what each group of images adds; their mean is the score of all images.

        Raises:
            InvalidSetting: fewer than two images, or no instance to find.
        """
        if self.images < 2 or not self.instances:
            raise InvalidSetting(
                f"{self.instances} instances in {self.images} held-out images cannot be scored; give more"
            )
        groups = min(GROUPS, self.images)
        whole, without = self._without(None, 1), [self._without(group, groups) for group in range(groups)]
        return {name: parts(whole[name], torch.stack([each[name] for each in without])) for name in whole}

    def _without(self, group: int | None, groups: int) -> dict[str, Tensor]:
        """The scores of all images but those whose number is `group` modulo `groups`."""
        metric = mean_average_precision()
        for name, of_images in self.metric.metric_state.items():  # lists, an entry an image
            setattr(metric, name, [entry for i, entry in enumerate(of_images) if i % groups != group])
        metric._update_count = 1  # or torchmetrics warns that nothing was measured
        found = metric.compute()
        return {name: found[theirs].double().clamp(min=0) for name, theirs in AP.items()}  # -1: nothing to find


def mean_average_precision() -> Any:
    """torchmetrics' metric. Raises InvalidSetting where it, or faster-coco-eval, is not installed."""
    try:
        from torchmetrics.detection import MeanAveragePrecision

        # Under torchrun rank zero alone scores: torchmetrics would wait for the other ranks.
        return MeanAveragePrecision(iou_type=("bbox", "segm"), backend="faster_coco_eval", sync_on_compute=False)
    except (ImportError, ModuleNotFoundError) as error:
        raise InvalidSetting(
            f"average precision needs packages that are missing: pip install recon[transfer] ({error})"
        ) from error


def parts(whole: Tensor, without: Tensor) -> Tensor:
    """What each item adds to a score: (n,), whose mean is the `whole`, and whose standard error is the jackknife's.

    `without`: (n,), the score without each item, or without each of n groups of them.
    """
    return whole + (len(without) - 1) * (without.mean() - without)
