"""Small datasets, and the masking that the laws are stated with."""

import io
import re
import tarfile
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from losses import InvalidSetting
from recon.data import Batch, Source, StreamedSource, batches, create_dataset, training_batches
from recon.data.source import UnreadableImage


def masking(generator: torch.Generator) -> torch.Tensor:
    return torch.rand(16, generator=generator)


def picture(seed: int, width: int = 40, height: int = 30, channels: int = 3) -> Image.Image:
    """Smooth noise, so that JPEG keeps it and no two are alike."""
    grain = np.random.default_rng(seed).integers(0, 256, (4, 5, channels), dtype=np.uint8)
    return Image.fromarray(grain.squeeze()).resize((width, height))


class Pictures(Source):
    """Generated pictures, of which some cannot be read."""

    def __init__(self, length: int, unreadable: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.length = length
        self.unreadable = unreadable

    def __len__(self) -> int:
        return self.length

    def read(self, index: int) -> tuple[Image.Image, int]:
        if index in self.unreadable:
            raise UnreadableImage(f"picture {index}: torn")
        return picture(index), index

    def name_of(self, index: int) -> str:
        return f"picture {index}"


def write_shard(path: Path, labels: Iterable[int], unreadable: tuple[int, ...] = ()) -> None:
    """A WebDataset shard: pictures 0, 1, ... with these labels, those of some labels cut short."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for i, label in enumerate(labels):
            file = io.BytesIO()
            picture(i).save(file, "PNG")
            encoded = file.getvalue()[: 99 if label in unreadable else None]
            for ending, content in (("png", encoded), ("cls", str(label).encode())):
                entry = tarfile.TarInfo(f"{i:04}.{ending}")
                entry.size = len(content)
                shard.addfile(entry, io.BytesIO(content))


Samples = tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]]


def samples(
    source: Source | StreamedSource,
    number: int,
    *,
    batch: int = 4,
    start: int = 0,
    seed: int = 0,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    repeats: int = 1,
    one_process: bool = False,
) -> Samples:
    """The first samples of a run: images, labels and noise, each stacked, and the unreadable ones.

    `one_process`: this process does what the workers would do.
    """
    make = batches_in_turn if one_process and workers else training_batches
    made = make(
        source,
        image_size=(16, 16),
        batch=batch,
        start=start,
        seed=seed,
        workers=workers,
        masking=masking,
        rank=rank,
        world=world,
        repeats=repeats,
    )
    got = list(islice(made, number // batch))
    images, labels, noise = (torch.cat([getattr(b, name) for b in got]) for name in ("images", "labels", "noise"))
    return images, labels, noise, [line for b in got for line in b.unreadable]


def batches_in_turn(source: StreamedSource, workers: int, **how: Any) -> Iterator[Batch]:
    """The batches that so many worker processes would make, made in turn by this one."""
    parts = []
    for worker in range(workers):
        with pytest.MonkeyPatch.context() as patch:
            info = SimpleNamespace(id=worker, num_workers=workers)
            patch.setattr(batches, "get_worker_info", lambda info=info: info)
            patch.setattr(batches, "load_batches", lambda dataset, sampler, workers: iter(dataset))
            part = training_batches(source, workers=workers, **how)
            parts.append(chain([next(part)], part))
    return chain.from_iterable(zip(*parts, strict=True))


def same(left: Samples, right: Samples) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left[:3], right[:3], strict=True)) and left[3] == right[3]


@pytest.fixture
def odd_files(tmp_path: Path) -> Path:
    """A folder of images in every colour mode, and two files that are no images."""
    rgb = picture(0, 64, 64)
    rgb.save(tmp_path / "plain.jpg")
    rgb.convert("L").save(tmp_path / "grey.png")
    rgb.convert("RGBA").save(tmp_path / "transparent.png")
    rgb.quantize(16).save(tmp_path / "palette.png", transparency=bytes(range(16)))
    rgb.convert("CMYK").save(tmp_path / "print.jpg")
    Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257).save(tmp_path / "deep.png")
    whole = (tmp_path / "plain.jpg").read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "letter.jpg").write_text("Dear colleague,")
    return tmp_path


def save(folder, *names):
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(folder / name)
    return folder


def the_error(match, *args, **kwargs):
    """The message is one line, and has the words."""
    with pytest.raises(InvalidSetting) as error:
        create_dataset(*args, **kwargs)
    message = str(error.value)
    assert len(message.splitlines()) == 1 and re.search(match, message), message
    return message
