"""Where the images come from: datasets by name, crops, batches that resume exactly, held-out images."""

from recon.data.batches import Batch, training_batches
from recon.data.crops import evaluation_crop, training_crop
from recon.data.datasets import create_dataset
from recon.data.held_out import held_out_batches, held_out_images, in_random_order, noise_of
from recon.data.source import Source, StreamedSource, UnreadableImage

__all__ = [
    "Batch",
    "Source",
    "StreamedSource",
    "UnreadableImage",
    "create_dataset",
    "evaluation_crop",
    "held_out_batches",
    "held_out_images",
    "in_random_order",
    "noise_of",
    "training_batches",
    "training_crop",
]
