"""Reads a checkpoint of any format, recognised by its names, and writes one in a format, whole or not at all."""

import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from losses import TERM_OPTIONS, InvalidSetting, nearest, tensor_files
from losses.reconstruction import IMAGENET_MEAN, IMAGENET_STD
from recon.model import SIZES
from recon.model.formats import hugging_face, layout
from recon.model.formats.architecture import (
    FACTS,
    FORMATS,
    NORM_EPS,
    NORMALISED,
    PIXELS,
    VERSION,
    Architecture,
    Checkpoint,
    head_named,
)
from recon.model.mae import decoder_prefixes

RUN, MODEL = "config.yaml", "model.safetensors"
# The keys under which the official code, and others, put the tensors; and what wrappers of modules put before names.
WRAPPERS = ("model", "state_dict", "model_state_dict", "model_ema")
PREFIXES = re.compile(r"^(module\.|_orig_mod\.|model\.)+")

SUFFIXES = {"official": (".pth", ".pt"), "timm": (".safetensors",), "recon": (".safetensors",), "transformers": ("",)}
DEFAULTS = {".safetensors": "recon", ".pth": "official", ".pt": "official", "": "transformers"}
# Parts of this project's models that the official code and transformers cannot store, and what is lost with them.
OWN_PARTS = {
    "statistics.": "the patch statistics, without which normalised patches are drawn by the oracle alone",
    "refiner.": "the refiner, without which hidden patches are drawn as the decoder's last layer leaves them",
    "distribution.": "the layers that draw from a distribution, without which there is one answer to each image",
}

# What is known beside the tensors: target, mean, std, notes, and under "architecture" fields of `Architecture`.
Facts = dict[str, Any]


def read(path: Path, target: str | None = None) -> Checkpoint:
    """A masked autoencoder's checkpoint, of whichever format.

    Args:
        path: a file of the official code (encoder alone, or with its decoder), of timm, of transformers or of
            recon.convert; or a folder: of transformers or timm with its config.json, or a run of this program.
        target: "pixels" or "normalised", where the file does not say what its decoder was trained for.

    Raises:
        InvalidSetting: it is none of these, damaged, incomplete, or of another architecture; or the file says
            another target.
    """
    file = weights_in(path)
    stored = tensor_files.read(file)
    try:
        return _checkpoint(stored, file).with_target(target, path)
    except InvalidSetting:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise InvalidSetting(f"what stands beside the tensors of {path} is damaged ({error})") from error


def weights_in(path: Path) -> Path:
    """The file of weights: `path` itself, or the one in that folder."""
    if not path.is_dir():
        return path
    names = (MODEL,) if (path / RUN).is_file() else hugging_face.WEIGHTS
    for name in names:
        if (path / name).is_file():
            return path / name
    if list(path.glob("*.index.json")):
        raise InvalidSetting(f"{path} holds its weights in several files; save them as one, max_shard_size='20GB'")
    raise InvalidSetting(f"{path} holds no checkpoint ({' or '.join(names)})")


def _checkpoint(stored: tensor_files.TensorFile, file: Path) -> Checkpoint:
    wrapper = next((name for name in WRAPPERS if isinstance(stored.content.get(name), dict)), None)
    found = tensor_files.tensors(stored.content[wrapper] if wrapper else stored.content)
    state = {PREFIXES.sub("", name): tensor for name, tensor in found.items()}
    notes = []
    if classifier := {"fc_norm.weight", "fc_norm.bias", "head.weight"} <= state.keys():
        # The official code fine-tunes with `fc_norm` behind the mean of tokens, in place of `norm`.
        state = {name.replace("fc_norm.", "norm."): t for name, t in state.items() if not name.startswith("head.")}
        notes.append(
            "a fine-tuned classifier (fc_norm, head), of which the encoder is read: fc_norm norms each token; the "
            "positions that it learnt are kept, but a run that begins with it has the fixed ones"
        )
    if hugging_face.has_their_names(state):
        state, format = hugging_face.to_official(state, file), "transformers"
        config, images = (_read_beside(file.parent / name) for name in (hugging_face.CONFIG, hugging_face.PREPROCESSOR))
        if stored.metadata.get(hugging_face.DIGEST) not in (None, hugging_face.digest(config, images)):
            raise InvalidSetting(
                f"{hugging_face.CONFIG} or {hugging_face.PREPROCESSOR} beside {file} is not as it was written; convert "
                "the original again, or, if the change is yours, save the model once more by transformers"
            )
        facts = hugging_face.facts_of(config, images, file.parent)
    elif "patch_embed.proj.weight" in state:
        format, facts = _official_names(stored, state, wrapper is not None, file)
    else:
        raise InvalidSetting(_not_an_autoencoder(stored, state, file))
    architecture, assumed = layout.architecture_of(state, facts.get("architecture", {}), file)
    layout.check(state, architecture, facts.get("target"), file, fixed_positions=not classifier)
    has_decoder = architecture.decoder_width is not None
    given = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD} | {k: v for k, v in facts.items() if v is not None}
    mean, std = (tuple(map(float, given[name])) for name in ("mean", "std"))
    if not len(mean) == len(std) == 3 or not all(-100 < m < 100 for m in mean) or not all(0 < s < 100 for s in std):
        raise ValueError(f"mean {mean} and std {std} are not those of three channels")
    if (ratio := facts.get("mask_ratio")) is not None and not 0 <= ratio < 1:
        raise ValueError(f"a mask ratio of {ratio} is none")
    return Checkpoint(
        state=state,
        format=format,
        has_decoder=has_decoder,
        target=facts.get("target") if has_decoder else None,
        architecture=architecture,
        sha256=stored.sha256,
        mean=mean,
        std=std,
        notes=(*notes, *assumed, *facts.get("notes", ())),
        classifier=classifier,
        mask_ratio=ratio,
        verified=stored.verified,
    )


