"""How probes are trained: augmentation, mixing, the recipes of the MAE paper, and their adaptation to small data.

Two sources: the paper (He et al. 2021, arXiv 2111.06377, appendix A.1) and the authors' later code in PyTorch
(github.com/facebookresearch/mae, FINETUNE.md). Where they differ, the docstring gives both numbers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import timm.optim
import torch
from PIL import Image
from timm.data import Mixup
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, ToTensor

from losses import InvalidSetting
from recon.probing.classifier import AttentiveLinear, BatchNormLinear, EfficientLinear, Head, PooledLinear
from recon.probing.labelled import seeded

BATCH = 256  # that base learning rates are given for (Goyal et al. 2017, arXiv 1706.02677), and of `small`
# At timm's limit of 10 its posterising keeps 0 bits of each pixel: a black image, or with Pillow 13 an error.
MAX_MAGNITUDE = 9.999


@dataclass(frozen=True)
class Augmentation:
    """timm's training augmentation: a random crop of 8% to 100% of the area, resized (bicubic), flipped half the time.

    Args:
        rand_augment: timm's name of a RandAugment policy (Cubuk et al. 2019, arXiv 1909.13719), or None.
        erasing: probability that a rectangle is replaced by N(0, 1) noise in standardised pixels (Zhong et al. 2017,
            arXiv 1708.04896).
    """

    rand_augment: str | None = None
    erasing: float = 0.0

    def transform(
        self, image_size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
    ) -> Callable[[Image.Image], Tensor]:
        """RGB image -> float32 (3, H, W), in [0, 1] except for erased pixels; draws from the generators of `seeded`.

        `image_size`: (H, W). `mean`, `std`: per channel, that the model standardises by.
        """
        steps = [RandomResizedCropAndInterpolation(image_size, interpolation="bicubic"), RandomHorizontalFlip()]
        if self.rand_augment:
            settings = {
                "img_mean": tuple(round(255 * value) for value in mean),
                "translate_const": int(0.45 * min(image_size)),
                "interpolation": Image.Resampling.BICUBIC,
                "magnitude_max": MAX_MAGNITUDE,
            }
            steps.append(rand_augment_transform(self.rand_augment, settings))
        steps.append(ToTensor())
        if self.erasing:
            unnormalise = Normalize([-m / s for m, s in zip(mean, std, strict=True)], [1 / s for s in std])
            steps += [Normalize(mean, std), RandomErasing(self.erasing, mode="pixel", device="cpu"), unnormalise]
        return Compose(steps)


@dataclass(frozen=True)
class Mixing:
    """timm's Mixup: each batch is mixed with itself in reverse order, by mixup or CutMix, each half of the time.

    `mixup` (Zhang et al. 2017, arXiv 1710.09412), `cutmix` (Yun et al. 2019, arXiv 1905.04899): alpha of the Beta
    distribution of the mixing ratio. One of them 0: always the other; both 0: batches are not mixed.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(self, images: Tensor, labels: Tensor, classes: int, seed: int) -> tuple[Tensor, Tensor]:
        """Mixes images (B, 3, H, W), B even, in place; returns them with targets (B, C) whose rows sum to one, or with
        the labels (B,) where batches are not mixed."""
        if not self.mixup and not self.cutmix:
            return images, labels
        mix = Mixup(mixup_alpha=self.mixup, cutmix_alpha=self.cutmix, label_smoothing=0.0, num_classes=classes)
        with seeded(seed):
            return mix(images, labels)


CROP, UNMIXED = Augmentation(), Mixing()


@dataclass(frozen=True)
class Recipe:
    """All that a probe's training depends on besides encoder, images and seed; change it by `dataclasses.replace`.

    Args:
        head: makes the head from the encoder's width D and the number of classes C.
        optimiser: makes the optimiser from parameter groups.
        base_rate: the peak learning rate at batches of 256; `rate` is the one at `batch`.
        weight_decay: of the weights of linear and convolutional layers alone.
        batch: images per step; even where `mixing` mixes.
        warmup: share of the run, [0, 1), in which the rate rises linearly; a half cosine to 0 follows.
        blocks, drop_path: how many of the last blocks are trained, and how often they are skipped: see `Classifier`.
        layer_decay: factor of the learning rate from each block to the one before it (Clark et al. 2020, ELECTRA).
        label_smoothing: share of every target that is spread evenly over the classes.
        linear_rule: whether the learning rate is scaled with the batch by `in_batches`.

    Raises:
        InvalidSetting: blocks that are not multiples of a half, or an odd batch that is to be mixed.
    """

    name: str
    head: Callable[[int, int], Head]
    optimiser: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
    base_rate: float
    weight_decay: float
    batch: int
    epochs: float
    warmup: float
    blocks: float = 0.0
    layer_decay: float = 1.0
    drop_path: float = 0.0
    augmentation: Augmentation = CROP
    mixing: Mixing = UNMIXED
    label_smoothing: float = 0.0
    linear_rule: bool = True

    def __post_init__(self) -> None:
        if self.blocks < 0 or (math.isfinite(self.blocks) and self.blocks * 2 % 1):
            raise InvalidSetting(f"{self.name}: {self.blocks} blocks cannot be trained; choose 0, 0.5, 1, 1.5, 2, ...")
        if self.batch % 2 and self.mixing != UNMIXED:
            raise InvalidSetting(f"{self.name}: a batch of {self.batch} cannot be mixed in pairs; choose an even one")

    @property
    def rate(self) -> float:
        """The peak learning rate."""
        return self.base_rate * self.batch / BATCH

    def in_batches(self, batch: int) -> "Recipe":
        """The recipe at another batch size; its peak learning rate is scaled or kept, as `linear_rule` says."""
        base_rate = self.base_rate if self.linear_rule else self.rate * BATCH / batch
        return replace(self, batch=batch, base_rate=base_rate)

    def as_dict(self) -> dict[str, Any]:
        """The recipe in plain values for probe.json; head and optimiser by their names."""
        optimiser = getattr(self.optimiser, "func", self.optimiser).__name__
        plain = vars(self) | asdict(self.augmentation) | asdict(self.mixing)
        plain |= {"head": self.head.__name__, "optimiser": optimiser, "learning_rate": self.rate}
        plain["blocks"] = "all" if math.isinf(self.blocks) else self.blocks
        return {name: value for name, value in plain.items() if name not in ("augmentation", "mixing")}

    def steps(self, images: int) -> int:
        """The number of training steps on so many images, at least 1."""
        return max(1, round(self.epochs * images / self.batch))


