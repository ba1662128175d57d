"""The images and masks on which every run is evaluated; two evaluations are comparable when their digests agree."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from losses import InvalidSetting
from recon import config
from recon.config import Settings
from recon.data import Source, StreamedSource, create_dataset, held_out_batches, noise_of
from recon.model.masking import corrupts, in_words, mask_from_noise, strategy, visible_count
from recon.study_config import Measuring


@dataclass(frozen=True)
class Protocol:
    """`images` held-out images of a dataset, their size, and how their patches are hidden, or they are corrupted.

    `ratio` is the share of patches that are hidden, under components of the variance, and 1 under noise.
    """

    data: str
    split: str
    images: int
    image_size: tuple[int, int]
    patch_size: int
    masking: str
    ratio: float
    seed: int

    @property
    def grid(self) -> tuple[int, int]:
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def corrupts(self) -> bool:
        """Whether whole images are corrupted; then every patch is judged."""
        return corrupts(self.masking)

    @property
    def hiding(self) -> str:
        """What is hidden, in words."""
        return in_words(self.masking, self.ratio)

    def differing(self, other: "Protocol") -> dict[str, tuple[Any, Any]]:
        """Field -> both values, of the fields that differ and that settings of an evaluation cannot change."""
        free = {"images", "seed"}
        mine, theirs = asdict(self), asdict(other)
        return {key: (mine[key], theirs[key]) for key in mine if key not in free and mine[key] != theirs[key]}

    def masks(self, names: list[str], ratio: float) -> Tensor:
        """The masks of the images of these names at another ratio: (B, N) bool, True where hidden."""
        noise = torch.stack([noise_of(name, self.seed, self.noise(ratio)) for name in names])
        return self.hidden(noise, ratio)

    def noise(self, ratio: float | None = None) -> Callable[[torch.Generator], Tensor]:
        """Draws one image's noise (N,) from a generator."""
        return partial(strategy(self.masking), self.grid, self.ratio if ratio is None else ratio)

    def hidden(self, noise: Tensor, ratio: float | None = None) -> Tensor:
        """(B, N) noise -> (B, N) bool, True where hidden."""
        if self.corrupts:
            return torch.ones_like(noise, dtype=torch.bool)
        patches = self.grid[0] * self.grid[1]
        return mask_from_noise(noise, visible_count(patches, self.ratio if ratio is None else ratio))


@dataclass(frozen=True)
class Batch:
    """`images` (B, 3, H, W) in [0, 1], `mask` (B, N) True where hidden, and `names` that tell them apart.

    `given` (B, N) is what rows reconstruct by: the mask, or the noise where whole images are corrupted.
    """

    images: Tensor
    mask: Tensor
    names: list[str]
    given: Tensor

    def content(self) -> bytes:
        """Names, images in 8 bits and masks or noise, image by image: what the digest of an evaluation is of."""
        pixels = (self.images * 255).round().to(torch.uint8).numpy()
        each = zip(self.names, pixels, self.given.numpy(), strict=True)
        return b"".join(name.encode() + image.tobytes() + mask.tobytes() for name, image, mask in each)


def protocol_of(run: Settings, patch_size: int, measuring: Measuring) -> Protocol:
    """The protocol of a run: size, patches and masking of its training, on the images that `measuring` asks for."""
    return Protocol(
        data=dataset_of(run, measuring),
        split="val",
        images=measuring.images,
        image_size=config.image_size(run),
        patch_size=patch_size,
        masking=config.masking_name(run.masking),
        ratio=1.0 if run.masking.strategy == "noise" else run.masking.ratio,
        seed=measuring.seed,
    )


def dataset_of(run: Settings, measuring: Measuring) -> str:
    """The dataset on which a run is evaluated: its own, unless the settings name another.

    Raises:
        InvalidSetting: the run has none of its own, and the settings name none.
    """
    name = measuring.data.name or run.data.name
    if name is None:
        raise InvalidSetting("a checkpoint of others has no data of its own; give data=NAME, such as data=imagenette")
    return name


def open_source(run: Settings, split: str, measuring: Measuring) -> Source | StreamedSource:
    name = dataset_of(run, measuring)
    own = run.data.root if name == run.data.name else None  # the folder of the run's own data
    return create_dataset(name, split, measuring.data.root or own)


def batches(protocol: Protocol, source: Source | StreamedSource, size: int) -> Iterator[Batch]:
    """The protocol's images and masks, `size` images at a time."""
    found = held_out_batches(source, protocol.image_size, protocol.images, protocol.seed, protocol.noise(), size)
    for images, noise, names in found:
        mask = protocol.hidden(noise)
        yield Batch(images, mask, names, noise if protocol.corrupts else mask)
