"""Settings as a run saves them: by key, with the meaning that they had, and which ones may change on resuming."""

from dataclasses import asdict
from functools import reduce
from hashlib import sha256
from typing import Any

import yaml
from omegaconf import OmegaConf

from losses import InvalidSetting, defaults
from losses.expression import WeightedTerm, parse
from recon.config import Settings, every_setting

# Settings that had another name once: old name -> new name.
RENAMED = {
    "batch.global": "batch.size",
    "in": "input",
    "losses.adversarial.game": "losses.adversarial.gan_loss",
    "losses.feature_matching.game": "losses.feature_matching.gan_loss",
}

DOLLAR = "\ue000"  # stands for a dollar sign, with which an interpolation would begin

CHECKSUM = "# sha256 of the lines above: "  # last line of a file of settings
MAX_YAML = 2**20  # bytes; and values, once aliases are followed

# Settings that may change when a run is resumed, because they change neither the weights nor what they mean. With
# data.workers the order of a stream's samples changes, and `training.pretraining.reader_warning` says so.
RESUME_OVERRIDES = {
    "name",
    "resume",
    "device",
    "log",
    "shard",
    "losses.flow.steps",
    "data.root",
    "data.workers",
    "data.download",
    "data.max_unreadable",
    "model.gradient_checkpointing",
    "train.checkpoint_every",
    "train.log_every",
    "train.online_probe",
    "train.picture_every",
}


def resumed_settings(saved: dict[str, Any], now: Settings, given: frozenset[str]) -> dict[str, Any]:
    """The `saved` run's settings by key, with those of `RESUME_OVERRIDES` that the user has `given` now.

    A preset gives all that it changes. Raises InvalidSetting where another given setting differs from the saved run's.
    """
    current, known = flat(now), {s.key: s.default for s in every_setting()}
    saved = known | upgraded(saved)  # a run may be older than a setting
    changed = {key for key, value in current.items() if value != known[key]} if "preset" in given else set()
    chosen = {key for key in current if any(key == g or key.startswith(f"{g}.") for g in given)} | changed
    # The length of a run is one setting in two units; the one that was not given is null.
    differing = {key: value for key, value in current.items() if key in chosen and value != saved[key]}
    shown = {key: f"{key}={_shown(differing[key])} (was {_shown(saved[key])})" for key in differing}
    if refused := [shown[key] for key in differing if key not in RESUME_OVERRIDES]:
        raise InvalidSetting(
            f"cannot resume with other settings: {', '.join(refused)}; leave them out, or start anew with another name="
        )
    return saved | differing


def upgraded(saved: dict[str, Any]) -> dict[str, Any]:
    """A run's settings, translated from the names and defaults of earlier versions to those of today.

    In earlier versions discriminators did not see the mask, a bare `adversarial` was 0.01*adversarial; features were
    compared per position, a bare `perceptual` was 0.01*perceptual, a bare `feature_matching` 200%.
    """
    saved = {RENAMED.get(key, key): value for key, value in saved.items()}
    changed: dict[str, Any] = {}
    then = defaults()
    if "losses.adversarial.gan_loss" in saved and "losses.adversarial.mask_aware" not in saved:
        then["adversarial"] = WeightedTerm("adversarial", 0.01)
        penalty = saved["losses.adversarial.penalty"] if saved["losses.adversarial.gan_loss"] == "relativistic" else 0.0
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
    return flattened(asdict(settings))


def flattened(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of settings, as in config.yaml, by key. A tree of an earlier version lacks the settings added since."""
    values: dict[str, Any] = {}
    for name, value in tree.items():
        values |= flattened(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return values


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Settings by key -> the tree of config.yaml."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *nodes, leaf = key.split(".")
        node = tree
        for name in nodes:
            node = node.setdefault(name, {})
        node[leaf] = value
    return tree


def as_yaml(settings: Settings, facts: dict[str, Any]) -> str:
    """The text of config.yaml: settings as a tree, `facts` under `resolved`, and a checksum."""
    text = yaml.safe_dump({**nested(flat(settings)), "resolved": facts}, sort_keys=False, allow_unicode=True)
    return f"{text}{CHECKSUM}{sha256(text.encode()).hexdigest()}\n"


def from_yaml(content: bytes) -> dict[str, Any]:
    """The tree of plain values in a config.yaml, which nothing in it can make large.

    Raises:
        ValueError or YAMLError: it cannot be read, or was changed since it was written, which its checksum tells;
            a file of an earlier version has none.
    """
    text, marked, said = content.rpartition(CHECKSUM.encode())
    if marked and said.decode().strip() != sha256(text).hexdigest():
        raise ValueError(f"it was changed since it was written; if by you, remove its last line ({CHECKSUM}...)")
    tree = yaml.safe_load(content)
    waiting, count = [tree], 0
    while waiting:  # aliases of aliases are few bytes, and many values
        value = waiting.pop()
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        count += 1
        if max(8 * count, len(content)) > MAX_YAML:
            raise ValueError("it is too large")
    return tree


def settings_from(values: dict[str, Any]) -> Settings:
    """Settings from values by key; the inverse of `flat`. Values are taken as they are: nothing is interpolated."""

    def each(value: Any, old: str, new: str) -> Any:
        if isinstance(value, dict):
            return {key: each(item, old, new) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [each(item, old, new) for item in value]
        return value.replace(old, new) if isinstance(value, str) else value

    merged: Any = OmegaConf.merge(OmegaConf.structured(Settings), each(nested(values), "$", DOLLAR))
    settings: Any = OmegaConf.to_object(merged)
    for key, value in flat(settings).items():
        *nodes, leaf = key.split(".")
        setattr(reduce(getattr, nodes, settings), leaf, each(value, DOLLAR, "$"))
    return settings


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).replace(" ", "")
