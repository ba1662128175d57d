"""Pretraining: puts a run together from its settings, trains it, and prints what will run and what came of it."""

import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from losses import InvalidSetting
from recon import config
from recon.config import Settings
from recon.console import check_trackers, command_line, duration, one_line
from recon.data import Source, StreamedSource
from recon.distributed import Ranks, first_to_report, is_peer_failure, join
from recon.folder_lock import locked
from recon.model.masking import in_words
from recon.run_folder import (
    CHECKPOINT,
    DIVERGED,
    PICTURE,
    create,
    existing,
    load_checkpoint,
    readable,
    write_config,
    write_environment,
    write_text,
)
from recon.saved_settings import flat, resumed_settings, settings_from
from recon.training.device import make_fabric, set_deterministic, shard, without_deterministic_kernel
from recon.training.fitting import given_files
from recon.training.initialisation import described, load_start
from recon.training.loop import train
from recon.training.optim import WeightAverage, adamw
from recon.training.preview import Preview, baseline
from recon.training.setup import (
    make_batches,
    make_objective,
    make_online_probe,
    make_preview,
    make_schedule,
    model_to_train,
    number_of_steps,
    open_data,
    picture_of_start,
)
from recon.training.state import MetricAccumulator, Run
from recon.training.train_logger import Diverged

GO_ON = "its last checkpoint stands, go on with:"


def pretrain(settings: Settings, given: frozenset[str] = frozenset()) -> int:
    """`pretrain_locked`, where no other process may write to the run's folder meanwhile."""
    with ExitStack() as locks:
        return pretrain_locked(settings, given, locks)


def pretrain_locked(settings: Settings, given: frozenset[str], locks: ExitStack) -> int:
    """Trains a masked autoencoder as the settings say; prints; returns the exit status.

    0: finished; 1: diverged; 128 + N: stopped by signal N, and saved. Under torchrun each process trains on its part of
    every batch, and rank zero alone prints and writes. `given`: keys that the user set himself; a resumed run takes all
    others from its checkpoint.

    Raises InvalidSetting before anything is written, or when files turn out to be unreadable on the way.
    """
    ranks, folder, saved = join(), None, {}
    files = ranks.rank_zero_first(lambda: given_files(settings, given))
    if settings.resume:
        settings, folder, saved = load_saved_run(settings, given, ranks, locks)
    config.check(settings, ranks.count)
    check_trackers(settings)
    start = None if settings.resume else load_start(settings, given, ranks)
    sharded = settings.shard and ranks.count > 1
    with ranks.sync_errors():
        fabric = make_fabric(settings.device, settings.precision, ranks, sharded)
    set_deterministic(settings.deterministic, fabric.device)
    data = ranks.rank_zero_first(lambda: open_data(settings, ranks))  # rank zero downloads what is missing
    steps = number_of_steps(settings, saved.get("images") or data.images)
    if settings.compile:
        torch.compiler.reset()  # or the shapes of an earlier run of a sweep would make these ones dynamic
    objective = ranks.rank_zero_first(lambda: make_objective(settings, steps, fabric, ranks))
    model = model_to_train(settings, objective.head, data.train, start, saved, ranks, files)
    record = start.fill(model) if start else None
    if settings.train.parts != "all":
        model.train_only(settings.train.parts)
    with ranks.sync_errors():
        preview = make_preview(settings, data.held_out, model, fabric, ranks)
    if sharded:
        shard(model, fabric)
    model, objective = model.to(fabric.device), objective.to(fabric.device)
    earlier = picture_of_start(start, model, preview, fabric, ranks)
    with ranks.sync_errors():
        online_probe = make_online_probe(settings, data, model, fabric)
    if folder is None:
        folder = ranks.on_rank_zero(lambda: create(settings, locks))  # not before every rank has what it needs
    run = Run(
        folder=folder,
        settings=flat(settings),
        model=model,
        objective=objective,
        optimizer=adamw(model, weight_decay=settings.optim.weight_decay, betas=settings.optim.betas),
        metrics=MetricAccumulator(fabric.device),
        average=WeightAverage(model, settings.train.ema) if settings.train.ema else None,
        online_probe=online_probe,
        start=record,
        earlier=earlier,
        images=data.images or 0,
        max_unreadable=settings.data.max_unreadable,
        stream=data.stream,
    )
    if settings.resume:
        with ranks.sync_errors():
            run.check_data(saved)
            with readable(folder / CHECKPOINT):
                run.load_state(saved)
        if run.stream != (before := saved.get("stream", run.stream)):
            ranks.print0(reader_warning(before, run.stream))
        saved.clear()  # every rank had all of it in its host's memory
    with ranks.sync_errors():
        if ranks.is_zero:
            write_config(folder, settings, facts(run, steps, data.train))
            (folder / DIVERGED).unlink(missing_ok=True)
            write_environment(folder, fabric.device, ranks.count, sharded)
    if run.step >= steps:
        ranks.print0(f"{folder} has finished its {steps} steps already; its picture is {folder / PICTURE}")
        return 0
    ranks.print0(describe_plan(settings, run, steps, data.train, preview, fabric))
    for note in dict.fromkeys([*data.train.notes, *data.held_out.notes]):
        ranks.print0(f"note       {note}")
    return train_to_the_end(settings, run, steps, data.train, preview, fabric, ranks)


