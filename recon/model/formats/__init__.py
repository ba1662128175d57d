"""Checkpoints of masked autoencoders, of this program and of others: reads and writes them.

    read("mae_pretrain_vit_base.pth").model().encode(images)
    write(read("runs/plain"), Path("plain.pth"), "official")

Tensors of a `Checkpoint` have the official MAE code's names, which are `MaskedAutoencoder`'s own.
"""

from recon.model.formats.architecture import FORMATS, Architecture, Checkpoint
from recon.model.formats.files import read
from recon.model.formats.writing import format_for, write

__all__ = ["FORMATS", "Architecture", "Checkpoint", "format_for", "read", "write"]
