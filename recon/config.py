"""Every setting, typed, and documented where it is declared. One vocabulary for every command.

Defaults are those of the MAE paper (arXiv 2111.06377, table 8); shorter runs are presets (recon/preset).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from hashlib import blake2b
from typing import Any

from losses import TERM_OPTIONS, InvalidSetting, check_limits, option
from losses.options import MAX_SIDE

# Masked autoencoders that this package carries, as `init=` and `run=` name them.
BUNDLED = ("bundled", "bundled_sharp")

# Limits that several settings share.
COUNT: dict[str, Any] = {"least": 1, "most": 10**9}
SIDE: dict[str, Any] = {"least": 1, "most": MAX_SIDE}
FRACTION: dict[str, Any] = {"least": 0, "most": 1}
SEED: dict[str, Any] = {"least": 0, "below": 2**63}
WORKERS: dict[str, Any] = {"least": 0, "most": 1024}


def _node(cls: type) -> Any:
    return field(default_factory=cls)


CROP_SCALE = (0.2, 1.0)  # as MAE pretrains


@dataclass
class Data:
    name: str = option(
        "imagenet",
        "photos, gaussian_field, dead_leaves, folder, packed, imagenette, imagenet, cifar10, cifar100, stl10, "
        "hfds/*, wds/*",
    )
    root: str | None = option(None, "folder that holds the data; packed: the file")
    image_size: Any = option(224, "pixels, S or [H,W]; multiples of the patch size")
    workers: int = option(0, "processes that read and augment; 0: the training process itself", **WORKERS)
    augment: str = option(
        "loader",
        "where crops are resized and mirrored: loader, or device (whole batches; for GPUs the loader starves)",
        ("loader", "device"),
    )
    crop_scale: list[float] = option(
        list(CROP_SCALE), "smallest and largest share of an image's area that a training crop has", above=0, most=1
    )
    colour_jitter: float = option(0.0, "share by which brightness, contrast, saturation may change", **FRACTION)
    repeats: int = option(
        1, "samples of each image that is read, every one with its own crop and mask; epochs count samples", **COUNT
    )
    download: bool = option(False, "fetch a missing public dataset")
    max_unreadable: float = option(0.01, "share of unreadable files that ends the run; fewer are skipped", **FRACTION)


@dataclass
class Model:
    name: str = option("base", "nano, tiny, small, base, large, huge")
    patch_size: int | None = option(None, "pixels; null: the model's own (16; nano 8, huge 14)", **SIDE)
    decoder_width: int | None = option(None, "multiple of 32; null: the model's own", least=1, most=2**15)
    decoder_depth: int | None = option(None, "blocks; null: the model's own", least=1, most=2**10)
    mask_tokens: str = option(
        "decoder", "decoder (the paper's), or encoder (its ablation: the encoder sees mask tokens)"
    )
    class_tokens: int = option(1, "class tokens, whose mean is probed; the paper has 1, Pixio 8", least=1, most=2**10)
    refiner_width: int = option(
        0,
        "channels of a small convolutional network that corrects hidden patches where they meet; 0: none (the paper's)",
        least=0,
        most=2**12,
    )
    gradient_checkpointing: bool = option(
        False, "compute blocks again for the gradients: less memory, a third more work"
    )


@dataclass
class Masking:
    strategy: str = option(
        "random",
        "random, block (middle), torus (across borders), grid, blocks (squares), centre (hole), noise, components",
    )
    block: int = option(4, "side in patches of the squares of masking.strategy=blocks", least=1, most=MAX_SIDE)
    ratio: float = option(0.75, "share of patches hidden; with components of the variance", least=0, below=1)
    noise: float = option(0.25, "deviation of masking.strategy=noise, for pixels in [0,1]", above=0, most=100)
    decoded: float = option(
        1.0,
        "share of the hidden patches that a training step predicts; below 1: faster, and for pixel terms alone",
        above=0,
        most=1,
    )


@dataclass
class Train:
    steps: int | None = option(None, "optimiser steps; or train.epochs", **COUNT)
    epochs: float | None = option(800, "passes over the training images; or train.steps", above=0, most=10**9)
    parts: str = option(
        "all",
        "all; or decoder, refiner or head (what draws from a distribution) alone: the rest stays as init brought it",
        ("all", "decoder", "refiner", "head"),
    )
    ema: float = option(
        0.0,
        "decay in [0, 1) of the average of weights that pictures, evaluation and probes see; 0: no average",
        least=0,
        below=1,
    )
    online_probe: bool = option(
        False,
        "curves of the encoder's accuracy (linear, kNN) on labelled images; the run is the same to the bit",
    )
    checkpoint_every: int = option(1000, "steps between checkpoints", **COUNT)
    log_every: int = option(10, "steps between lines of metrics.jsonl", **COUNT)
    picture_every: int = option(5000, "steps between pictures of the same held-out images", **COUNT)


@dataclass
class Batch:
    size: int = option(4096, "images per optimiser step", **COUNT)
    per_device: int | None = option(
        None,
        "images per forward of one process; fewer than its share of batch.size: gradients are accumulated",
        **COUNT,
    )


@dataclass
class Optim:
    base_lr: float = option(1.5e-4, "learning rate per 256 images: the rate is base_lr x batch.size / 256", above=0)
    weight_decay: float = option(0.05, "AdamW's, on matrices alone", least=0)
    betas: list[float] = option([0.9, 0.95], "AdamW's", least=0, below=1)
    warmup: float = option(
        0.05, "fraction of the run in which the rate rises linearly; then a half cosine to zero", **FRACTION
    )
    clip: float | None = option(None, "gradient norm above which gradients are scaled down; null: never", above=0)


@dataclass
class Losses(
    make_dataclass(
        "Losses",
        [
            ("over", str, option("hidden", "patches that are judged: hidden, or all")),
            *((name, options, _node(options)) for name, options in TERM_OPTIONS.items()),
        ],
    )
):
    """Options of every term."""


@dataclass
class Settings:
    loss: str = option("norm_mse", "objective: terms joined by +, each bare, 0.1*term or 10%term")
    init: str = option(
        "none",
        "weights to begin with: RUN, FILE (what recon.convert reads), this package's bundled or bundled_sharp; or none",
    )
    init_decoder: str | None = option(
        None,
        "keep or new: the decoder that init brings; null: kept where it predicts what this objective asks for",
        ("keep", "new"),
    )
    name: str | None = option(None, "the run's folder is runs/NAME; null: from loss, data and date")
    resume: bool = option(False, "go on with the run of that name")
    seed: int = option(0, "of everything drawn by chance", **SEED)
    device: str = option("auto", "auto, cpu, cuda, cuda:N, mps")
    precision: str = option("auto", "auto (bf16 where the device does it well), bf16, fp32")
    deterministic: bool = option(
        False, "on a GPU: kernels alone that give the same bits every time, slower; a CPU's always do"
    )
    shard: bool = option(
        False, "many processes share parameters, gradients and optimiser state (FSDP2); false: each has all (DDP)"
    )
    compile: bool = option(False, "compile the model and the critics: a minute at the start, faster after")
    log: str = option("tensorboard", "where curves go, joined by +: tensorboard, csv, wandb, mlflow, trackio")
    data: Data = _node(Data)
    model: Model = _node(Model)
    masking: Masking = _node(Masking)
    train: Train = _node(Train)
    batch: Batch = _node(Batch)
    optim: Optim = _node(Optim)
    losses: Losses = _node(Losses)


@dataclass(frozen=True)
class Setting:
    """One leaf of the tree of settings."""

    key: str
    default: Any
    doc: str


def every_setting(node: type = Settings, prefix: str = "") -> Iterator[Setting]:
    """All settings in the order of their declaration."""
    for f in fields(node):
        default = f.default_factory() if callable(f.default_factory) else f.default
        if is_dataclass(default):
            yield from every_setting(type(default), f"{prefix}{f.name}.")
        else:
            yield Setting(prefix + f.name, default, f.metadata["doc"])


def check(settings: Settings, processes: int = 1) -> None:
    """What a setting allows beside others; `processes` share each batch.

    Raises:
        InvalidSetting: in one line.
    """
    check_limits(settings)
    image_size(settings)
    train, masking, batch = settings.train, settings.masking, settings.batch
    part_decoded = masking.decoded < 1
    times = f" x {processes} processes" if processes > 1 else ""
    refused = [
        (
            train.parts != "all" and settings.init == "none",
            f"train.parts={train.parts} trains beside an encoder that is kept; give it by init=RUN or init=FILE",
        ),
        (
            settings.shard and processes > 1 and (train.ema or train.parts != "all"),
            "shard=true trains all of the model and keeps no average; set train.ema=0 and train.parts=all",
        ),
        (
            part_decoded and settings.losses.over == "all",
            "losses.over=all judges every patch, and masking.decoded below 1 leaves some out",
        ),
        (
            part_decoded and settings.model.refiner_width,
            f"masking.decoded={masking.decoded} leaves holes in the image, and the refiner reads all of it; "
            "set model.refiner_width=0, or masking.decoded=1",
        ),
        (
            part_decoded and masking.strategy in ("grid", "centre"),
            f"masking.strategy={masking.strategy} leaves the same patches out each time if masking.decoded is below 1",
        ),
        (
            part_decoded and masking.strategy in ("noise", "components"),
            f"masking.strategy={masking.strategy} hides no patch, so there is none to leave out; set masking.decoded=1",
        ),
        (
            (train.steps is None) == (train.epochs is None),
            "give the length of the run once: train.steps=N or train.epochs=N, the other null",
        ),
        (
            len(settings.data.crop_scale) != 2 or settings.data.crop_scale[0] > settings.data.crop_scale[-1],
            f"data.crop_scale={list(settings.data.crop_scale)} must be two shares, the smaller one first",
        ),
        (
            len(settings.optim.betas) != 2,
            f"optim.betas={list(settings.optim.betas)} must be two numbers, at least 0 and below 1",
        ),
        (
            batch.per_device is None and batch.size % processes,
            f"batch.size={batch.size} is not a multiple of the {processes} processes",
        ),
        (
            batch.per_device and batch.size % (batch.per_device * processes),
            f"batch.size={batch.size} is not a multiple of batch.per_device={batch.per_device}{times}",
        ),
    ]
    for cannot, why in refused:
        if cannot:
            raise InvalidSetting(why)


def per_device_batch(settings: Settings, processes: int = 1) -> int:
    return settings.batch.per_device or settings.batch.size // processes


def peak_learning_rate(settings: Settings) -> float:
    return settings.optim.base_lr * settings.batch.size / 256


def masking_name(masking: Masking) -> str:
    """The name under which `recon.model.masking.strategy` knows it, and reports show it."""
    numbers = {"blocks": masking.block, "noise": masking.noise}
    number = numbers.get(masking.strategy)
    return masking.strategy if number is None else f"{masking.strategy} of {number}"


def image_size(settings: Settings) -> tuple[int, int]:
    """(H, W) in pixels."""
    return pixels(settings.data.image_size)


def pixels(given: Any) -> tuple[int, int]:
    """data.image_size, S or [H, W], as (H, W)."""
    size = list(given) if isinstance(given, list | tuple) else [given, given]
    if len(size) != 2 or not all(type(n) is int and 1 <= n <= MAX_SIDE for n in size):
        raise InvalidSetting(f"data.image_size={given}: give pixels from 1 to {MAX_SIDE}, one number or [height,width]")
    return size[0], size[1]


def seed_of(*parts: int | str) -> int:
    """A 64-bit seed that depends on every part, the same on every machine: seed_of(seed, "mask", k)."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest())
