"""How a transfer is trained: the papers' recipes, and small ones for one machine."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from losses import InvalidSetting
from recon.dense.views import View


@dataclass(frozen=True)
class TransferRecipe:
    """All that a transfer's training depends on besides encoder, scenes and seed.

    Args:
        epochs, batch: length, and views per step over all processes.
        base_rate: the peak learning rate at this batch, of AdamW.
        warmup: share of the run in which it rises linearly; a half cosine to 0 follows.
        layer_decay: factor of the rate from each block to the one before it.
        drop_path: of the last block, rising linearly from the first.
        clip: gradient norm above which gradients are scaled down.
        scale, colour: of `View`. channels: of the pyramid. hidden, proposals: of `Detector`.
    """

    name: str
    epochs: float
    batch: int
    base_rate: float
    weight_decay: float
    warmup: float
    layer_decay: float = 1.0
    drop_path: float = 0.0
    clip: float | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    colour: float = 0.0
    channels: int = 256
    hidden: int = 1024
    proposals: int = 1000

    def view(self, size: int) -> View:
        return View(size, self.scale, self.name == "mask_rcnn", self.colour)

    def steps(self, images: int) -> int:
        return max(1, round(self.epochs * images / self.batch))

    def in_epochs(self, epochs: float | None) -> "TransferRecipe":
        return self if epochs is None else replace(self, epochs=epochs)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# ViTDet's Mask R-CNN with ViT-B (Li et al. 2022, arXiv 2203.16527, appendix A.2): 100 epochs of COCO in batches of 64,
# large-scale jitter of 0.1 to 2.0 at 1024 pixels. Its rate falls in two steps at 88.9% and 96.3%; here it is a half
# cosine.
COCO = TransferRecipe("mask_rcnn", 100, 64, 1e-4, 0.1, 0.0014, layer_decay=0.7, drop_path=0.1, scale=(0.1, 2.0))
# UPerNet of the MAE paper (A.4: 100 epochs of ADE20K in batches of 16), whose other numbers are those of BEiT's
# code for ViT-B: 512 pixels, scales of 0.5 to 2, layer decay 0.65.
ADE20K = TransferRecipe(
    "upernet", 100, 16, 1e-4, 0.05, 0.012, layer_decay=0.65, drop_path=0.1, scale=(0.5, 2.0), colour=0.4, channels=512
)
# A linear layer on frozen tokens; its rate and length are a choice, from no paper.
LINEAR = TransferRecipe("linear", 20, 16, 1e-3, 0.0, 0.05, scale=(0.5, 2.0))

PAPER = {"mask_rcnn": COCO, "upernet": ADE20K, "linear": LINEAR}
# Images of 64 to 128 pixels on two cores: minutes.
SMALL = {
    "mask_rcnn": replace(
        COCO, epochs=1, batch=8, base_rate=1e-3, weight_decay=0.05, warmup=0.1, drop_path=0.0, clip=1.0,
        scale=(0.8, 1.25), channels=64, hidden=256, proposals=200,
    ),
    "upernet": replace(
        ADE20K, epochs=3, batch=16, base_rate=1e-3, warmup=0.1, drop_path=0.0, clip=1.0, scale=(0.8, 1.25), colour=0.0,
        channels=64,
    ),
    "linear": replace(LINEAR, epochs=3, base_rate=3e-3, scale=(0.8, 1.25)),
}  # fmt: skip
RECIPES = {"paper": PAPER, "small": SMALL}


def recipe_of(head: str, kind: str, epochs: float | None, images: int, processes: int = 1) -> TransferRecipe:
    """The recipe of a head.

    Raises InvalidSetting where its batch is larger than the training data, or no multiple of the processes.
    """
    recipe = RECIPES[kind][head].in_epochs(epochs)
    if recipe.batch > images:
        raise InvalidSetting(
            f"{head} trains in batches of {recipe.batch}, and there are {images} training images; give more"
        )
    if recipe.batch % processes:
        raise InvalidSetting(
            f"{head} trains in batches of {recipe.batch}, which is not a multiple of the {processes} processes"
        )
    return recipe
