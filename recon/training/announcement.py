"""What pretraining prints before and after a run."""

import shlex
from typing import Any

import torch
from lightning_fabric import Fabric

from recon.config import Settings
from recon.console import duration
from recon.data import Source, StreamedSource
from recon.training.initialisation import described
from recon.training.preview import Preview
from recon.training.state import Run


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
    model, objective = run.model, run.objective
    h, w = model.image_size
    batch = settings.batch.size
    hidden = model.patches - int(model.patches * (1 - model.mask_ratio))
    decoded = f", {settings.masking.decoded:.0%} of those decoded" if settings.masking.decoded < 1 else ""
    peak = settings.optim.base_lr * batch / 256
    weights = [
        f"{name}: {w.get('network', 'VGG19')} {w['source']}, sha256 {w['sha256'][:12]}"
        for name, w in objective.provenance().items()
    ]
    classes = f" of {len(source.classes)} classes" if source.classes else ""
    epochs = f", {steps * batch / run.images:.1f} epochs" if run.images else ""
    images = f"{run.images:,} training images" if run.images else "training images"
    images += f" from {run.stream['shards']:,} shards" if run.stream else ""
    begin = {"init": described(run.start)} if run.start and not run.step else {}
    frozen = f", the {settings.train.parts} alone is trained" if settings.train.parts != "all" else ""
    lines = {
        "objective": "; ".join([str(objective.expression), *weights]),
        "data": f"{settings.data.name}: {images}{classes}, {len(preview.images)} held out to look at; crops of {h}x{w}",
        "model": f"{settings.model.name}, {_millions(model)} parameters{frozen}; patches of {model.patch_size}, "
        f"{hidden} of {model.patches} hidden ({settings.masking.strategy}){decoded}",
        **begin,
        "device": f"{_device(fabric.device)}, {fabric._precision.precision}{_shared(settings, fabric.world_size)}",
        "length": f"{steps:,} steps of {batch} images{epochs}; learning rate {peak:.3g}",
        "run": str(run.folder) + (f", from step {run.step}" if run.step else ""),
    }
    return "\n".join(f"{key:<10} {value}" for key, value in lines.items())


def reader_warning(before: dict[str, int], now: dict[str, int]) -> str:
    """What a change of ranks or workers does to the order of a stream."""
    had, has = (f"{of['ranks']} x {of['workers']}" for of in (before, now))
    return (
        f"warning: {has} processes and workers read the shards, before it was {had}: from here on samples come in "
        "another order, some of the present pass again"
    )


def describe_result(run: Run, seconds: float) -> str:
    """What came of it, where it is, and what to type next."""
    ours, baseline = run.held_out["masked_psnr"], run.held_out["mean_colour_psnr"]
    earlier = run.earlier.figures if run.earlier else {}
    skipped = sum(run.metrics.skipped().values())
    detail = []
    if "detail" in run.held_out:
        was = _was(earlier, "detail", "")
        detail = [f"detail of the truth's: {run.held_out['detail']:.2f}{was} (squared gradient; 1: as sharp)"]
    lines = [
        f"finished {run.step} steps in {duration(seconds)}",
        f"masked PSNR on held-out images: {ours:.2f} dB{_was(earlier, 'masked_psnr', ' dB')}",
        f"  filling with the mean of the visible colours: {baseline:.2f} dB",
        *detail,
        *([f"skipped    {skipped} steps without a finite gradient"] if skipped else []),
        *([f"unreadable {len(run.unreadable)} files, skipped"] if run.unreadable else []),
        f"picture    {run.folder / 'reconstructions.png'}",
        f"curves     tensorboard --logdir {run.folder.parent}",
        f"next       python -m recon.evaluate run={shlex.quote(str(run.folder))}",
    ]
    return "\n".join(lines)


def _was(earlier: dict[str, float], name: str, unit: str) -> str:
    return f" (before: {earlier[name]:.2f}{unit})" if name in earlier else ""


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


def _shared(settings: Settings, processes: int) -> str:
    if processes == 1:
        return ", one process: nothing to shard" if settings.shard else ""
    return f", {processes} processes" + (", sharded" if settings.shard else "")


def _millions(model: torch.nn.Module) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M"
