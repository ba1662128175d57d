"""The models of a transfer: a head on a copy of an encoder."""

from torch import nn

from recon.dense.detection import Detector
from recon.dense.encoder import DenseEncoder
from recon.dense.pyramids import PYRAMIDS, PyramidBackbone
from recon.dense.segmentation import LinearSegmenter, UPerNet
from recon.dense.transfer_recipes import TransferRecipe
from recon.model import MaskedAutoencoder
from recon.study_config import Transferring


def make_model(
    head: str, model: MaskedAutoencoder, recipe: TransferRecipe, settings: Transferring, classes: int
) -> nn.Module:
    """A `head` on a copy of the model's encoder, which under linear is frozen."""
    frozen = is_frozen(head, settings)
    drop_path = 0.0 if frozen else recipe.drop_path
    checkpointed = settings.gradient_checkpointing and not frozen
    encoder = DenseEncoder(
        model, frozen=frozen, windows=settings.windows, drop_path=drop_path, gradient_checkpointing=checkpointed
    )
    if head == "linear":
        return LinearSegmenter(encoder, classes)
    backbone = PyramidBackbone(encoder, PYRAMIDS[settings.pyramid], recipe.channels, pool=head == "mask_rcnn")
    if head == "upernet":
        return UPerNet(backbone, classes)
    return Detector(backbone, classes, recipe.hidden, recipe.proposals)


def variant_of(head: str, recipe: TransferRecipe | None, settings: Transferring) -> str:
    """What tells a transfer apart from others with the same head, in words."""
    if recipe is None:
        return ""
    words = [
        "frozen" if is_frozen(head, settings) else "fine-tuned",
        f"{recipe.epochs:g} epochs",
        "paper's batches" if settings.recipe == "paper" else "",
        "four-block pyramid" if settings.pyramid == "four_block" and head != "linear" else "",
        f"windows of {settings.windows}" if settings.windows else "",
    ]
    return ", ".join(filter(None, words))


def is_frozen(head: str, settings: Transferring) -> bool:
    return head == "linear" or settings.frozen
