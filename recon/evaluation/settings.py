"""Settings of recon.evaluate and recon.compare."""

import math
from dataclasses import dataclass

from losses import InvalidSetting
from losses.errors import chosen, nearest
from losses.features.trunks import TRUNKS
from losses.features.vgg19 import tap_index
from losses.term import option
from recon.config import _node

RENDERINGS = ("mean", "mode", "sample")


@dataclass
class Where:
    name: str | None = option(None, "dataset; null: the run's own. A checkpoint of others has none: say data=NAME")
    root: str | None = option(None, "folder that holds the data; null: where the run found it")


@dataclass
class LpipsSettings:
    net: str = option("alex", "trunk of LPIPS: alex or squeeze")
    weights: str | None = option(None, "file of the trunk's weights in torchvision's names; null: torch hub's cache")


@dataclass
class FeatureSettings:
    weights: str = option("bundled", "VGG19 of feature distance and KID: bundled, imagenet, random, or a file's path")
    tap: str = option("conv3_1", "layer whose means over positions KID compares")


@dataclass
class Measuring:
    """What recon.evaluate and recon.compare have in common."""

    device: str = option("auto", "auto, cpu, cuda, cuda:N")
    images: int = option(256, "held-out images, the same ones for every run; fewer where the data has fewer")
    seed: int = option(0, "of the masks; an image's mask depends on this and the image alone")
    batch: int = option(32, "images at a time")
    ratios: list[float] = option([0.25, 0.5, 0.75, 0.9], "mask ratios of the curve against the mask ratio; []: none")
    training_images: int = option(2048, "training images that the ridge regression is fitted on")
    render: str | None = option(
        None, "mean, mode or sample: the one answer of a predicted distribution that is measured; null: a row for each"
    )
    draws: int = option(4, "samples of each image under a predicted distribution, for scores and for their mean")
    pictures: int = option(12, "images to look at, evenly spaced among those that are measured")
    target: str | None = option(None, "pixels or normalised: a checkpoint's target, where its file cannot tell")
    data: Where = _node(Where)
    lpips: LpipsSettings = _node(LpipsSettings)
    features: FeatureSettings = _node(FeatureSettings)


@dataclass
class EvaluateSettings(Measuring):
    run: str | None = option(None, "folder of the run: runs/NAME; or a checkpoint of others, such as mae.pth")


def check(settings: Measuring) -> None:
    """What types cannot say.

    Raises:
        InvalidSetting: a value out of range, in one line.
    """
    chosen("render", settings.render or "mean", RENDERINGS)
    for key in ("images", "batch", "training_images", "pictures", "draws"):
        if getattr(settings, key) < 1:
            raise InvalidSetting(f"{key}={getattr(settings, key)} must be above 0")
    if settings.lpips.net not in TRUNKS:
        raise InvalidSetting(
            f"unknown lpips.net '{settings.lpips.net}'{nearest(settings.lpips.net, TRUNKS)} ({', '.join(TRUNKS)})"
        )
    if settings.target not in (None, "pixels", "normalised"):
        raise InvalidSetting(f"target={settings.target}: choose target=pixels or target=normalised")
    tap_index(settings.features.tap)
    for ratio in settings.ratios:
        if not 0 < ratio < 1 or not math.isfinite(ratio):
            raise InvalidSetting(f"ratios={settings.ratios}: a mask ratio is between 0 and 1, both excluded")
    if not 0 <= settings.seed < 2**63:
        raise InvalidSetting(f"seed={settings.seed} must be between 0 and 2^63 - 1")
