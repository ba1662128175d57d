"""What is probed, and its features of whole images, extracted once per image and kept on disk."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from losses import InvalidSetting, tensor_files
from losses.features.weights import checksum
from recon.console import Progress
from recon.data import Source
from recon.distributed import ALONE, Ranks
from recon.model import MaskedAutoencoder
from recon.probing.labelled import ProbeTask, central_crops
from recon.run_folder import write_bytes

VERSION = 1  # of the extraction: to be raised whenever crops, layers or pooling change
PIXELS = (32, 32)  # larger images are shrunk to this size for `pixel_features`
ENCODER = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.")  # beginnings of the state's names

Features = dict[str, Tensor]  # name -> (n, D) float32: "class/12", "mean/12", "pixels"
Extractor = Callable[[Tensor], Features]  # of images (B, 3, H, W) in [0, 1]


@dataclass(frozen=True)
class ProbedEncoder:
    """An encoder to probe. `key`: "run", "scratch" or a control: "untrained", or "pixels", which has no model."""

    key: str
    label: str
    model: MaskedAutoencoder | None

    @property
    def checksum(self) -> str:
        """SHA-256 of all that features depend on besides the image: weights, standardisation, heads, norms."""
        model = self.model
        if model is None:
            return "none"
        state = {name: value for name, value in model.state_dict().items() if name.startswith(ENCODER)}
        block: Any = model.blocks[0]
        built = torch.tensor([block.attn.num_heads, block.norm1.eps, model.norm.eps, model.patch_size])
        return checksum(state | {"mean": model.mean, "std": model.std, "built": built})


def probed_encoders(name: str, model: MaskedAutoencoder, seed: int, controls: bool) -> list[ProbedEncoder]:
    """A run's encoder; with `controls` also the same encoder as `seed` initialises it, and the pixels themselves."""
    found = [ProbedEncoder("run", name, model)]
    if controls:
        found.append(ProbedEncoder("untrained", "the same encoder, untrained", model.untrained(seed)))
        found.append(ProbedEncoder("pixels", "raw pixels", None))
    return found


@dataclass(frozen=True)
class ProbeContext:
    """What all probes of one probing share: `image_size` (H, W), `fractions` of the training labels, the device and
    precision of this process (`fabric`), images at a time through a frozen encoder (`batch`), processes that read ahead
    (`workers`), and the processes that share the work (`ranks`)."""

    task: ProbeTask
    image_size: tuple[int, int]
    fractions: list[float]
    seeds: list[int]
    fabric: Fabric
    batch: int
    workers: int
    progress: Progress
    ranks: Ranks


def encoder_features(model: MaskedAutoencoder, layers: Sequence[int], fabric: Fabric) -> Extractor:
    """Extracts a frozen encoder's class token and mean patch token after each block L: "class/L" and "mean/L".

    Of several class tokens the mean, as Pixio's own kNN and its users' guide take (arXiv 2512.15715).
    """
    model, k = model.to(fabric.device).eval(), model.class_tokens

    @torch.no_grad()
    def extractor(images: Tensor) -> Features:
        with fabric.autocast():
            outputs = model.encode_layers(images, layers)
        by_layer = {layer: tokens.float() for layer, tokens in zip(layers, outputs, strict=True)}
        classes = {f"class/{layer}": tokens[:, :k].mean(1) for layer, tokens in by_layer.items()}
        return classes | {f"mean/{layer}": tokens[:, k:].mean(1) for layer, tokens in by_layer.items()}

    return extractor


def pixel_features(images: Tensor) -> Features:
    """The image itself, averaged down to 32 x 32 where it is larger: {"pixels": (B, D)}."""
    height, width = (min(side, limit) for side, limit in zip(images.shape[-2:], PIXELS, strict=True))
    return {"pixels": F.interpolate(images, (height, width), mode="area").flatten(1)}


