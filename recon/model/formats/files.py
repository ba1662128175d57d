"""Reads a checkpoint of any format, recognised by its names."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from losses import TERM_OPTIONS, InvalidSetting, tensor_files
from losses.reconstruction import IMAGENET_MEAN, IMAGENET_STD
from recon.model import SIZES
from recon.model.formats import hugging_face, layout
from recon.model.formats.architecture import (
    FACTS,
    FORMATS,
    NORMALISED,
    PIXELS,
    VERSION,
    Architecture,
    Checkpoint,
    head_named,
)
from recon.model.masking import corrupts

RUN, MODEL = "config.yaml", "model.safetensors"
# The keys under which the official code, and others, put the tensors; and what wrappers of modules put before names.
WRAPPERS = ("model", "state_dict", "model_state_dict", "model_ema")
PREFIXES = re.compile(r"^(module\.|_orig_mod\.|model\.)+")

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
    # How a run corrupts images is no part of its model.
    state = {PREFIXES.sub("", name): tensor for name, tensor in found.items() if not name.startswith("corruption.")}
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
    masking = config.get("masking", {}).get("strategy", "random")
    unmasked = f"its decoder was trained on whole images corrupted by {masking}: its mask token is as it was drawn"
    resolved, size, head = config["resolved"], config["data"]["image_size"], config["resolved"]["head"]
    options = config.get("losses", {}).get(head, {})
    of_term = {"name": head, **options} if head not in (PIXELS, NORMALISED) else None
    return {
        "target": head_named(head, options).decoder,
        "mean": resolved["mean"],
        "std": resolved["std"],
        "mask_ratio": config.get("masking", {}).get("ratio"),
        "notes": [unmasked] if corrupts(masking) else [],
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
