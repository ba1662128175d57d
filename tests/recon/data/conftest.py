"""Small datasets, and the masking that the laws are stated with."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recon.data import Source
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


def write_shard(path: Path, labels: list[int]) -> None:
    """A WebDataset shard: pictures 0, 1, ... with these labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for i, label in enumerate(labels):
            encoded = io.BytesIO()
            picture(i).save(encoded, "PNG")
            for ending, content in (("png", encoded.getvalue()), ("cls", str(label).encode())):
                entry = tarfile.TarInfo(f"{i:04}.{ending}")
                entry.size = len(content)
                shard.addfile(entry, io.BytesIO(content))


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