def _official_names(
    stored: tensor_files.TensorFile, state: dict[str, Tensor], wrapped: bool, file: Path
) -> tuple[str, Facts]:
    """Format and facts of a file with the official names, which several formats share."""
    own = stored.metadata.get(FACTS) or stored.content.get(FACTS)
    if own is not None:
        facts = _own_facts(own, file)
        return facts["format"], facts
    if file.name == MODEL and (file.parent / RUN).is_file():
        return "recon", _facts_of_run(file.parent / RUN)
    if wrapped or layout.holds_decoder(state):
        return "official", {"target": _official_target(stored.content.get("args"))}
    config = _read_beside(file.parent / hugging_face.CONFIG).get("pretrained_cfg")
    config = config if isinstance(config, dict) and file.name in hugging_face.WEIGHTS else {}
    return "timm", {"mean": config.get("mean"), "std": config.get("std")}


def _own_facts(text: Any, where: Path) -> Facts:
    """What `Checkpoint.facts` wrote into a file of this program."""
    facts = _parsed(lambda: json.loads(text), where) if isinstance(text, str) else {}
    architecture = facts.get("architecture")
    if not (
        facts.get("version") == VERSION
        and facts.get("format") in FORMATS
        and facts.get("target") in (None, PIXELS, NORMALISED, *TERM_OPTIONS)
        and isinstance(architecture, dict)
        and set(architecture) <= set(Architecture.__dataclass_fields__)
    ):
        raise InvalidSetting(f"{where} is damaged, or of another version of this program; convert the original again")
    return facts


def _facts_of_run(path: Path) -> Facts:
    config = _read_beside(path)
    resolved, size, head = config["resolved"], config["data"]["image_size"], config["resolved"]["head"]
    options = config["losses"].get(head, {})
    of_term = {"name": head, **options} if head not in (PIXELS, NORMALISED) else None
    return {
        "target": head_named(head, options).decoder,
        "mean": resolved["mean"],
        "std": resolved["std"],
        "mask_ratio": config.get("masking", {}).get("ratio"),
        "architecture": {
            "heads": SIZES[config["model"]["name"]]["heads"],
            "image_size": size,
            "mask_tokens": config["model"]["mask_tokens"],
            "distribution": of_term,
        },
    }


def _official_target(args: Any) -> str | None:
    """What the official code's arguments say; files made for visualisation alone have none."""
    values = vars(args) if isinstance(args, tensor_files.Inert) else args if isinstance(args, dict) else {}
    norm_pix = values.get("norm_pix_loss")
    return None if not isinstance(norm_pix, bool) else NORMALISED if norm_pix else PIXELS


def _not_an_autoencoder(stored: tensor_files.TensorFile, state: dict[str, Tensor], file: Path) -> str:
    if str(stored.content.get("format", "")).startswith("recon checkpoint"):
        return f"{file} is what a run resumes from; give the run's folder, {file.parent}"
    some = ", ".join(list(state)[:3])
    what = f"its tensors begin with {some}" if some else "it holds no tensors by name"
    return f"{file} is no checkpoint of a masked autoencoder ({what}); give one of the official code, timm or ViTMAE"


def _read_beside(path: Path) -> dict[str, Any]:
    """The values in a JSON or YAML file beside the tensors; none where there is no file.

    Raises:
        InvalidSetting: the file does not hold values by name.
    """
    parser = yaml.safe_load if path.suffix == ".yaml" else json.loads
    return _parsed(lambda: parser(path.read_text()), path) if path.is_file() else {}


def _parsed(parser: Callable[[], Any], where: Path) -> dict[str, Any]:
    try:
        values = parser()
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InvalidSetting(f"{where} is damaged: {' '.join(str(error).split())[:120]}") from error
    if not isinstance(values, dict):
        raise InvalidSetting(f"{where} is damaged: it holds no values by name")
    return values


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
        if c.architecture.mask_tokens != "decoder" or c.target not in (None, PIXELS, NORMALISED):
            what = (
                "mask tokens in the encoder" if c.target in (None, PIXELS, NORMALISED) else f"a decoder of {c.target}"
            )
            raise InvalidSetting(f"format={format} has no place for {what}; give format=recon, or format=timm")
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
