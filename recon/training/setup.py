"""The pieces of a run, made from its settings: data, objective, model, preview, batches and schedule."""

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric

from losses import InvalidSetting, Objective, PixelHead, build_objective
from recon import config
from recon.config import Settings
from recon.console import check_trackers
from recon.data import Batch, Source, StreamedSource, create_dataset, held_out_images, training_batches
from recon.distributed import Ranks
from recon.model import MaskedAutoencoder
from recon.model.fitted_files import FittedFile
from recon.model.masking import strategy
from recon.training.fitting import fitted_state, state_from_file
from recon.training.initialisation import Start, losses_of, make_model
from recon.training.online_probe import OnlineProbe, open_online_probe
from recon.training.optim import learning_rate
from recon.training.preview import EarlierPicture, Preview, earlier_picture
from recon.training.state import Run, Schedule

HELD_OUT = 64  # images of the preview


@dataclass(frozen=True)
class Data:
    """What a run trains on, and images that it only looks at."""

    train: Source | StreamedSource
    held_out: Source | StreamedSource
    images: int | None  # to train on; None: a stream that does not tell
    stream: dict[str, int]  # its shards, and the ranks and workers that read them; empty for other data


def open_data(settings: Settings, ranks: Ranks) -> Data:
    data = settings.data
    train_split, held_out = (create_dataset(data.name, split, data.root, data.download) for split in ("train", "val"))
    if not isinstance(train_split, StreamedSource):
        return Data(train_split, held_out, len(train_split), {})
    train_split.check_readers(ranks.count, data.workers)
    stream = {"shards": len(train_split.shards), "ranks": ranks.count, "workers": max(1, data.workers)}
    return Data(train_split, held_out, train_split.images, stream)


def number_of_steps(settings: Settings, images: int | None) -> int:
    """train.steps, or train.epochs in steps, of so many `images`; InvalidSetting where a stream does not tell."""
    if settings.train.epochs is None:
        assert settings.train.steps is not None  # `config.check`: one of them is given
        return settings.train.steps
    if images is None:
        raise InvalidSetting(f"data={settings.data.name}: no _info.json tells every shard's length; give train.steps=N")
    return max(1, round(settings.train.epochs * images / settings.batch.size))


def make_objective(settings: Settings, steps: int, fabric: Fabric, ranks: Ranks) -> Objective:
    torch.manual_seed(settings.seed)
    objective = build_objective(
        settings.loss,
        over=settings.losses.over,
        image_size=config.image_size(settings),
        steps=steps,
        critic_dtype=torch.bfloat16 if fabric._precision.precision == "bf16-mixed" else torch.float32,
        compiled=settings.compile,
        processes=ranks,
        **losses_of(settings),
    )
    if settings.masking.decoded < 1 and (seeing := [name for name, t in objective.terms.items() if t.sees_images]):
        raise InvalidSetting(
            f"masking.decoded={settings.masking.decoded} leaves holes in the image, and {seeing[0]} looks at images; "
            "use pixel terms alone, or masking.decoded=1"
        )
    return objective


def model_to_train(
    settings: Settings,
    head: PixelHead,
    source: Source | StreamedSource,
    start: Start | None,
    saved: dict[str, Any],
    ranks: Ranks,
    files: dict[str, FittedFile],
) -> MaskedAutoencoder:
    """The model with random weights, which standardises images as the weights that it will take are used to.

    What its target needs is taken from the one of the `files` by the head's name, or fitted on training images, unless
    it was `saved` or comes with the decoder of `start`.
    """
    torch.manual_seed(settings.seed)  # one seed, one initial model, whatever the objective drew
    mean, std = (start.checkpoint.mean, start.checkpoint.std) if start else (source.mean, source.std)
    if record := saved.get("start"):
        mean, std = record["mean"], record["std"]
    model = make_model(settings, head, mean, std)
    for fitted in (model.distribution or model.target, model.corruption):
        if fitted is None or saved:
            continue
        if fitted is model.target and (file := files.get(head.name)):
            state = state_from_file(file, settings, source, model, start)
        elif fitted is model.target and start is not None and start.brings_target(model):
            continue
        else:
            state = ranks.on_rank_zero(lambda fitted=fitted: fitted_state(fitted, source, model, settings.seed))
        fitted.load_state_dict(state, strict=False)
    return model


def make_preview(
    settings: Settings, held_out: Source | StreamedSource, model: MaskedAutoencoder, fabric: Fabric, ranks: Ranks
) -> Preview:
    masking = masking_of(settings, model)
    images, noise, _ = held_out_images(held_out, config.image_size(settings), HELD_OUT, settings.seed, masking)
    batch = config.per_device_batch(settings, ranks.count)
    return Preview(images.to(fabric.device), noise.to(fabric.device), batch, fabric.autocast)


def make_online_probe(settings: Settings, data: Data, model: MaskedAutoencoder, fabric: Fabric) -> OnlineProbe | None:
    """The probe of train.online_probe; None without it."""
    if not settings.train.online_probe:
        return None
    size, workers = config.image_size(settings), settings.data.workers
    sources = data.train, data.held_out
    return open_online_probe(settings.data.name, sources, size, workers, model, fabric.device, fabric.autocast)


def picture_of_start(
    start: Start | None, model: MaskedAutoencoder, preview: Preview, fabric: Fabric, ranks: Ranks
) -> EarlierPicture | None:
    """What a decoder that `init=` brought reconstructs before training; None where there is none."""
    if start is None or not start.keep_decoder or not model.head.has_pixels:
        return None
    with fabric.autocast():
        others = start.beside(model).items() if ranks.is_zero else ()
        beside = {title: preview.reconstruct(other.to(fabric.device)) for title, other in others}
        return earlier_picture(f"before\n({start.source})", preview.reconstruct(model), beside)


def make_batches(
    settings: Settings, run: Run, source: Source | StreamedSource, ranks: Ranks
) -> Generator[Batch, None, None]:
    return training_batches(
        source,
        image_size=config.image_size(settings),
        batch=config.per_device_batch(settings, ranks.count),
        start=run.step * settings.batch.size,
        seed=settings.seed,
        workers=settings.data.workers,
        masking=masking_of(settings, run.model),
        rank=ranks.rank,
        world=ranks.count,
        on_device=settings.data.augment == "device",
        repeats=settings.data.repeats,
        crop_scale=settings.data.crop_scale,
        colour_jitter=settings.data.colour_jitter,
    )


def masking_of(settings: Settings, model: MaskedAutoencoder) -> partial[torch.Tensor]:
    """Draws one image's noise (N,) from a generator."""
    return partial(strategy(config.masking_name(settings.masking)), model.grid, settings.masking.ratio)


def make_schedule(settings: Settings, steps: int, ranks: Ranks) -> Schedule:
    peak = config.peak_learning_rate(settings)
    return Schedule(
        steps=steps,
        accumulate=settings.batch.size // (ranks.count * config.per_device_batch(settings, ranks.count)),
        checkpoint_every=settings.train.checkpoint_every,
        log_every=settings.train.log_every,
        picture_every=settings.train.picture_every,
        learning_rate=partial(learning_rate, steps=steps, peak=peak, warmup=settings.optim.warmup),
        clip=settings.optim.clip,
        decoded=None if settings.losses.over == "all" else settings.masking.decoded,
        log=check_trackers(settings),
    )
