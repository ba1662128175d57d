"""Puts a run together from its settings, trains it, and says what came of it."""

import sys
import time
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from omegaconf import OmegaConf

from losses import TERMS, InvalidSetting, Objective, PixelHead, build_objective, head_of
from losses.mixture import Basis
from losses.patches import patchify
from recon import config
from recon import runs as run_folder
from recon.config import Settings
from recon.data import (
    Source,
    StreamedSource,
    create_dataset,
    evaluation_crop,
    held_out_images,
    in_random_order,
    training_batches,
)
from recon.distributed import Ranks, first_to_report, is_peer_failure, join
from recon.model import MaskedAutoencoder, create_model
from recon.model.distributions import MixtureLayers
from recon.model.masking import strategy
from recon.training import checkpoint
from recon.training.accumulator import Tally
from recon.training.announcement import after as summary
from recon.training.announcement import before, facts, other_readers
from recon.training.device import make_fabric, set_deterministic, without_deterministic_kernel
from recon.training.initialisation import find_start
from recon.training.loop import train
from recon.training.optim import WeightAverage, adamw, learning_rate
from recon.training.preview import Preview
from recon.training.preview import before as drawn_before
from recon.training.sharding import shard
from recon.training.state import Rhythm, Run
from recon.training.train_logger import Diverged

HELD_OUT = 64  # images of the preview


