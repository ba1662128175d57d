"""Features of whole images, once per image: what the frozen encoder says, or the pixels themselves."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from losses import InvalidSetting
from recon.data import Source, UnreadableImage, evaluation_crop
from recon.data.batches import leave_signals_to_the_parent
from recon.distributed import ALONE, Ranks
from recon.model import MaskedAutoencoder


def cached(
    folder: Path, facts: dict[str, Any], make: Callable[[], dict[str, Tensor]], ranks: Ranks = ALONE
) -> dict[str, Tensor]:
    """The features that `facts` describe: read from `folder`, or made and kept there.

    Args:
        make: called by all of the `ranks` or by none; the first alone keeps what comes back.
        facts: plain values: checksums of network and images, sizes, layers, precision. They are the key, and are
            written into the file.

    Raises:
        InvalidSetting: the file of that key is damaged, or holds the features of another; it is left as it is. Or the
            folder cannot be written to.
    """
    key = key_of(facts)
    path = folder / f"{key[:16]}.safetensors"
    if ranks.from_first(path.exists()):
        with ranks.one_voice():
            return read(path, key)
    features = make()
    ranks.by_first(lambda: keep(features, facts, path))
    return features


def keep(features: dict[str, Tensor], facts: dict[str, Any], path: Path) -> None:
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # another process may be making the same
        save_file(features, temporary, metadata={"facts": json.dumps(facts, sort_keys=True)})
        temporary.chmod(0o644)  # safetensors gives its files to their owner alone
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise InvalidSetting(f"features cannot be kept in {folder}: {error}") from error


def key_of(facts: dict[str, Any]) -> str:
    """SHA-256 of the facts, in hexadecimal."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read(path: Path, key: str) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "null"))
            features = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InvalidSetting(f"{path} is damaged; delete it to make the features anew") from error
    if key_of(facts) != key:
        raise InvalidSetting(f"{path} holds the features of another network or data; delete it to make them anew")
    return features


PIXELS = (32, 32)  # that raw pixels are shrunk to, where images are larger


class Extractor(Protocol):
    """Features of a batch of images (B, 3, H, W) in [0, 1]: name -> (B, D)."""

    def __call__(self, images: Tensor) -> dict[str, Tensor]: ...


class Encoder:
    """A frozen encoder's class token, and the mean of its patch tokens: "class/L" and "mean/L" for each block L."""

    def __init__(self, model: MaskedAutoencoder, layers: Sequence[int], fabric: Fabric):
        self.model = model.to(fabric.device).eval()
        self.layers, self.fabric = layers, fabric

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        with self.fabric.autocast():
            found = self.model.encode_layers(images, self.layers)
        by_layer = {layer: tokens.float() for layer, tokens in zip(self.layers, found, strict=True)}
        # Copied: a view would keep all tokens of the batch in memory.
        return {f"class/{layer}": tokens[:, 0].clone() for layer, tokens in by_layer.items()} | {
            f"mean/{layer}": tokens[:, 1:].mean(1) for layer, tokens in by_layer.items()
        }


def raw_pixels(images: Tensor) -> dict[str, Tensor]:
    """The image itself, larger ones averaged down to 32 x 32: {"pixels": (B, D)}."""
    height, width = (min(side, limit) for side, limit in zip(images.shape[-2:], PIXELS, strict=True))
    return {"pixels": F.interpolate(images, (height, width), mode="area").flatten(1)}


class Crops(Dataset):
    """Central crops, uint8 (3, H, W). A user's error is handed over, not raised: a worker would bury its line."""

    def __init__(self, source: Source, indices: Sequence[int], image_size: tuple[int, int]):
        self.source, self.indices, self.image_size = source, indices, image_size

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Tensor | str:
        try:
            image, _ = self.source.read(self.indices[position])
        except UnreadableImage as reason:
            return str(reason)
        return evaluation_crop(image, self.image_size, native=self.source.native)


def crops(
    source: Source, indices: Sequence[int], image_size: tuple[int, int], batch: int, workers: int
) -> Iterator[Tensor]:
    """Central crops in the order of `indices`: uint8 (B, 3, H, W), `batch` at a time.

    Args:
        workers: processes that read ahead; 0 reads here.

    Raises:
        InvalidSetting: from the iterator, when an image cannot be read.
    """
    loader = DataLoader(
        Crops(source, indices, image_size),
        batch_size=batch,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=leave_signals_to_the_parent,
        generator=torch.Generator(),  # otherwise the loader draws from the global one
    )
    for images in loader:
        if unreadable := [image for image in images if isinstance(image, str)]:
            raise InvalidSetting(f"{unreadable[0]}; a probe needs every image: mend it or take it out of the data")
        yield torch.stack(images)


def extract(
    extractor: Extractor,
    images: Iterable[Tensor],
    device: torch.device,
) -> dict[str, Tensor]:
    """Every image through the extractor once: name -> (n, D) float32 on the CPU.

    Args:
        images: batches of uint8 (B, 3, H, W), as of `crops`.
    """
    gathered: dict[str, list[Tensor]] = {}
    for batch in images:
        # Not waited for until all are there: the device goes on with the next batch meanwhile.
        for name, values in extractor(batch.to(device, non_blocking=True).float() / 255).items():
            gathered.setdefault(name, []).append(values)
    return {name: torch.cat(parts).cpu() for name, parts in gathered.items()}
