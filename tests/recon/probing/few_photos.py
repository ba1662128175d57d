"""A small labelled dataset and a small encoder, and fine-tuning of them in a second."""

from dataclasses import replace

import torch

from recon.console import no_progress_bar
from recon.data import create_dataset, evaluation_crop
from recon.model import MaskedAutoencoder, create_model
from recon.probing.classifier import Classifier
from recon.probing.fine_tuning import tune
from recon.probing.labelled import LabelledImages
from recon.probing.recipes import Recipe
from recon.training.device import make_fabric

SIZE = (32, 32)
FABRIC = make_fabric("cpu", "fp32")


def few_photos(per_class: int) -> LabelledImages:
    """The first tiles of each of the 8 photographs."""
    source = create_dataset("photos", "train")
    labels = [source.label_of(index) for index in range(len(source))]
    indices = [labels.index(label) + i for label in range(8) for i in range(per_class)]
    return LabelledImages(source, indices, torch.tensor([labels[i] for i in indices]), source.classes)


def encoder(seed: int = 0) -> MaskedAutoencoder:
    """Four blocks of width 64 on 16 patches, untrained."""
    torch.manual_seed(seed)
    return create_model("nano", image_size=SIZE, width=64, heads=1)


def images(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def shortly(recipe: Recipe, batch: int = 8, epochs: float = 1, **changes: object) -> Recipe:
    return replace(recipe, batch=batch, epochs=epochs, **changes)


def tuned(
    recipe: Recipe, train: LabelledImages, model: MaskedAutoencoder, seed: int = 0, workers: int = 0
) -> Classifier:
    return tune(model, recipe, train, SIZE, seed, FABRIC, no_progress_bar, workers)


def accuracy(classifier: Classifier, data: LabelledImages) -> float:
    crops = torch.stack([evaluation_crop(data.source.read(index)[0], SIZE) for index in data.indices])
    return (classifier.predict(crops.split(32)) == data.labels).double().mean().item()