def pretrain(settings: Settings, given: frozenset[str] = frozenset()) -> int:
    """Trains a masked autoencoder as the settings say; prints; returns the exit status.

    0: finished; 1: diverged; 128 + N: stopped by signal N, and saved. Under torchrun each process trains on its part of
    every batch, and the first alone prints and writes.

    Args:
        given: keys that the user set himself; a resumed run takes all others from its checkpoint.

    Raises:
        InvalidSetting: before anything is written, or when files turn out to be unreadable on the way.
    """
    ranks = join()
    folder, saved = Path(), {}
    if settings.resume:
        # The first before the others: it may have to put a damaged one aside.
        folder, (saved, refused) = ranks.rank_zero_first(lambda: last_checkpoint(settings))
        for line in refused:
            ranks.print0(f"refused: {line}; going on from the checkpoint before it")
        settings = from_values(run_folder.resumed_settings(saved["settings"], settings, given))
        settings.name, settings.resume = folder.name, True
    config.check(settings, ranks.count)
    start = None
    if not settings.resume:
        head = head_of(settings.loss, **losses_of(settings))
        start = ranks.rank_zero_first(lambda: find_start(settings, given, head))
        if settings.model.refiner_width and type(head) is not PixelHead:
            if "model.refiner_width" in given or settings.train.parts == "refiner":
                raise InvalidSetting(
                    f"model.refiner_width={settings.model.refiner_width}: a refiner corrects pixels, and "
                    f"{settings.loss} predicts {head.name}; leave it out"
                )
            ranks.print0(f"no refiner: it corrects pixels, and {settings.loss} has a head of its own ({head.name})")
        config.check(settings, ranks.count)  # with what init brought
    with ranks.sync_errors():
        sharded = config.sharded(settings, ranks.count)
        fabric = make_fabric(settings.device, settings.precision, ranks, sharded)
    set_deterministic(settings.deterministic, fabric.device)
    data = settings.data
    source, held_out = ranks.rank_zero_first(lambda: make_data(settings))  # what is missing is fetched once
    stream = {}
    if isinstance(source, StreamedSource):
        source.check_readers(ranks.count, data.workers)
        stream = {"shards": len(source.shards), "ranks": ranks.count, "workers": max(1, data.workers)}
    images = source.images if isinstance(source, StreamedSource) else len(source)
    steps = number_of_steps(settings, saved.get("images") or images)
    if settings.compile:
        torch.compiler.reset()  # a run before it in a sweep had other shapes: these would be taken for variable ones
    objective = ranks.rank_zero_first(lambda: make_objective(settings, steps, fabric, ranks))
    torch.manual_seed(settings.seed)  # one seed, one initial model, whatever the objective drew
    # Inputs are standardised as the weights to begin with are used to.
    mean, std = (start.checkpoint.mean, start.checkpoint.std) if start else (source.mean, source.std)
    if settings.resume and saved.get("start"):
        mean, std = saved["start"]["mean"], saved["start"]["std"]
    model = make_model(settings, objective.head, mean, std)
    if isinstance(model.distribution, MixtureLayers) and not settings.resume:
        model.distribution.take(ranks.on_rank_zero(lambda: principal_components(source, model, settings.seed)))
    record = start.fill(model) if start else None
    if settings.train.parts != "all":
        model.train_only(settings.train.parts)
    with ranks.sync_errors():
        preview = make_preview(settings, held_out, model, fabric, ranks)
    if sharded:
        shard(model, fabric)
    model, objective = model.to(fabric.device), objective.to(fabric.device)
    seen_before = None
    if start and start.keep_decoder:
        with fabric.autocast():
            others = start.beside(model).items() if ranks.is_zero else ()
            beside = {title: preview.reconstruct(other.to(fabric.device)) for title, other in others}
            seen_before = drawn_before(f"before\n({settings.init})", preview.reconstruct(model), beside)
    if not settings.resume:
        folder = ranks.on_rank_zero(lambda: run_folder.create(settings))  # now that all have what they need
    run = Run(
        folder=folder,
        settings=run_folder.flat(settings),
        model=model,
        objective=objective,
        optimizer=adamw(model, weight_decay=settings.optim.weight_decay, betas=settings.optim.betas),
        tally=Tally(fabric.device),
        average=WeightAverage(model, settings.train.ema) if settings.train.ema else None,
        start=record,
        before=seen_before,
        images=images or 0,
        max_unreadable=data.max_unreadable,
        stream=stream,
    )
    if settings.resume:
        with ranks.sync_errors():
            run.load_state(saved)
        if stream != saved.get("stream", stream):
            ranks.print0(other_readers(saved["stream"], stream))
        saved.clear()  # whole, on every process's host
    if ranks.is_zero:
        run_folder.write_config(folder, settings, facts(run, steps, source))
        run_folder.write_environment(folder, fabric.device, ranks.count, sharded)
    if run.step >= steps:
        ranks.print0(
            f"{folder} has finished its {steps} steps already; its picture is {folder / 'reconstructions.png'}"
        )
        return 0
    ranks.print0(before(settings, run, steps, source, preview, fabric))
    return execute(settings, run, steps, source, preview, fabric, ranks)


def execute(
    settings: Settings,
    run: Run,
    steps: int,
    source: Source | StreamedSource,
    preview: Preview,
    fabric: Fabric,
    ranks: Ranks,
) -> int:
    """Trains `run` from where it stands; prints how it ended; returns the exit status."""
    began = time.monotonic()
    again = f"  python -m recon.pretrain name={run.folder.name} resume=true"
    batches = training_batches(
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
    batches = ranks.sync_batches(batches)
    try:
        stopped_by = train(run, fabric, batches, make_rhythm(settings, steps, ranks), preview, ranks)
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
            how = "another process of the run is gone; its last checkpoint stands, go on with:"
            print(f"ended after step {run.step} of {steps}: {how}\n{again}", flush=True)
        sys.exit(1)  # not to a sweep's next run, which could not be trained either
    finally:
        batches.close()
        set_deterministic(False, fabric.device)  # what comes after in this process need not be
    if stopped_by is not None:
        ranks.print0(f"stopped at step {run.step} of {steps}, and saved; go on with:\n{again}")
        return 128 + stopped_by
    if ranks.is_zero:  # who alone has looked at the held-out images
        ranks.print0(summary(run, time.monotonic() - began))
    return 0


def last_checkpoint(settings: Settings) -> tuple[Path, tuple[dict[str, Any], list[str]]]:
    """The folder of the run to go on with, its newest readable checkpoint, and a line for each that was refused."""
    folder = run_folder.existing(settings)
    return folder, checkpoint.load(folder)


def from_values(values: dict[str, Any]) -> Settings:
    """Settings from values by key."""
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Settings), run_folder.nested(values)))


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