adamw = partial(torch.optim.AdamW, lr=0.0, betas=(0.9, 0.999), fused=True)


def LARS(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """timm's LARS with the settings of MoCo v3's and MAE's code: vectors are neither adapted nor decayed.

    With trust ratio t = 0.001 ||w|| / (||g|| + d ||w||) and decay d:  v <- 0.9 v + t (g + d w),  w <- w - lr v.
    Groups without `always_adapt` have t = 1; so has a matrix where ||w|| or ||g|| is 0. This is the formula of You et
    al. 2017 (arXiv 1708.03888) but for the place of lr, which the paper multiplies by before the momentum. The official
    code divides by ||g + d w||, which is the same in MAE's recipe: d = 0.
    """
    settings: dict[str, Any] = {"lr": 0.0, "momentum": 0.9, "eps": 0.0}
    return timm.optim.Lars(groups, **settings)


def paper_linear() -> Recipe:
    """The paper's linear probe, table 10; the official code agrees, but for 50 epochs with ViT-L and H.

    A step of LARS moves a matrix by a share of its norm. Under the linear rule the sum of these shares does not depend
    on the batch size: at most 225 norms in 90 epochs of ImageNet, but 1.6 in 90 epochs of 9,000 images. Therefore
    `small` keeps the paper's learning rate per step: 101 norms (tests/recon/probing/test_recipes.py).
    """
    return Recipe(
        name="paper_linear",
        head=BatchNormLinear,
        optimiser=LARS,
        base_rate=0.1,
        weight_decay=0.0,
        batch=16384,
        epochs=90,
        warmup=10 / 90,
        linear_rule=False,
    )


def attentive() -> Recipe:
    """One block of cross-attention on a frozen encoder: reads what the tokens hold together.

    Learning rate, decay, batch and epochs of V-JEPA's ImageNet probe (arXiv 2404.08471; configs/evals of its code),
    which gives rates as absolute numbers: 1e-3 at a batch of 1024. Deviations: crop and flip alone (V-JEPA:
    AutoAugment and erasing too), constant weight decay, no gradient clipping.
    """
    return Recipe(
        name="attentive",
        head=AttentiveLinear,
        optimiser=adamw,
        base_rate=2.5e-4,
        weight_decay=0.001,
        batch=1024,
        epochs=20,
        warmup=0.0,
    )


def efficient() -> Recipe:
    """Efficient probing: queries that attend to the patch tokens of a frozen encoder (arXiv 2506.10178).

    The settings of its authors' code: those of the MAE paper's linear probe at batches of 4096, and 32 queries (its
    tables have the best of several numbers). As in `paper_linear`, a smaller batch keeps the rate per step.
    """
    return replace(paper_linear(), name="efficient", head=EfficientLinear, batch=4096)


def finetune() -> Recipe:
    """The whole encoder trained end to end: table 9, for ViT-B.

    Base learning rate and layer decay are the paper's; the code's command for a ViT-B pretrained with normalised pixels
    has 5e-4 and 0.65. From the code: random erasing (paper: none), and mean-pooled patch tokens under a norm of their
    own (paper: the class token). From neither: positions are not trained, and the rate ends at 0 (code: 1e-6).
    """
    return Recipe(
        name="finetune",
        head=PooledLinear,
        optimiser=adamw,
        base_rate=1e-3,
        weight_decay=0.05,
        batch=1024,
        epochs=100,
        warmup=5 / 100,
        blocks=math.inf,
        layer_decay=0.75,
        drop_path=0.1,
        augmentation=Augmentation(rand_augment="rand-m9-mstd0.5-inc1", erasing=0.25),
        mixing=Mixing(mixup=0.8, cutmix=1.0),
        label_smoothing=0.1,
    )


def partial_finetune(blocks: float) -> Recipe:
    """The last blocks trained, the others frozen: figure 9, with "the setting in table 9" (A.1), that of `finetune`.

    The paper takes the best of 50, 100 and 200 epochs for each number of blocks, here it is 100; its point of 0 blocks
    is the linear probe, here a norm and a linear layer over the mean patch token, so that only the blocks change.
    """
    return replace(finetune(), name=f"partial_{blocks:g}", blocks=blocks)


def scratch() -> Recipe:
    """The supervised baseline: `finetune` without layer decay, for an untrained encoder.

    It has the same budget as fine-tuning; the paper's own baseline (table 11) takes 300 epochs and other numbers.
    """
    return replace(finetune(), name="scratch", layer_decay=1.0)


def small(recipe: Recipe, epochs: float) -> Recipe:
    """The recipe for small data, such as ten classes of 9,000 images at 64 pixels: batches of 256, and so many epochs.

    The peak learning rate is scaled with the batch, except for LARS, which keeps its rate per step. The warm-up keeps
    its share of the run.
    """
    return replace(recipe.in_batches(min(recipe.batch, BATCH)), epochs=epochs)