def extract(extractor: Extractor, batches: Iterable[Tensor], device: torch.device) -> Features:
    """Passes batches of images, uint8 (B, 3, H, W), through the extractor once; the features are on the CPU."""
    parts: dict[str, list[Tensor]] = {}
    for batch in batches:
        # Copied to the CPU after the last batch, so that the device never waits.
        for name, values in extractor(batch.to(device, non_blocking=True).float() / 255).items():
            parts.setdefault(name, []).append(values)
    return {name: torch.cat(each).cpu() for name, each in parts.items()}


def features_of(
    encoder: ProbedEncoder, layers: Sequence[int], context: ProbeContext, folder: Path
) -> tuple[Features, Features]:
    """Features of all training images and of all test images, read from the cache in `folder` or extracted.

    Each process extracts every count-th batch, and all receive all of them.
    """
    task, fabric, model, ranks = context.task, context.fabric, encoder.model, context.ranks
    facts = {
        "version": VERSION,
        "network": encoder.checksum,
        "layers": list(layers) if model else [],
        "data": task.digest,
        "image_size": list(context.image_size),
        "precision": str(fabric.strategy.precision.precision) if model else "32-true",
    }
    extractor = encoder_features(model, layers, fabric) if model else pixel_features

    def extracted(split: str, source: Source, indices: Sequence[int]) -> Features:
        batch = context.batch
        own_batches = ranks.own_part([indices[i : i + batch] for i in range(0, len(indices), batch)])
        with ranks.sync_errors():
            # Joined and cut into the same batches again: only the last batch of all may be smaller.
            crops = central_crops(source, list(chain(*own_batches)), context.image_size, batch, context.workers)
            shown = context.progress(crops, f"features of {split} images", len(own_batches))
            own = extract(extractor, shown, fabric.device)
        names = ranks.broadcast(list(own))  # a process without images knows no names
        return {f"{split}/{name}": ranks.gather_rows(own.get(name, torch.empty(0)), batch) for name in names}

    def all_extracted() -> Features:
        train = extracted("train", task.train.source, task.train.indices)
        return train | extracted("test", task.test_source, task.test_indices)

    found = cached(folder, facts, all_extracted, ranks)  # from a file, in another order
    names = [f"{kind}/{layer}" for kind in ("class", "mean") for layer in layers] if model else ["pixels"]
    train, test = ({name: found[f"{split}/{name}"] for name in names} for split in ("train", "test"))
    return train, test


def cached(folder: Path, facts: dict[str, Any], make: Callable[[], Features], ranks: Ranks = ALONE) -> Features:
    """Reads the features that `facts` describe from `folder`, or makes them and keeps them there.

    Args:
        facts: plain values that the features depend on: checksums of network and images, sizes, layers, precision.
            Their hash names the file, and they are written into it.
        make: called in all processes or in none; rank zero keeps what it returns.

    Raises:
        InvalidSetting: the file is damaged or holds other features (it is left as it is), or cannot be written.
    """
    path = folder / f"{key_of(facts)[:16]}.safetensors"
    if ranks.broadcast(path.exists()):
        with ranks.sync_errors():
            try:
                stored = tensor_files.from_bytes(path.read_bytes())
                found = json.loads(stored.metadata.get("facts", "null"))
            except (SafetensorError, OSError, ValueError) as error:
                raise InvalidSetting(f"{path} is damaged; delete it to make the features anew") from error
            if found != facts:
                remedy = "delete it to make them anew"
                raise InvalidSetting(f"{path} holds the features of another network or data; {remedy}")
            return stored.content
    features = make()

    def keep() -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_bytes(path, tensor_files.to_bytes(features, {"facts": json.dumps(facts, sort_keys=True)}))
        except (OSError, SafetensorError) as error:
            raise InvalidSetting(f"features cannot be kept in {folder}: {error}") from error

    ranks.on_rank_zero(keep)
    return features


def key_of(facts: dict[str, Any]) -> str:
    """SHA-256 of the facts, in hexadecimal."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
