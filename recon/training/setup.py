"""Puts a run together from its settings, trains it, and says what came of it."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from losses import InvalidSetting, Objective, PixelHead, build_objective
from recon import config
from recon.config import Settings
from recon.data import Batch, Source, StreamedSource, create_dataset, held_out_images, training_batches
from recon.distributed import Ranks, first_to_report, is_peer_failure, join
from recon.model import MaskedAutoencoder
from recon.model.distributions import MixtureLayers
from recon.model.masking import strategy
from recon.runs import PICTURE, create, existing, load_checkpoint, write_config, write_environment
from recon.saved_settings import flat, resumed_settings, settings_from
from recon.training import announcement
from recon.training.accumulator import MetricAccumulator
from recon.training.device import make_fabric, set_deterministic, without_deterministic_kernel
from recon.training.initialisation import Start, load_start, losses_of, make_model, principal_components
from recon.training.loop import train
from recon.training.optim import WeightAverage, adamw, learning_rate
from recon.training.preview import EarlierPicture, Preview, earlier_picture
from recon.training.sharding import shard
from recon.training.state import Run, Schedule
from recon.training.train_logger import Diverged

HELD_OUT = 64  # images of the preview


def pretrain(settings: Settings, given: frozenset[str] = frozenset()) -> int:
    """Trains a masked autoencoder as the settings say; prints; returns the exit status.

    0: finished; 1: diverged; 128 + N: stopped by signal N, and saved. Under torchrun each process trains on its part of
    every batch, and rank zero alone prints and writes.

    Args:
        given: keys that the user set himself; a resumed run takes all others from its checkpoint.

    Raises:
        InvalidSetting: before anything is written, or when files turn out to be unreadable on the way.
    """
    ranks, folder, saved = join(), None, {}
    if settings.resume:
        settings, folder, saved = load_saved_run(settings, given, ranks)
    config.check(settings, ranks.count)
    start = None if settings.resume else load_start(settings, given, ranks)
    with ranks.sync_errors():
        sharded = config.sharded(settings, ranks.count)
        fabric = make_fabric(settings.device, settings.precision, ranks, sharded)
    set_deterministic(settings.deterministic, fabric.device)
    data = ranks.rank_zero_first(lambda: open_data(settings, ranks))  # rank zero downloads what is missing
    steps = number_of_steps(settings, saved.get("images") or data.images)
    if settings.compile:
        torch.compiler.reset()  # or the shapes of an earlier run of a sweep would make these ones dynamic
    objective = ranks.rank_zero_first(lambda: make_objective(settings, steps, fabric, ranks))
    model = model_to_train(settings, objective.head, data.train, start, saved, ranks)
    record = start.fill(model) if start else None
    if settings.train.parts != "all":
        model.train_only(settings.train.parts)
    with ranks.sync_errors():
        preview = make_preview(settings, data.held_out, model, fabric, ranks)
    if sharded:
        shard(model, fabric)
    model, objective = model.to(fabric.device), objective.to(fabric.device)
    earlier = picture_of_start(start, model, preview, fabric, ranks)
    if folder is None:
        folder = ranks.on_rank_zero(lambda: create(settings))  # not before every rank has what it needs
    run = Run(
        folder=folder,
        settings=flat(settings),
        model=model,
        objective=objective,
        optimizer=adamw(model, weight_decay=settings.optim.weight_decay, betas=settings.optim.betas),
        metrics=MetricAccumulator(fabric.device),
        average=WeightAverage(model, settings.train.ema) if settings.train.ema else None,
        start=record,
        earlier=earlier,
        images=data.images or 0,
        max_unreadable=settings.data.max_unreadable,
        stream=data.stream,
    )
    if settings.resume:
        restore(run, saved, ranks)
    if ranks.is_zero:
        write_config(folder, settings, announcement.facts(run, steps, data.train))
        write_environment(folder, fabric.device, ranks.count, sharded)
    if run.step >= steps:
        ranks.print0(f"{folder} has finished its {steps} steps already; its picture is {folder / PICTURE}")
        return 0
    ranks.print0(announcement.describe_plan(settings, run, steps, data.train, preview, fabric))
    return execute(settings, run, steps, data.train, preview, fabric, ranks)


def execute(
    settings: Settings,
    run: Run,
    steps: int,
    source: Source | StreamedSource,
    preview: Preview,
    fabric: Fabric,
    ranks: Ranks,
) -> int:
    """Trains `run` from the step that it has reached; prints how it ended; returns the exit status."""
    began = time.monotonic()
    resume = f"  python -m recon.pretrain name={run.folder.name} resume=true"
    batches = ranks.sync_batches(make_batches(settings, run, source, ranks))
    try:
        stopped_by = train(run, fabric, batches, make_schedule(settings, steps, ranks), preview, ranks)
    except Diverged as error:
        ranks.print0(f"ended at step {run.step} of {steps}: {error}")
        return 1
    except RuntimeError as error:
        if operation := without_deterministic_kernel(error):
            raise InvalidSetting(
                f"deterministic=true: {operation} has no such kernel on {fabric.device}; leave deterministic out, "
                f"or use another objective than {settings.loss}"
            ) from error
        if ranks.count == 1 or not is_peer_failure(error):
            raise
        if first_to_report("ended"):
            why = "another process of the run is gone; its last checkpoint stands, go on with:"
            print(f"ended after step {run.step} of {steps}: {why}\n{resume}", flush=True)
        sys.exit(1)  # the next run of a sweep could not be trained either
    finally:
        batches.close()
        set_deterministic(False, fabric.device)  # for what this process does after the run
    if stopped_by is not None:
        ranks.print0(f"stopped at step {run.step} of {steps}, and saved; go on with:\n{resume}")
        return 128 + stopped_by
    if ranks.is_zero:  # which alone has the figures of the held-out images
        print(announcement.describe_result(run, time.monotonic() - began), flush=True)
    return 0


def load_saved_run(settings: Settings, given: frozenset[str], ranks: Ranks) -> tuple[Settings, Path, dict[str, Any]]:
    """The settings to resume with, the run's folder, and its newest readable checkpoint."""

    def load() -> tuple[Path, dict[str, Any], list[str]]:
        folder = existing(settings)
        return folder, *load_checkpoint(folder)

    folder, saved, refused = ranks.rank_zero_first(load)  # rank zero may have to rename a damaged one
    for line in refused:
        ranks.print0(f"refused: {line}; going on from the checkpoint before it")
    resumed = settings_from(resumed_settings(saved["settings"], settings, given))
    resumed.name, resumed.resume = folder.name, True
    return resumed, folder, saved


