"""Settings of recon.probe."""

import math
from dataclasses import dataclass
from typing import Any

from losses import InvalidSetting
from losses.errors import nearest
from losses.term import option
from recon.config import _node

RECIPES = ("small", "paper")


@dataclass
class LabelledData:
    name: str | None = option(None, "labelled dataset, as recon.pretrain's; null: the one the run was trained on")
    root: str | None = option(None, "folder that holds the data; null: where the run found it")
    image_size: Any = option(64, "pixels, S or [H,W], of scratch=MODEL; a run has its own")
    workers: int = option(0, "processes that read and augment; 0: the probing process itself")


@dataclass
class Probing:
    name: str = option("linear+knn", "which, joined by +: linear, knn, paper_linear, attentive, partial, finetune")
    layer: Any = option(None, "block that linear and knn read, 1 to depth; null: the last; all: a curve over depth")
    seeds: int = option(3, "repetitions: subsets, initial heads, order of the images")
    fractions: list[float] = option([0.01, 0.1, 1.0], "shares of the training labels")
    controls: bool = option(True, "the same for the untrained encoder (finetune: from scratch), and for raw pixels")
    recipe: str = option("small", "batches of those that train: small (256, for small data) or paper (ImageNet's)")
    epochs: float | None = option(None, "of those that train; null: their recipe's own (paper_linear 90, finetune 100)")
    blocks: list[float] | None = option(None, "of partial: last blocks trained; null: 0, 0.5, 1, 2, 4, ... and all")


@dataclass
class ProbeSettings:
    run: str | None = option(None, "folder of the run: runs/NAME; or somebody else's checkpoint")
    scratch: str | None = option(None, "instead of a run: a model of this size, trained on the labels alone")
    patch_size: int = option(8, "pixels, of scratch=MODEL")
    seed: int = option(0, "the first of the seeds")
    device: str = option("auto", "auto, cpu, cuda, cuda:N")
    precision: str = option("auto", "auto (bf16 where the device does it well), bf16, fp32")
    again: bool = option(False, "replace an earlier probing with other data, seeds or precision")
    batch: int = option(128, "images at a time through the frozen encoder")
    data: LabelledData = _node(LabelledData)
    probe: Probing = _node(Probing)


def check(settings: ProbeSettings, known: tuple[str, ...]) -> None:
    """What types cannot say.

    Args:
        known: names of the probes.

    Raises:
        InvalidSetting: a value out of range, in one line.
    """
    if (settings.run is None) == (settings.scratch is None):
        raise InvalidSetting("give what to probe: run=runs/NAME, or scratch=MODEL for the supervised baseline")
    for name in probes(settings):
        if name not in known:
            raise InvalidSetting(f"unknown probe '{name}'{nearest(name, known)} (probes: {', '.join(known)})")
    for key, value in {"batch": settings.batch, "probe.seeds": settings.probe.seeds}.items():
        if value < 1:
            raise InvalidSetting(f"{key}={value} must be above 0")
    if settings.probe.recipe not in RECIPES:
        raise InvalidSetting(f"probe.recipe={settings.probe.recipe}: choose {' or '.join(RECIPES)}")
    if settings.probe.epochs is not None and not 0 < settings.probe.epochs < math.inf:
        raise InvalidSetting(f"probe.epochs={settings.probe.epochs} must be above 0, and finite")
    if settings.data.workers < 0:
        raise InvalidSetting(f"data.workers={settings.data.workers} must not be negative")
    if not settings.probe.fractions or not all(0 < share <= 1 for share in settings.probe.fractions):
        raise InvalidSetting(f"probe.fractions={settings.probe.fractions}: shares of the labels, above 0 and at most 1")
    if not 0 <= settings.seed < 2**62:
        raise InvalidSetting(f"seed={settings.seed} must be between 0 and 2^62 - 1")


def probes(settings: ProbeSettings) -> list[str]:
    """Names of the probes that were asked for, each once."""
    return list(dict.fromkeys(word.strip() for word in settings.probe.name.split("+")))


def layers(settings: ProbeSettings, depth: int) -> list[int]:
    """Numbers of the blocks whose output is probed, of an encoder of `depth` blocks."""
    asked = settings.probe.layer
    if asked is None:
        return [depth]
    if asked == "all":
        return list(range(1, depth + 1))
    if type(asked) is not int or not 1 <= asked <= depth:
        raise InvalidSetting(f"probe.layer={asked}: choose a block from 1 to {depth}, or all")
    return [asked]
