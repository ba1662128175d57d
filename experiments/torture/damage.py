"""Files that the program wrote, cut and with bits flipped: each is refused in one line, or reads as before."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.torture.trial import TINY, Trial, ask, digest, fault_of, recon
from recon import run_folder
from recon.data import create_dataset
from recon.evaluation import results
from recon.loaded_run import open_run


@dataclass(frozen=True)
class Written:
    """A file, and what reads it."""

    path: Path
    read: Callable[[], Any]


def trials(place: Path, cases: int, seed: int) -> Iterator[Trial]:
    """`cases` cuts and as many flips of each file."""
    for file in written_files(place):
        draw = random.Random(f"{seed} {file.path.name}")
        whole = file.path.read_bytes()
        expected = digest(file.read())
        for i in range(2 * cases):
            case, content = cut(whole, draw) if i % 2 else flipped(whole, draw)
            file.path.write_bytes(content)
            found, fault = ask(file.read)
            if fault is None and found is not None and digest(found) != expected:
                fault = "read without a word, and not as it was written"
            yield Trial(f"{file.path.name}: {case}", fault)
        file.path.write_bytes(whole)


def cut(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    length = draw.randrange(len(content))
    return f"cut after {length} of {len(content)} bytes", content[:length]


def flipped(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    at, bit = draw.randrange(len(content)), draw.randrange(8)
    changed = bytearray(content)
    changed[at] ^= 1 << bit
    return f"bit {bit} of byte {at} of {len(content)}", bytes(changed)


def written_files(place: Path) -> list[Written]:
    """A run, its evaluation, its conversion and packed images, made by the commands."""
    run, packed = place / "runs" / "run", place / "images.pack"
    for command in (
        ("pretrain", *TINY, "train.steps=3", "name=run"),
        ("evaluate", "run=runs/run", "images=8", "batch=4", "training_images=32", "ratios=[]", "device=cpu"),
        ("convert", "input=runs/run", "out=converted.safetensors"),
        ("convert", "input=runs/run", "out=converted.pth"),
        ("pack", "data=photos", "size=16", f"out={packed.name}"),
    ):
        done = recon(place, *command)
        if fault_of(done) or done.returncode:
            raise RuntimeError(f"{command}: {done.stderr}")
    return [
        Written(run / "model.safetensors", lambda: open_run(run).model),
        Written(run / "checkpoint.pt", lambda: run_folder.read_checkpoint(run / "checkpoint.pt")),
        Written(run / "config.yaml", lambda: open_run(run).settings),
        Written(run / "evaluation.json", lambda: results.read(run)),
        Written(run / "evaluation.safetensors", lambda: results.read(run)),
        Written(place / "converted.safetensors", lambda: open_run(place / "converted.safetensors").model),
        Written(place / "converted.pth", lambda: open_run(place / "converted.pth").model),
        Written(packed, lambda: images_in(packed)),
    ]


def images_in(packed: Path) -> list[bytes]:
    """Name, class and pixels of every packed image."""
    found = []
    for split in ("train", "val"):
        source = create_dataset("packed", split, packed)
        for i in range(len(source)):
            image, label = source.read(i)
            found.append(f"{source.name_of(i)} {label} {image.size}".encode() + image.tobytes())
    return found