@dataclass(frozen=True)
class Data:
    """What a run trains on, and images that it only looks at; `images` is how many it trains on, None if not known.

    `stream`: the shards of a stream, and the ranks and workers that read them; empty for other data.
    """

    train: Source | StreamedSource
    held_out: Source | StreamedSource
    images: int | None
    stream: dict[str, int]


def open_data(settings: Settings, ranks: Ranks) -> Data:
    data = settings.data
    train_split, held_out = (create_dataset(data.name, split, data.root, data.download) for split in ("train", "val"))
    if not isinstance(train_split, StreamedSource):
        return Data(train_split, held_out, len(train_split), {})
    train_split.check_readers(ranks.count, data.workers)
    stream = {"shards": len(train_split.shards), "ranks": ranks.count, "workers": max(1, data.workers)}
    return Data(train_split, held_out, train_split.images, stream)


def number_of_steps(settings: Settings, images: int | None) -> int:
    """train.steps, or train.epochs in steps, of so many `images`; None where a stream does not tell.

    Raises:
        InvalidSetting: epochs of a stream that does not tell how long it is.
    """
    if settings.train.steps is not None:
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
) -> MaskedAutoencoder:
    """The model with random weights, which standardises images as the weights that it will take are used to."""
    torch.manual_seed(settings.seed)  # one seed, one initial model, whatever the objective drew
    mean, std = (start.checkpoint.mean, start.checkpoint.std) if start else (source.mean, source.std)
    if record := saved.get("start"):
        mean, std = record["mean"], record["std"]
    model = make_model(settings, head, mean, std)
    if isinstance(model.distribution, MixtureLayers) and not saved:
        model.distribution.set_basis(ranks.on_rank_zero(lambda: principal_components(source, model, settings.seed)))
    return model


def make_preview(
    settings: Settings, held_out: Source | StreamedSource, model: MaskedAutoencoder, fabric: Fabric, ranks: Ranks
) -> Preview:
    masking = masking_of(settings, model)
    images, noise, _ = held_out_images(held_out, config.image_size(settings), HELD_OUT, settings.seed, masking)
    batch = config.per_device_batch(settings, ranks.count)
    return Preview(images.to(fabric.device), noise.to(fabric.device), batch, fabric.autocast)


def picture_of_start(
    start: Start | None, model: MaskedAutoencoder, preview: Preview, fabric: Fabric, ranks: Ranks
) -> EarlierPicture | None:
    """What a decoder that `init=` brought reconstructs before training; None where there is none."""
    if start is None or not start.keep_decoder:
        return None
    with fabric.autocast():
        others = start.beside(model).items() if ranks.is_zero else ()
        beside = {title: preview.reconstruct(other.to(fabric.device)) for title, other in others}
        return earlier_picture(f"before\n({start.source})", preview.reconstruct(model), beside)


def restore(run: Run, saved: dict[str, Any], ranks: Ranks) -> None:
    """Loads a checkpoint into the run, and frees it."""
    with ranks.sync_errors():
        run.load_state(saved)
    if run.stream != (before := saved.get("stream", run.stream)):
        ranks.print0(announcement.reader_warning(before, run.stream))
    saved.clear()  # every rank had all of it in its host's memory


def make_batches(settings: Settings, run: Run, source: Source | StreamedSource, ranks: Ranks) -> Iterator[Batch]:
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
    )


def masking_of(settings: Settings, model: MaskedAutoencoder) -> partial[torch.Tensor]:
    """Draws one image's noise (N,) from a generator."""
    return partial(strategy(settings.masking.strategy), model.grid, settings.masking.ratio)


def make_schedule(settings: Settings, steps: int, ranks: Ranks) -> Schedule:
    peak = settings.optim.base_lr * settings.batch.size / 256
    return Schedule(
        steps=steps,
        accumulate=settings.batch.size // (ranks.count * config.per_device_batch(settings, ranks.count)),
        checkpoint_every=settings.train.checkpoint_every,
        log_every=settings.train.log_every,
        picture_every=settings.train.picture_every,
        learning_rate=partial(learning_rate, steps=steps, peak=peak, warmup=settings.optim.warmup),
        clip=settings.optim.clip,
        decoded=None if settings.losses.over == "all" else settings.masking.decoded,
    )
