"""Writes a checkpoint in a format, whole or not at all."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from losses import InvalidSetting, nearest, tensor_files
from recon.model.formats import hugging_face
from recon.model.formats.architecture import FACTS, FORMATS, NORM_EPS, NORMALISED, PIXELS, Checkpoint
from recon.model.mae import decoder_prefixes

SUFFIXES = {"official": (".pth", ".pt"), "timm": (".safetensors",), "recon": (".safetensors",), "transformers": ("",)}
DEFAULTS = {".safetensors": "recon", ".pth": "official", ".pt": "official", "": "transformers"}
# Parts of this project's models that the official code and transformers cannot store, and what is lost with them.
OWN_PARTS = {
    "statistics.": "the patch statistics, without which normalised patches are drawn by the oracle alone",
    "refiner.": "the refiner, without which hidden patches are drawn as the decoder's last layer leaves them",
    "distribution.": "the layers that draw from a distribution, without which there is one answer to each image",
}


def format_for(path: Path) -> str:
    """The format by a name's end: .safetensors is this project's, .pth the official code's, a folder Hugging Face's.

    Raises:
        InvalidSetting: another suffix.
    """
    if path.suffix not in DEFAULTS:
        raise InvalidSetting(f"out={path}: end it in .safetensors or .pth, or in no suffix for a Hugging Face folder")
    return DEFAULTS[path.suffix]


def write(checkpoint: Checkpoint, path: Path, format: str, card: Callable[[list[str]], str] | None = None) -> list[str]:
    """Writes under a temporary name and renames; returns what the format cannot store and was left out.

    `card` makes of that the README.md of a folder.

    official: {"model": tensors}, by torch.save. timm: the encoder, a safetensors file for `load_state_dict` and
    `checkpoint_path=`. transformers: a folder for `from_pretrained`. recon: a safetensors file that says all.

    Raises:
        InvalidSetting: no such format, a suffix that is not its own, a path that exists or cannot be written, or a
            model that the format cannot store.
    """
    if format not in FORMATS:
        raise InvalidSetting(f"unknown format '{format}'{nearest(format, FORMATS)} (formats: {', '.join(FORMATS)})")
    if path.suffix not in SUFFIXES[format]:
        suffixes = "a folder's name, without a suffix" if format == "transformers" else " or ".join(SUFFIXES[format])
        raise InvalidSetting(f"out={path}: format={format} is written to {suffixes}")
    if path.exists():
        raise InvalidSetting(f"{path} exists; choose another out=, or remove it first")
    state, left_out = _storable(checkpoint, format)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In a folder of its own beside it: one rename within the file system completes the work.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".convert-") as scratch:
            made = Path(scratch) / path.name
            _store(checkpoint, state, made, format)
            if card and made.is_dir():
                (made / "README.md").write_text(card(left_out), encoding="utf-8")
            os.rename(made, path)
    except (OSError, RuntimeError) as error:
        raise InvalidSetting(f"cannot write {path}: {' '.join(str(error).split())[:160]}") from error
    return left_out


def _storable(c: Checkpoint, format: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors that a format can store, and what is left out."""
    if c.classifier:
        raise InvalidSetting("a fine-tuned classifier is not converted, only probed; give the pretrained model")
    if format != "recon" and (count := c.architecture.class_tokens) > 1:
        raise InvalidSetting(f"format={format} has no place for {count} class tokens; give format=recon")
    state, left_out, eps = c.state, [], c.architecture.norm_eps
    if format in ("official", "timm") and eps != NORM_EPS:
        left_out.append(f"the norms' epsilon of {eps} (theirs is {NORM_EPS}; this program reads it back)")
    if format == "timm" and c.has_decoder:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(decoder_prefixes("decoder"))}
        left_out.append("the decoder")
    elif format in ("official", "transformers") and c.has_decoder:
        missing = [f"a decoder of {c.target}"] if c.target not in (None, PIXELS, NORMALISED) else []
        missing += ["mask tokens in the encoder"] if c.architecture.mask_tokens != "decoder" else []
        if missing:
            raise InvalidSetting(f"format={format} has no place for {missing[0]}; give format=recon, or format=timm")
        left_out += [loss for part, loss in OWN_PARTS.items() if any(name.startswith(part) for name in state)]
        state = {name: tensor for name, tensor in state.items() if not name.startswith(tuple(OWN_PARTS))}
    return state, left_out


def _store(c: Checkpoint, state: dict[str, Tensor], made: Path, format: str) -> None:
    if format == "official":
        torch.save({"model": state, FACTS: c.facts(format)}, made)
        return
    facts, file = {FACTS: c.facts(format)}, made
    if format == "transformers":
        made.mkdir()
        configs = hugging_face.configs(c)
        facts = {hugging_face.DIGEST: hugging_face.digest(*configs.values())}
        state, file = hugging_face.from_official(state), made / hugging_face.WEIGHTS[0]
        for name, values in configs.items():
            (made / name).write_text(json.dumps(values, indent=2) + "\n")
    file.write_bytes(tensor_files.to_bytes(state, {"format": "pt"} | facts))  # transformers asks for "format"
