"""Small runs in this process, made as the command makes them, and what they leave on disk compared."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from recon.cli import typed
from recon.config import Settings
from recon.run_folder import CHECKPOINT, PREVIOUS, read_checkpoint
from recon.training import pretraining

SMALL = [
    "loss=perceptual+mse",
    "optim.base_lr=1.6e-2",
    "device=cpu",
    "precision=fp32",
    "model.name=nano",
    "data.name=folder",
    "data.image_size=16",
    "model.patch_size=4",
    "model.decoder_depth=1",
    "model.decoder_width=32",
    "batch.size=8",
    "optim.base_lr=1.6e-2",
    "train.checkpoint_every=200",
    "train.log_every=2",
    "train.picture_every=1000",
    "losses.perceptual.weights=random",
    "losses.adversarial.width=8",
]


def settings(*words: str) -> tuple[Settings, frozenset[str]]:
    """Settings from key=value, and the keys that were given, as `recon.cli` hands them over."""
    given = frozenset(word.partition("=")[0] for word in words)
    return typed(OmegaConf.merge(OmegaConf.structured(Settings), OmegaConf.from_dotlist(list(words))), given), given


def pretrain(place: Path, *words: str) -> int:
    """`python -m recon.pretrain ...` in the folder `place`; returns the exit status."""
    with contextlib.chdir(place):
        return pretraining.pretrain(*settings(*words))


def small_run(place: Path, pictures: Path, name: str, *words: str) -> Path:
    """A small run to its end; returns its folder."""
    assert pretrain(place, *SMALL, f"data.root={pictures}", f"name={name}", *words) == 0
    return place / "runs" / name


def resumed(place: Path, name: str, *words: str) -> Path:
    """Goes on with a run, to its end; returns its folder."""
    assert pretrain(place, f"name={name}", "resume=true", *words) == 0
    return place / "runs" / name


def as_killed_after_its_first_checkpoint(finished: Path, name: str) -> Path:
    """A copy of a run of two checkpoints as SIGKILL leaves it between them: lines of later steps, the last one torn."""
    folder = finished.with_name(name)
    shutil.copytree(finished, folder)
    (folder / PREVIOUS).replace(folder / CHECKPOINT)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9')
    return folder


def differences(left: Any, right: Any, path: str = "") -> list[str]:
    """Where two trees of tensors and plain values are not the same to the bit."""
    if isinstance(left, dict) and isinstance(right, dict):
        if left.keys() != right.keys():
            return [f"{path}: {left.keys() ^ right.keys()}"]
        return [line for key in left for line in differences(left[key], right[key], f"{path}/{key}")]
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        if len(left) != len(right):
            return [f"{path}: {len(left)} and {len(right)} items"]
        return [
            line for i, (a, b) in enumerate(zip(left, right, strict=True)) for line in differences(a, b, f"{path}/{i}")
        ]
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        same = left.dtype == right.dtype and left.shape == right.shape and torch.equal(bits(left), bits(right))
        return [] if same else [path]
    return [] if left == right and type(left) is type(right) else [f"{path}: {left!r} and {right!r}"]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def state_of(folder: Path) -> dict[str, Any]:
    """The last checkpoint, less what a resumed run is called."""
    state = read_checkpoint(folder / CHECKPOINT)
    harmless = ("name", "resume", "data.workers")
    return state | {"settings": {key: value for key, value in state["settings"].items() if key not in harmless}}


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl without what the clock says."""
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def save_picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grain = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(grain).resize((24, 24), Image.Resampling.BICUBIC).save(path)


def save_pictures(root: Path) -> Path:
    """An image folder: 10 small pictures to train on, 3 held out."""
    for i in range(13):
        save_picture(root / ("train" if i < 10 else "val") / f"{i:02}.png", seed=i)
    return root


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def seeded() -> Iterator[None]:
    """Leaves torch's random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
