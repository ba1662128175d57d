"""Trains a head, and as much of the encoder as it is to train: resumes exactly, on one device or many."""

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from losses import InvalidSetting
from recon.config import seed_of
from recon.console import Progress
from recon.dense.synced import sync_batch_norms
from recon.dense.transfer_recipes import TransferRecipe
from recon.dense.views import Views
from recon.distributed import Ranks
from recon.run_folder import CHECKPOINT, load_checkpoint, save_checkpoint
from recon.training.loop import StopSignal
from recon.training.optim import learning_rate, parameter_groups

CHECKPOINT_SECONDS = 120  # between checkpoints


def fit(
    model: nn.Module,
    recipe: TransferRecipe,
    views: Views,
    folder: Path,
    facts: dict[str, Any],
    fabric: Fabric,
    ranks: Ranks,
    workers: int,
    progress: Progress,
) -> int | None:
    """Trains `model`, which gives a loss for images and targets, to the end or until a signal; returns that, or None.

    Goes on from the checkpoint in `folder`, to the same bits on the CPU: every random number of a step depends on the
    seed and the step alone.

    Several ranks have equal parts of each batch, and batch norms over all of it. A head that draws random numbers
    (dropout of UPerNet, Mask R-CNN's sampled regions) draws others on each rank; Mask R-CNN's losses are means over a
    rank's own regions. Without these, ranks train what one process does, but for rounding.

    Args:
        facts: plain values on which the training depends; a checkpoint with others is refused.

    Raises:
        InvalidSetting: a checkpoint of another training, an image that cannot be read, or a loss that is not finite.
    """
    steps, first = recipe.steps(len(views.source)), 0
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe.weight_decay, recipe.layer_decay), lr=0.0, fused=True)
    if (folder / CHECKPOINT).exists():
        first = _restore(model, optimizer, folder, facts)
    if ranks.count > 1:
        sync_batch_norms(model)
    wrapped, optimizer = fabric.setup(model.train(), optimizer)
    trained = [p for p in model.parameters() if p.requires_grad]
    batches = views.load(recipe.batch // ranks.count, range(first, steps), ranks.rank, ranks.count, workers)
    saved = time.monotonic()
    with StopSignal(ignore_repeats=ranks.count > 1) as stop, closing(batches):
        for step in progress(range(first, steps), recipe.name, steps - first):
            if (signal := ranks.any_signal(stop.signal)) is not None:
                stop.agreed.set()
                ranks.on_rank_zero(lambda: _save(model, optimizer, folder, facts, step))  # noqa: B023
                return signal
            stop.step()
            with ranks.sync_errors():
                images, targets = next(batches)
            torch.manual_seed(seed_of(views.seed, "step", step * ranks.count + ranks.rank))
            rate = learning_rate(step, steps=steps, peak=recipe.base_rate, warmup=recipe.warmup)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            loss = wrapped(images.to(fabric.device, non_blocking=True), targets)
            fabric.backward(loss)
            norm = torch.nn.utils.clip_grad_norm_(trained, recipe.clip or torch.inf)
            optimizer.step()
            optimizer.zero_grad()
            if ranks.max(time.monotonic() - saved > CHECKPOINT_SECONDS):  # their clocks may disagree
                _check_finite(norm, recipe.name)  # a wait for the device
                ranks.on_rank_zero(lambda: _save(model, optimizer, folder, facts, step + 1))  # noqa: B023
                saved = time.monotonic()
        stop.agreed.set()
    if steps > first:
        _check_finite(norm, recipe.name)
    ranks.on_rank_zero(lambda: _save(model, optimizer, folder, facts, steps))
    return None


def _check_finite(norm: torch.Tensor, name: str) -> None:
    if not norm.isfinite():
        raise InvalidSetting(f"{name} diverged: its gradient is not finite; give precision=fp32")


def _save(model: nn.Module, optimizer: Any, folder: Path, facts: dict[str, Any], step: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {"step": step, "settings": facts, "model": dict(model.state_dict()), "optimizer": optimizer.state_dict()}
    save_checkpoint(folder, state)


def _restore(model: nn.Module, optimizer: Any, folder: Path, facts: dict[str, Any]) -> int:
    state, _ = load_checkpoint(folder)
    if differing := [key for key, value in facts.items() if state["settings"].get(key) != value]:
        raise InvalidSetting(
            f"{folder} holds a training with another {' and '.join(differing)}; again=true begins anew"
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]
