"""The settings of recon.evaluate, compare, probe and transfer; those of recon.pretrain are in config.py."""

from dataclasses import dataclass, field
from typing import Any

from losses import InvalidSetting, check_limits, nearest, option
from losses.options import FEATURE_NETWORKS, TIMM, TRUNKS, chosen, tap_index
from recon.config import COUNT, SEED, SIDE, WORKERS, _node

RENDERINGS = ("mean", "mode", "sample")
RECIPES = ("small", "paper")
HEADS = {"detection": ("mask_rcnn",), "segmentation": ("knn", "linear", "upernet")}  # by task


@dataclass
class Where:
    name: str | None = option(None, "dataset; null: the run's own. A checkpoint of others has none: say data=NAME")
    root: str | None = option(None, "folder that holds the data; null: where the run found it")


@dataclass
class LpipsSettings:
    net: str = option("alex", "trunk of LPIPS: alex or squeeze", TRUNKS)
    weights: str | None = option(None, "file of the trunk's weights in torchvision's names; null: torch hub's cache")


@dataclass
class FeatureSettings:
    network: str = option(
        "vgg19", "whose features sets of images are compared in: vgg19, alexnet, squeezenet, timm:NAME"
    )
    weights: str | None = option(
        None, "its file; or of vgg19 bundled, imagenet, random; null: vgg19's bundled, torchvision's or timm's own"
    )
    tap: str = option("conv3_1", "of vgg19, the layer whose means over positions are compared")


@dataclass
class Measuring:
    """What recon.evaluate and recon.compare have in common."""

    device: str = option("auto", "auto, cpu, cuda, cuda:N")
    images: int = option(256, "held-out images, the same ones for every run; fewer where the data has fewer", **COUNT)
    seed: int = option(0, "of the masks; an image's mask depends on this and the image alone", **SEED)
    batch: int = option(32, "images at a time", **COUNT)
    ratios: list[float] = option(
        [0.25, 0.5, 0.75, 0.9], "mask ratios of the curve against the mask ratio; []: none", above=0, below=1
    )
    training_images: int = option(2048, "training images that ridge regression, PCA and k-means are fitted on", **COUNT)
    render: str | None = option(
        None,
        "mean, mode or sample: the one answer of a predicted distribution that is measured; null: a row for each",
        RENDERINGS,
    )
    draws: int = option(
        4, "samples of each image under a predicted distribution, for scores and for their mean", **COUNT
    )
    pictures: int = option(12, "images to look at, evenly spaced among those that are measured", **COUNT)
    target: str | None = option(
        None, "pixels or normalised: a checkpoint's target, where its file cannot tell", ("pixels", "normalised")
    )
    columns: str = option("default", "of the printed table: default, one of each kind; or all", ("default", "all"))
    data: Where = _node(Where)
    lpips: LpipsSettings = _node(LpipsSettings)
    features: FeatureSettings = _node(FeatureSettings)


@dataclass
class EvaluateSettings(Measuring):
    run: str | None = option(None, "folder of the run: runs/NAME; or a checkpoint of others, such as mae.pth")


def check_measuring(settings: Measuring) -> None:
    """Raises InvalidSetting for a value that its setting does not allow, or a layer that is none."""
    check_limits(settings)
    tap_index(settings.features.tap)
    if not (network := settings.features.network).startswith(TIMM):
        chosen("features.network", network, [*FEATURE_NETWORKS, f"{TIMM}NAME"])


@dataclass
class CompareSettings(Measuring):
    runs: list[str] = field(default_factory=list, metadata={"doc": "the runs' folders; simply typed one after another"})
    out: str = option("runs/comparison", "folder of the report")
    again: bool = option(False, "evaluate anew also where an evaluation of the same model and settings is there")


@dataclass
class LabelledData:
    name: str | None = option(None, "labelled dataset, as recon.pretrain's; null: the one the run was trained on")
    root: str | None = option(None, "folder that holds the data; null: where the run found it")
    image_size: Any = option(64, "pixels, S or [H,W], of scratch=MODEL; a run has its own")
    workers: int = option(0, "processes that read and augment; 0: the probing process itself", **WORKERS)


@dataclass
class Probing:
    name: str = option(
        "linear+knn+rankme+alpha_req",
        "joined by +: linear, knn, paper_linear, attentive, efficient, partial, finetune; without labels: rankme, "
        "alpha_req",
    )
    layer: Any = option(
        None,
        "block that linear, knn, rankme, alpha_req read, 1 to depth; null: the last; all: a curve over depth",
    )
    seeds: int = option(3, "repetitions: subsets, initial heads, order of the images", **COUNT)
    fractions: list[float] = option([0.01, 0.1, 1.0], "shares of the training labels", above=0, most=1)
    controls: bool = option(True, "the same for the untrained encoder (finetune: from scratch), and for raw pixels")
    recipe: str = option(
        "small", "batches of those that train: small (256, for small data) or paper (ImageNet's)", RECIPES
    )
    epochs: float | None = option(
        None,
        "of those that train; null: their recipe's own (90, attentive 20, finetune 100)",
        above=0,
        most=10**6,
    )
    blocks: list[float] | None = option(
        None, "of partial: last blocks trained; null: 0, 0.5, 1, 2, 4, ... and all", least=0, most=1024
    )


