"""A small model and the files that others would have made of it."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recon.model import MaskedAutoencoder

SIZES = dict(
    image_size=(32, 32), patch_size=8, width=128, depth=2, heads=2, decoder_width=64, decoder_depth=1, decoder_heads=2
)
PATCHES = 16


def made(seed: int = 0, **overrides: Any) -> MaskedAutoencoder:
    """Biases, scales and tokens are drawn too, so that no part of the network is silent."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MaskedAutoencoder(**SIZES | overrides)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def encoder_only(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if not k.startswith(("decoder_", "mask_token", "statistics."))}


def images(number: int = 3) -> Tensor:
    return torch.rand(number, 3, 32, 32, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="session")
def model() -> MaskedAutoencoder:
    return made()


@pytest.fixture(scope="session")
def state(model) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture
def files(tmp_path, state) -> dict[str, Path]:
    """The official code's three kinds of files, timm's, and a file of ours for it."""
    arguments = argparse.Namespace(norm_pix_loss=True, model="mae_vit_base_patch16", mask_ratio=0.75, output_dir=None)
    training = {"model": state, "optimizer": {"state": {0: torch.zeros(3)}}, "epoch": 799, "scaler": {"scale": 65536.0}}
    torch.save({"model": encoder_only(state)}, tmp_path / "encoder.pth")
    torch.save({"model": state}, tmp_path / "visualize.pth")
    torch.save(training | {"args": arguments}, tmp_path / "full.pth")
    save_file(encoder_only(state), tmp_path / "timm.safetensors")
    return {name: next(tmp_path.glob(f"{name}.*")) for name in ("encoder", "visualize", "full", "timm")}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bit for bit, names and precision too."""
    return set(a) == set(b) and all(
        a[name].dtype == b[name].dtype and a[name].shape == b[name].shape and torch.equal(a[name], b[name])
        for name in a
    )


def edited(path: Path, **changes: Any) -> None:
    """Changes keys of a JSON file; the weights beside it lose this program's digest, as where others write a folder."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    weights = path.parent / "model.safetensors"
    save_file(load_file(weights), weights, metadata={"format": "pt"})
