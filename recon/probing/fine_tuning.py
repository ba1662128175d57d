"""Fine-tuning: trains a head on an encoder, and as much of the encoder as a recipe says."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from lightning_fabric import Fabric
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from losses import InvalidSetting
from recon.config import seed_of
from recon.console import Progress
from recon.model import MaskedAutoencoder
from recon.probing.classifier import Head
from recon.probing.image_batches import augmented_views
from recon.probing.labelled import LabelledImages
from recon.probing.recipes import Recipe
from recon.training.optim import learning_rate


def tune(
    encoder: MaskedAutoencoder,
    recipe: Recipe,
    train: LabelledImages,
    image_size: tuple[int, int],
    seed: int,
    fabric: Fabric,
    progress: Progress,
    workers: int = 0,
) -> "Classifier":
    """Trains a classifier by `recipe` on a copy of `encoder`; the encoder itself is not changed.

    The same arguments give the same bits on the CPU, whatever `workers` is.

    Args:
        image_size: (H, W) of the training views.
        workers: processes that read ahead; 0 reads in this one.

    Raises:
        InvalidSetting: more blocks than the encoder has, a batch larger than the data, an image that cannot be read,
            or weights that are not finite after training.
    """
    images, classes = len(train), len(train.classes)
    if recipe.batch > images:
        raise InvalidSetting(f"{recipe.name}: a batch of {recipe.batch} from {images} images; choose a smaller batch")
    steps = recipe.steps(images)
    with seeded_generators(fabric.device, seed_of(seed, "tuning")):
        classifier = Classifier(encoder, recipe, classes, fabric).train()
        optimizer = recipe.optimiser(parameter_groups(classifier, recipe.weight_decay, recipe.layer_decay))
        mean, std = encoder.mean.flatten().tolist(), encoder.std.flatten().tolist()
        transform = recipe.augmentation.transform(image_size, mean, std)
        batches = augmented_views(train, transform, batch=recipe.batch, steps=steps, seed=seed, workers=workers)
        for step, (views, labels) in enumerate(progress(batches, recipe.name, steps)):
            set_learning_rates(optimizer, learning_rate(step, steps=steps, peak=recipe.rate, warmup=recipe.warmup))
            views = views.to(fabric.device, non_blocking=True)
            labels = labels.to(fabric.device, non_blocking=True)
            views, targets = recipe.mixing(views, labels, classes, seed_of(seed, "mixing", step))
            loss = F.cross_entropy(classifier(views), targets, label_smoothing=recipe.label_smoothing)
            fabric.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    if not classifier.head.linear.weight.isfinite().all():
        raise InvalidSetting(f"{recipe.name} diverged: its weights are not finite; choose a smaller base rate")
    return classifier.eval()


class Classifier(nn.Module):
    """A copy of an encoder, whose last `recipe.blocks` blocks are trained, and a head.

    Frozen parts stay in evaluation mode and build no graph. A head with a norm of its own replaces the encoder's norm,
    which is otherwise trained only with the whole encoder.
    """

    def __init__(self, encoder: MaskedAutoencoder, recipe: Recipe, classes: int, fabric: Fabric):
        super().__init__()
        self.fabric = fabric
        self.encoder = deepcopy(encoder).requires_grad_(False)
        self.head: Head = recipe.head(encoder.norm.weight.shape[0], classes)
        if self.head.own_norm:
            self.encoder.norm = nn.Identity()
        set_drop_path(self.encoder, recipe.drop_path)
        whole = recipe.blocks in (len(encoder.blocks), math.inf)
        parts = encoder_modules(self.encoder) if whole else last_blocks(self.encoder, recipe.blocks)
        self.trained = [*parts, self.head]
        for part in self.trained:
            part.requires_grad_(True)
        self.encoder.cls_token.requires_grad_(whole)
        self.to(fabric.device)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> logits (B, C), float32."""
        with self.fabric.autocast():
            # Layers before the first trained parameter build no graph: frozen blocks cost their forward pass alone.
            return self.head(self.encoder.encode(images).float()).float()

    def train(self, mode: bool = True) -> "Classifier":
        """Switches the trained parts alone to training mode."""
        super().train(False)
        for part in self.trained:
            part.train(mode)
        return self

    @torch.no_grad()
    def predict(self, batches: Iterable[Tensor]) -> Tensor:
        """Batches of images (B, 3, H, W), uint8 or float in [0, 1] -> classes of all images, (n,) int64 on the CPU."""
        self.eval()
        classes = []  # copied to the CPU after the last batch, so that the device never waits
        for images in batches:
            images = images.to(self.fabric.device, non_blocking=True)
            images = images.float() / 255 if images.dtype == torch.uint8 else images
            classes.append(self(images).argmax(dim=1))
        return torch.cat(classes).cpu()


def encoder_modules(encoder: MaskedAutoencoder) -> list[nn.Module]:
    """The encoder's modules, without the decoder; positions are fixed and have none."""
    return [encoder.patch_embed, *encoder.blocks, encoder.norm]


def last_blocks(encoder: MaskedAutoencoder, blocks: float) -> list[nn.Module]:
    """The last blocks, and for a half the MLP of the block before them with its norm and drop path.

    Raises:
        InvalidSetting: more blocks than the encoder has.
    """
    depth, whole = len(encoder.blocks), int(blocks)
    if blocks > depth:
        raise InvalidSetting(f"the last {blocks:g} blocks cannot be trained: the encoder has {depth}")
    parts: list[nn.Module] = list(encoder.blocks[depth - whole :])
    if blocks > whole:
        block = encoder.blocks[depth - whole - 1]
        parts += [block.norm2, block.mlp, block.drop_path2]
    return parts


def set_drop_path(encoder: MaskedAutoencoder, rate: float) -> None:
    """Sets stochastic depth (Huang et al. 2016) rising linearly from 0 at the first block to `rate` at the last."""
    for number, block in enumerate(encoder.blocks):
        share = rate * number / max(1, len(encoder.blocks) - 1)
        block.drop_path1, block.drop_path2 = DropPath(share), DropPath(share)


def parameter_groups(classifier: Classifier, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Groups the trained parameters by depth and weight decay, which applies to linear and convolutional weights alone.

    A group's `scale` is its factor of the learning rate: layer_decay to the power of the number of layers above it,
    where the layers are the embedding, each block, and the head (Bao et al. 2021, BEiT).
    """
    encoder = classifier.encoder
    matrices = {m.weight for m in classifier.modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    layers = [
        [encoder.cls_token, *encoder.patch_embed.parameters()],
        *(list(block.parameters()) for block in encoder.blocks),
        [*encoder.norm.parameters(), *classifier.head.parameters()],
    ]
    groups = []
    for above, layer in enumerate(reversed(layers)):
        trained = [p for p in layer if p.requires_grad]
        for decay, parameters in (
            (weight_decay, [p for p in trained if p in matrices]),
            (0.0, [p for p in trained if p not in matrices]),
        ):
            if parameters:
                groups.append({"params": parameters, "weight_decay": decay, "scale": layer_decay**above})
    return groups


def set_learning_rates(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


@contextmanager
def seeded_generators(device: torch.device, seed: int) -> Iterator[None]:
    """Seeds torch's generators of the CPU and of `device` inside the block, and restores their states after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