@dataclass
class ProbeSettings:
    run: str | None = option(None, "folder of the run: runs/NAME; or somebody else's checkpoint")
    scratch: str | None = option(None, "instead of a run: a model of this size, trained on the labels alone")
    patch_size: int = option(8, "pixels, of scratch=MODEL", **SIDE)
    seed: int = option(0, "the first of the seeds", least=0, below=2**62)
    device: str = option("auto", "auto, cpu, cuda, cuda:N")
    precision: str = option(
        "auto", "auto (fp32 for frozen features, else bf16 where the device does it well), bf16, fp32"
    )
    again: bool = option(False, "replace an earlier probing with other data, seeds or precision")
    batch: int = option(128, "images at a time through the frozen encoder", **COUNT)
    data: LabelledData = _node(LabelledData)
    probe: Probing = _node(Probing)


def check_probing(settings: ProbeSettings, known: tuple[str, ...]) -> None:
    """Raises InvalidSetting for what a setting does not allow, alone or beside others; `known`: names of the probes."""
    check_limits(settings)
    if (settings.run is None) == (settings.scratch is None):
        raise InvalidSetting("give what to probe: run=runs/NAME, or scratch=MODEL for the supervised baseline")
    for name in probes(settings):
        if name not in known:
            raise InvalidSetting(f"unknown probe '{name}'{nearest(name, known)} (probes: {', '.join(known)})")
    if not settings.probe.fractions:
        raise InvalidSetting("probe.fractions=[]: give shares of the labels, above 0 and at most 1")


def probes(settings: ProbeSettings) -> list[str]:
    """Names of the probes that were asked for, each once."""
    return list(dict.fromkeys(word.strip() for word in settings.probe.name.split("+")))


def layers(settings: ProbeSettings, depth: int) -> list[int]:
    """Numbers of the blocks whose output is probed, of an encoder of `depth` blocks."""
    asked = settings.probe.layer
    if asked is None:
        return [depth]
    if asked == "all":
        return list(range(1, depth + 1))
    if type(asked) is not int or not 1 <= asked <= depth:
        raise InvalidSetting(f"probe.layer={asked}: choose a block from 1 to {depth}, or all")
    return [asked]


@dataclass
class SceneData:
    name: str = option("dead_leaves", "dead_leaves, coco (detection); ade20k, voc, pairs (segmentation)")
    root: str | None = option(None, "folder that holds the data")
    image_size: int | None = option(
        None, "pixels of the image's shorter side; null: 96 of dead_leaves, 1024 of coco, 512 of others", **SIDE
    )
    workers: int = option(0, "processes that read and augment; 0: the command's own process", **WORKERS)


@dataclass
class Transferring:
    heads: str | None = option(None, "of segmentation, joined by +: knn, linear, upernet; null: knn+linear")
    pyramid: str = option(
        "simple", "simple (ViTDet's, of the last block) or four_block (the MAE paper's)", ("simple", "four_block")
    )
    frozen: bool = option(False, "leave the encoder as it is under mask_rcnn and upernet too")
    windows: int | None = option(None, "patches a side of windows of attention; null: all attend to all", least=1)
    gradient_checkpointing: bool = option(False, "compute blocks again for the gradients: less memory, more work")
    seeds: int = option(3, "repetitions: initial heads, views", **COUNT)
    controls: bool = option(True, "the same for the untrained encoder")
    recipe: str = option("small", "small (minutes at 64 to 128 pixels) or paper", RECIPES)
    epochs: float | None = option(None, "of those that train; null: their recipe's own", above=0, most=10**6)


@dataclass
class TransferSettings:
    run: str | None = option(None, "folder of the run: runs/NAME; or somebody else's checkpoint, or bundled")
    task: str = option("segmentation", "detection (with masks), or segmentation", tuple(HEADS))
    seed: int = option(0, "the first of the seeds", least=0, below=2**62)
    device: str = option("auto", "auto, cpu, cuda, cuda:N")
    precision: str = option("auto", "auto (bf16 where the device does it well), bf16, fp32")
    again: bool = option(False, "replace an earlier transfer; else what is there is not done again")
    data: SceneData = _node(SceneData)
    transfer: Transferring = _node(Transferring)


def check_transfer(settings: TransferSettings) -> list[str]:
    """The heads that are asked for. Raises InvalidSetting for what a setting does not allow, alone or beside others."""
    check_limits(settings)
    if settings.run is None:
        raise InvalidSetting("give what to transfer: run=runs/NAME, a checkpoint, or run=bundled")
    known = HEADS[settings.task]
    asked = settings.transfer.heads or ("knn+linear" if settings.task == "segmentation" else known[0])
    heads = list(dict.fromkeys(word.strip() for word in asked.split("+")))
    for head in heads:
        if head not in known:
            raise InvalidSetting(
                f"{settings.task} has no head '{head}'{nearest(head, known)} (heads: {', '.join(known)})"
            )
    return heads
