"""runs/NAME: what a run is called, what it writes down about itself, and whether it may go on."""

import json
import os
import platform
import re
from dataclasses import is_dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from losses import InvalidSetting, defaults
from losses.expression import WeightedTerm, parse
from recon.config import RENAMED, Settings, every_setting
from recon.training import checkpoint

RUNS = Path("runs")

# Settings that change neither weights nor what they mean, so a run may go on under another value. But data.workers
# changes the order of a stream's samples: `announcement.other_readers` says so.
HARMLESS = {
    "name",
    "resume",
    "device",
    "shard",
    "losses.flow.steps",
    "data.root",
    "data.workers",
    "data.download",
    "data.max_unreadable",
    "model.gradient_checkpointing",
    "train.checkpoint_every",
    "train.log_every",
    "train.picture_every",
}


def create(settings: Settings) -> Path:
    """A new run folder, runs/NAME, or one named after loss, data and date.

    Raises:
        InvalidSetting: a run of that name exists.
    """
    if settings.name is not None:
        if not re.fullmatch(r"[^/\\\0]+", settings.name) or settings.name in (".", ".."):
            raise InvalidSetting(f"name={settings.name} is no name for a folder")
        folder = RUNS / settings.name
        if _holds_a_run(folder):
            raise InvalidSetting(f"{folder} exists; go on with it by resume=true, or choose another name=")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.yaml").touch(exist_ok=False)  # of two that begin at once, one has it
        except OSError as error:
            raise InvalidSetting(f"cannot make the folder {RUNS}/{settings.name[:40]}: {error.strerror}") from error
        return folder
    words = [settings.loss, settings.data.name, datetime.now().strftime("%Y%m%d-%H%M%S")]
    stem = re.sub(r"[^\w.+~-]", "", "-".join(words).replace("/", "~").replace("*", "x").replace("%", "pct")).lstrip(".")
    for suffix in ["", *(f"-{i}" for i in range(2, 1000))]:
        try:
            (RUNS / f"{stem}{suffix}").mkdir(parents=True)
            return RUNS / f"{stem}{suffix}"
        except FileExistsError:  # another run of a sweep began in the same second
            continue
    raise InvalidSetting(f"a thousand runs are called {RUNS / stem}; give name=")


def existing(settings: Settings) -> Path:
    """The folder of the run to go on with.

    Raises:
        InvalidSetting: no name was given, or there is no such run.
    """
    names = (checkpoint.NAME, checkpoint.PREVIOUS)
    there = sorted({path.parent.name for name in names for path in RUNS.glob(f"*/{name}")})
    listed = f" (runs with a checkpoint: {', '.join(there)})" if there else f" ({RUNS}/ has no run with a checkpoint)"
    if settings.name is None:
        raise InvalidSetting(f"resume=true needs name=NAME of the run to go on with{listed}")
    folder = RUNS / settings.name
    if not _holds_a_run(folder):
        raise InvalidSetting(f"there is no run {folder} to resume{listed}")
    return folder


def resumed_settings(saved: dict[str, Any], now: Settings, given: frozenset[str]) -> dict[str, Any]:
    """The saved run's settings, with the harmless ones that were given now.

    Args:
        saved: settings by key, as in the checkpoint.
        given: what the user set on the command line; a preset gives all that it changes.

    Raises:
        InvalidSetting: a given setting differs from the saved run's and is not harmless.
    """
    current, known = flat(now), {s.key: s.default for s in every_setting()}
    saved = known | in_todays_words(saved)  # a run may be older than a setting
    changed = {key for key, value in current.items() if value != known[key]} if "preset" in given else set()
    chosen = {key for key in current if any(key == g or key.startswith(f"{g}.") for g in given)} | changed
    # The length of a run is one setting in two units; the one that was not given is null.
    differing = {key: value for key, value in current.items() if key in chosen and value != saved[key]}
    refused = [
        f"{key}={_shown(value)} (was {_shown(saved[key])})" for key, value in differing.items() if key not in HARMLESS
    ]
    if refused:
        raise InvalidSetting(
            f"cannot resume with other settings: {', '.join(refused)}; leave them out, or start anew with another name="
        )
    return saved | {key: value for key, value in differing.items() if key in HARMLESS}


def in_todays_words(saved: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run from before a default changed, so that they mean now what they meant then.

    Discriminators were not told of the mask, and a bare `adversarial` was 0.01*adversarial; features were compared
    position by position, a bare `perceptual` was 0.01*perceptual, a bare `feature_matching` 200%.
    """
    saved = {RENAMED.get(key, key): value for key, value in saved.items()}
    changed: dict[str, Any] = {}
    then = defaults()
    if "losses.adversarial.game" in saved and "losses.adversarial.mask_aware" not in saved:
        then["adversarial"] = WeightedTerm("adversarial", 0.01)
        penalty = saved["losses.adversarial.penalty"] if saved["losses.adversarial.game"] == "relativistic" else 0.0
        changed |= {"losses.adversarial.mask_aware": False, "losses.adversarial.penalty": penalty}
    if "losses.perceptual.weights" in saved and "losses.feature_matching.pool" not in saved:
        then["perceptual"] = WeightedTerm("perceptual", 0.01)
        then["feature_matching"] = WeightedTerm("feature_matching", 200.0, share=True)
        pool = saved.get("losses.perceptual.pool", 1)
        changed |= {"losses.perceptual.pool": pool, "losses.feature_matching.pool": 1}
    if changed:
        meant = str(parse(saved["loss"], then))
        changed |= {"loss": meant} if meant != str(parse(saved["loss"], defaults())) else {}
    return saved | changed


def flat(settings: Settings) -> dict[str, Any]:
    """Settings by key, as plain values that a checkpoint can hold."""
    return values_of(_plain(settings))


def values_of(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of settings, as config.yaml holds it, by key. One of an older program lacks what was no setting then."""
    values: dict[str, Any] = {}
    for name, value in tree.items():
        values |= values_of(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return values


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Settings by key to a tree, for YAML and for `OmegaConf`."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *nodes, leaf = key.split(".")
        node = tree
        for name in nodes:
            node = node.setdefault(name, {})
        node[leaf] = value
    return tree


def write_text(path: Path, text: str) -> None:
    """Writes under a temporary name, then renames."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def write_config(folder: Path, settings: Settings, facts: dict[str, Any]) -> None:
    """config.yaml: everything resolved, and beside the settings what was found: objective, weights, data."""
    text = yaml.safe_dump({**nested(flat(settings)), "resolved": facts}, sort_keys=False, allow_unicode=True)
    write_text(folder / "config.yaml", text)


def write_environment(folder: Path, device: torch.device, processes: int, sharded: bool) -> None:
    """environment.json: what the run ran on."""
    packages = [
        "torch",
        "torchvision",
        "timm",
        "lightning-fabric",
        "hydra-core",
        "numpy",
        "scikit-image",
        "safetensors",
    ]
    environment = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in packages},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "processes": processes,
        "sharded": sharded,
        "cpus": os.cpu_count(),
    }
    write_text(folder / "environment.json", json.dumps(environment, indent=2) + "\n")


def _holds_a_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("config.yaml", checkpoint.NAME, checkpoint.PREVIOUS))


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).replace(" ", "")