def train_to_the_end(
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
    resume = "  " + command_line("pretrain", {"name": run.folder.name, "resume": True})
    try:
        with closing(ranks.sync_batches(make_batches(settings, run, source, ranks))) as batches:
            stopped_by = train(run, fabric, batches, make_schedule(settings, steps, ranks), preview, ranks)
    except Diverged as error:
        ranks.print0(ended := f"ended at step {run.step} of {steps}: {error}")
        with ranks.sync_errors():
            if ranks.is_zero:
                write_text(run.folder / DIVERGED, one_line(ended) + "\n")
        return 1
    except OSError as error:
        raise InvalidSetting(f"ended at step {run.step} of {steps}: {error}; {GO_ON}{resume}") from error
    except RuntimeError as error:
        if operation := without_deterministic_kernel(error):
            raise InvalidSetting(
                f"deterministic=true: {operation} has no such kernel on {fabric.device}; leave deterministic out, "
                f"or use another objective than {settings.loss}"
            ) from error
        if ranks.count == 1 or not is_peer_failure(error):
            raise
        if first_to_report("ended"):
            print(
                f"ended after step {run.step} of {steps}: another process of the run is gone; {GO_ON}\n{resume}",
                flush=True,
            )
        sys.exit(1)  # the next run of a sweep could not be trained either
    finally:
        set_deterministic(False, fabric.device)  # for what this process does after the run
    if stopped_by is not None:
        ranks.print0(f"stopped at step {run.step} of {steps}, and saved; go on with:\n{resume}")
        return 128 + stopped_by
    if ranks.is_zero:  # which alone has the figures of the held-out images
        print(describe_result(run, time.monotonic() - began), flush=True)
    return 0


def load_saved_run(
    settings: Settings, given: frozenset[str], ranks: Ranks, locks: ExitStack
) -> tuple[Settings, Path, dict[str, Any]]:
    """The settings to resume with, the run's folder, and its newest readable checkpoint."""

    def load() -> tuple[Path, dict[str, Any], list[str]]:
        folder = existing(settings)
        if ranks.is_zero:
            locks.enter_context(locked(folder))
        return folder, *load_checkpoint(folder)

    folder, saved, refused = ranks.rank_zero_first(load)  # rank zero may have to rename a damaged one
    for line in refused:
        ranks.print0(f"refused: {one_line(line)}; going on from the checkpoint before it")
    values = resumed_settings(saved["settings"], settings, given)
    with readable(folder / CHECKPOINT):
        resumed = settings_from(values)
        if (start := saved.get("start")) is not None and {len(start["mean"]), len(start["std"])} != {3}:
            raise ValueError("mean and std are not of three channels")
    resumed.name, resumed.resume = folder.name, True
    return resumed, folder, saved


def facts(run: Run, steps: int, source: Source | StreamedSource) -> dict[str, Any]:
    """What settings resolved to; written into config.yaml beside them."""
    return {
        "objective": str(run.objective.expression),
        "head": run.objective.head.name,
        "steps": steps,
        "training_images": run.images or "a stream",
        "mean": list(run.start["mean"] if run.start else source.mean),
        "std": list(run.start["std"] if run.start else source.std),
        "init": run.start or "none",
        "weights": run.objective.provenance(),
    }


def describe_plan(
    settings: Settings, run: Run, steps: int, source: Source | StreamedSource, preview: Preview, fabric: Fabric
) -> str:
    """What will run."""
    model, batch = run.model, settings.batch.size
    h, w = model.image_size
    hidden = in_words(config.masking_name(settings.masking), model.mask_ratio, model.patches)
    decoded = f", {settings.masking.decoded:.0%} of those decoded" if settings.masking.decoded < 1 else ""
    weights = [
        f"{name}: {w.get('network', 'VGG19')} {w['source']}, sha256 {w['sha256'][:12]}"
        for name, w in run.objective.provenance().items()
    ]
    images = f"{run.images:,} training images" if run.images else "training images"
    images += f" from {run.stream['shards']:,} shards" if run.stream else ""
    images += f" of {len(source.classes)} classes" if source.classes else ""
    epochs = f", {steps * batch / run.images:.1f} epochs" if run.images else ""
    parameters = f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters"
    parameters += f", the {settings.train.parts} alone is trained" if settings.train.parts != "all" else ""
    device = f"{_name(fabric.device)}, {fabric._precision.precision}"
    if fabric.world_size > 1:
        device += f", {fabric.world_size} processes" + (", sharded" if settings.shard else "")
    elif settings.shard:
        device += ", one process: nothing to shard"
    lines = {
        "objective": "; ".join([str(run.objective.expression), *weights]),
        "data": f"{settings.data.name}: {images}, {len(preview.images)} held out to look at; crops of {h}x{w}",
        "model": f"{settings.model.name}, {parameters}; patches of {model.patch_size}, {hidden}{decoded}",
        **({"init": described(run.start)} if run.start and not run.step else {}),
        "device": device,
        "length": f"{steps:,} steps of {batch} images{epochs}; learning rate {config.peak_learning_rate(settings):.3g}",
        "run": str(run.folder) + (f", from step {run.step}" if run.step else ""),
    }
    return "\n".join(f"{key:<10} {one_line(value)}" for key, value in lines.items())


def reader_warning(before: dict[str, int], now: dict[str, int]) -> str:
    """What a change of ranks or workers does to the order of a stream."""
    had, has = (f"{of['ranks']} x {of['workers']}" for of in (before, now))
    return (
        f"warning: {has} processes and workers read the shards, before it was {had}: from here on samples come in "
        "another order, some of the present pass again"
    )


def describe_result(run: Run, seconds: float) -> str:
    """What came of it, where it is, and what to type next."""
    found, earlier = run.held_out, run.earlier.figures if run.earlier else {}
    was = {name: f" (before: {value:.2f}{' dB' * (name == 'masked_psnr')})" for name, value in earlier.items()}
    lines, has_pixels = [f"finished {run.step} steps in {duration(seconds)}"], run.model.head.has_pixels
    if has_pixels:
        lines += [
            f"masked PSNR on held-out images: {found['masked_psnr']:.2f} dB{was.get('masked_psnr', '')}",
            f"  {baseline(found)}",
        ]
    if "detail" in found:
        how = "(squared gradient; 1: as sharp)"
        lines.append(f"detail of the truth's: {found['detail']:.2f}{was.get('detail', '')} {how}")
    if run.online_probe is not None and (accuracies := run.online_probe.found):
        linear, nearest = accuracies["online_probe/linear"], accuracies["online_probe/knn"]
        lines.append(f"online probe, accuracy on held-out images: linear {linear:.1%}, 20-NN {nearest:.1%}")
    if skipped := sum(run.metrics.skipped().values()):
        lines.append(f"skipped    {skipped} steps without a finite gradient")
    if run.unreadable:
        lines.append(f"unreadable {len(run.unreadable)} files, skipped")
    picture = run.folder / PICTURE if has_pixels else f"none: {run.model.head.name} has no pixels"
    lines += [
        f"picture    {picture}",
        *([f"curves     tensorboard --logdir {run.folder.parent}"] if "tensorboard" in run.settings["log"] else []),
        f"next       {command_line('evaluate' if has_pixels else 'probe', {'run': str(run.folder)})}",
    ]
    return "\n".join(lines)


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type