def make_data(settings: Settings) -> list[Source | StreamedSource]:
    """Images to train on, and held-out ones."""
    data = settings.data
    return [create_dataset(data.name, split, data.root, data.download) for split in ("train", "val")]


def make_objective(settings: Settings, steps: int, fabric: Fabric, ranks: Ranks) -> Objective:
    torch.manual_seed(settings.seed)
    low = fabric._precision.precision == "bf16-mixed"
    objective = build_objective(
        settings.loss,
        over=settings.losses.over,
        image_size=config.image_size(settings),
        steps=steps,
        critic_dtype=torch.bfloat16 if low else torch.float32,
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


def losses_of(settings: Settings) -> dict[str, Any]:
    """Every term's options."""
    return {name: getattr(settings.losses, name) for name in TERMS}


def principal_components(source: Source | StreamedSource, model: MaskedAutoencoder, seed: int) -> Basis:
    """Of the patches of a few hundred training images, standardised as the model does."""
    images = islice(in_random_order(source, seed), 256)
    crops = torch.stack([evaluation_crop(image, model.image_size, native=source.native) for image in images])
    standardised = (crops.float() / 255 - model.mean) / model.std
    return Basis.of(patchify(standardised, model.patch_size).flatten(0, 1))


def make_model(settings: Settings, head: PixelHead, mean: Sequence[float], std: Sequence[float]) -> MaskedAutoencoder:
    model = create_model(
        settings.model.name,
        image_size=config.image_size(settings),
        patch_size=settings.model.patch_size,
        decoder_width=settings.model.decoder_width,
        decoder_depth=settings.model.decoder_depth,
        mask_tokens=settings.model.mask_tokens,
        refiner_width=settings.model.refiner_width if type(head) is PixelHead else 0,
        mask_strategy=settings.masking.strategy,
        mask_ratio=settings.masking.ratio,
        gradient_checkpointing=settings.model.gradient_checkpointing,
        head=head,
        mean=mean,
        std=std,
    )
    if settings.compile:
        model.predict = torch.compile(model.predict)
    return model


def make_preview(
    settings: Settings, held_out: Source | StreamedSource, model: MaskedAutoencoder, fabric: Fabric, ranks: Ranks
) -> Preview:
    images, noise, _ = held_out_images(
        held_out, config.image_size(settings), HELD_OUT, settings.seed, masking_of(settings, model)
    )
    batch = config.per_device_batch(settings, ranks.count)
    return Preview(images.to(fabric.device), noise.to(fabric.device), batch, fabric.autocast)


def masking_of(settings: Settings, model: MaskedAutoencoder) -> partial[torch.Tensor]:
    """Draws one image's noise (N,) from a generator."""
    return partial(strategy(settings.masking.strategy), model.grid, settings.masking.ratio)


def make_rhythm(settings: Settings, steps: int, ranks: Ranks) -> Rhythm:
    peak = settings.optim.base_lr * settings.batch.size / 256
    return Rhythm(
        steps=steps,
        accumulate=settings.batch.size // (ranks.count * config.per_device_batch(settings, ranks.count)),
        checkpoint_every=settings.train.checkpoint_every,
        log_every=settings.train.log_every,
        picture_every=settings.train.picture_every,
        learning_rate=partial(learning_rate, steps=steps, peak=peak, warmup=settings.optim.warmup),
        clip=settings.optim.clip,
        decoded=None if settings.losses.over == "all" else settings.masking.decoded,
    )
