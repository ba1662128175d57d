"""Writes a checkpoint in the format of others, whole or not at all."""

import json
import os
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from losses import InvalidSetting, nearest
from recon.model.formats import facts, hugging_face, layout
from recon.model.formats.architecture import FORMATS, NORM_EPS, Checkpoint
from recon.model.mae import BESIDE

SUFFIXES = {"official": (".pth", ".pt"), "timm": (".safetensors",), "recon": (".safetensors",), "huggingface": ("",)}
DEFAULTS = {".safetensors": "recon", ".pth": "official", ".pt": "official", "": "huggingface"}


def format_for(path: Path) -> str:
    """What is written where only the name is given: .safetensors this project's, .pth the official code's, a folder
    Hugging Face's.

    Raises:
        InvalidSetting: another suffix.
    """
    if path.suffix not in DEFAULTS:
        raise InvalidSetting(f"out={path}: end it in .safetensors or .pth, or in no suffix for a Hugging Face folder")
    return DEFAULTS[path.suffix]


def write(checkpoint: Checkpoint, path: Path, format: str) -> list[str]:
    """Writes under a temporary name and renames; returns what the format has no place for and was left out.

    official: {"model": tensors}, by torch.save. timm: the encoder, a safetensors file for `load_state_dict` and
    `checkpoint_path=`. huggingface: a folder for `from_pretrained`. recon: a safetensors file that says all.

    Raises:
        InvalidSetting: no such format, a suffix that is not its own, a path that exists or cannot be written, or a
            model that the format cannot hold.
    """
    if format not in FORMATS:
        raise InvalidSetting(f"unknown format '{format}'{nearest(format, FORMATS)} (formats: {', '.join(FORMATS)})")
    if path.suffix not in SUFFIXES[format]:
        suffixes = "a folder's name, without a suffix" if format == "huggingface" else " or ".join(SUFFIXES[format])
        raise InvalidSetting(f"out={path}: format={format} is written to {suffixes}")
    if path.exists():
        raise InvalidSetting(f"{path} exists; choose another out=, or remove it first")
    state, left_out = _held(checkpoint, format)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In a folder of its own beside it: one rename on one file system ends the work.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".convert-") as scratch:
            made = Path(scratch) / path.name
            _store(checkpoint, state, made, format)
            os.rename(made, path)
    except (OSError, RuntimeError) as error:
        raise InvalidSetting(f"cannot write {path}: {' '.join(str(error).split())[:160]}") from error
    return left_out


def _held(c: Checkpoint, format: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors that a format holds, and what else there is."""
    state, left_out, eps = c.state, [], c.architecture.norm_eps
    if format in ("official", "timm") and eps != NORM_EPS:
        left_out.append(f"the norms' epsilon of {eps} (theirs is {NORM_EPS}; this program reads it back)")
    if format == "timm" and c.has_decoder:
        state = {k: v for k, v in state.items() if not _of_decoder(k)}
        left_out.append("the decoder")
    elif format in ("official", "huggingface") and c.has_decoder:
        if c.architecture.mask_tokens != "decoder":
            raise InvalidSetting(
                f"format={format} has no place for mask tokens in the encoder; give format=recon, or format=timm"
            )
        if c.has_statistics:
            state = {k: v for k, v in state.items() if not k.startswith("statistics.")}
            left_out.append("the patch statistics, without which normalised patches are drawn by the oracle alone")
        if c.architecture.refiner_width:
            state = {k: v for k, v in state.items() if not k.startswith("refiner.")}
            left_out.append(
                "the refiner, without which hidden patches are drawn as the decoder's last layer leaves them"
            )
        if c.architecture.distribution:
            state = {k: v for k, v in state.items() if not k.startswith("distribution.")}
            left_out.append("the layers that draw from a distribution, without which there is one answer to each image")
    return state, left_out


def _of_decoder(name: str) -> bool:
    return layout.holds_decoder([name]) or name.startswith(BESIDE)


def _store(c: Checkpoint, state: dict[str, Tensor], made: Path, format: str) -> None:
    if format == "official":
        torch.save({"model": state, facts.KEY: facts.written(c, format)}, made)
    elif format == "huggingface":
        made.mkdir()
        _save(hugging_face.theirs(state), made / hugging_face.WEIGHTS[0], {})
        for name, values in hugging_face.configs(c).items():
            (made / name).write_text(json.dumps(values, indent=2) + "\n")
    else:
        _save(state, made, {facts.KEY: facts.written(c, format)})


def _save(state: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    save_file(state, path, metadata={"format": "pt"} | metadata)  # transformers asks for "format"
    path.chmod(0o644)  # safetensors gives its files to their owner alone
