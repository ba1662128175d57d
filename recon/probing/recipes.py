"""How a probe is trained: the recipes of the MAE paper, and what they become for small data.

Two sources: the paper (He et al. 2021, arXiv 2111.06377, appendix A.1) and the authors' later code in PyTorch
(github.com/facebookresearch/mae, FINETUNE.md). Where they differ, both numbers stand beside the one that is used.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial as given
from typing import Any

import torch

from losses import InvalidSetting
from recon.probing.augmentation import Mixing, View
from recon.probing.heads import LARS, AttentiveLinear, BatchNormLinear, Head, PooledLinear

BATCH = 256  # that base rates are told for (Goyal et al. 2017, arXiv 1706.02677), and that small data is trained with
CROP, UNMIXED = View(), Mixing()


@dataclass(frozen=True)
class Recipe:
    """Everything that a probe's training depends on but the encoder, the images and the seed.

    To change a number: `dataclasses.replace(recipe, epochs=20)`.

    Attributes:
        name: what tables call the probe.
        head: makes the head from the encoder's width D and the number of classes C.
        optimiser: makes the optimiser from parameter groups.
        base_rate: the peak learning rate at batches of 256; `rate` is the one at `batch`.
        weight_decay: of the weights of linear and convolutional layers alone.
        batch: images per step; even where `mixing` mixes.
        epochs: passes over the training images.
        warmup: the part of the run, [0, 1), over which the rate rises linearly; a half cosine to 0 follows.
        blocks: how many of the encoder's last blocks are trained, in halves: a half is a block's MLP with its norm.
            0: the encoder is frozen. As many as the encoder has, or infinity: all of it, embedding and class token too.
        layer_decay: the learning rate's factor from each block to the one before it (Clark et al. 2020, ELECTRA).
        drop_path: the probability that the last block is skipped (stochastic depth); it rises linearly from 0 at the
            first. Frozen blocks are never skipped.
        view, mixing: augmentation of an image, and of a batch.
        label_smoothing: the share of every target that is spread evenly over the classes.
        linear_rule: whether the rate follows the batch when `small` changes it.

    Raises:
        InvalidSetting: blocks that are not whole halves, or an odd batch that is to be mixed.
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
    view: View = CROP
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
        """The peak learning rate: base_rate * batch / 256."""
        return self.base_rate * self.batch / BATCH

    def in_batches(self, batch: int) -> "Recipe":
        """The recipe at another batch: its peak rate follows, or stays, as `linear_rule` says."""
        base_rate = self.base_rate if self.linear_rule else self.rate * BATCH / batch
        return replace(self, batch=batch, base_rate=base_rate)

    def as_dict(self) -> dict[str, Any]:
        """In plain values; what makes the head and the optimiser by its name."""
        plain = {
            name: value for name, value in vars(self).items() if name not in ("head", "optimiser", "view", "mixing")
        }
        optimiser = getattr(self.optimiser, "func", self.optimiser)
        made = {"head": self.head.__name__, "optimiser": optimiser.__name__, "learning_rate": self.rate}
        blocks = {"blocks": "all" if math.isinf(self.blocks) else self.blocks}
        return plain | blocks | made | asdict(self.view) | asdict(self.mixing)

    def steps(self, images: int) -> int:
        """The length of the run on so many training images, at least 1."""
        return max(1, round(self.epochs * images / self.batch))


def paper_linear() -> Recipe:
    """The paper's linear probe: table 10. Paper and code agree, but for 50 epochs with ViT-L and H in the code.

    The crop and the mirror image are the only augmentation. A step of LARS moves a matrix by a share of its norm, so
    under the linear rule these shares add up to the same however the images are batched: at most 225 norms in 90 epochs
    of ImageNet, but 1.6 in 90 epochs of 9,000 images. Therefore `small` keeps the paper's rate per step: 101 norms
    (tests/recon/probing/test_lars.py).
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
    """A frozen encoder under one block of cross-attention: what the tokens know together.

    Rates, decay, batch and epochs of V-JEPA's ImageNet probe (arXiv 2404.08471; its code's configs/evals). There rates
    are absolute: 1e-3 at a batch of 1024. Deviations: crop and mirror image alone (there AutoAugment and erasing too),
    constant weight decay, no gradient clipping.
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


def finetune() -> Recipe:
    """The whole encoder, trained end to end: table 9, for ViT-B.

    From the paper, where they differ: base rate 1e-3 and layer decay 0.75. They are the code's defaults too; its
    command for a ViT-B pretrained with normalised pixels has 5e-4 and 0.65.
    From the code: random erasing 0.25 (in the paper none), and mean-pooled patch tokens under a norm of their own (in
    the paper the class token).
    As in neither: positions are not trained, and the rate ends at 0 (the code's: 1e-6).
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
        view=View(rand_augment="rand-m9-mstd0.5-inc1", erasing=0.25),
        mixing=Mixing(mixup=0.8, cutmix=1.0),
        label_smoothing=0.1,
    )


def partial(blocks: float) -> Recipe:
    """The last blocks trained, the rest frozen: figure 9, "the setting in table 9" (A.1), so `finetune`'s.

    The paper takes the best of 50, 100 and 200 epochs for each number of blocks: here 100, and `replace` for others.
    Its point of 0 blocks is the linear probe; here it is a norm and a linear layer over the mean of the patch tokens,
    so that the curve changes in nothing but the blocks. The official code has no partial fine-tuning to compare with.
    """
    return replace(finetune(), name=f"partial_{blocks:g}", blocks=blocks)


def scratch() -> Recipe:
    """The supervised baseline: `finetune` without layer decay, for an encoder that has learnt nothing.

    The same budget, not the best that is known: the paper's own baseline (table 11) takes 300 epochs and other numbers.
    """
    return replace(finetune(), name="scratch", layer_decay=1.0)


def small(recipe: Recipe, epochs: float) -> Recipe:
    """The recipe for small data, as ten classes of 9,000 images at 64 pixels: batches of 256, and so many epochs.

    The peak rate follows the batch, but for LARS, which keeps its rate per step; the warm-up keeps its part of the run.
    """
    return replace(recipe.in_batches(min(recipe.batch, BATCH)), epochs=epochs)


adamw = given(torch.optim.AdamW, lr=0.0, betas=(0.9, 0.999), fused=True)
