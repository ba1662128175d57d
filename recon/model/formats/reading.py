"""Recognises by its names what a checkpoint is, and reads it."""

from pathlib import Path
from typing import Any

from torch import Tensor

from losses import InvalidSetting
from losses.reconstruction import IMAGENET_MEAN, IMAGENET_STD
from recon.model import SIZES
from recon.model.formats import hugging_face, layout
from recon.model.formats.architecture import FACTS, NORMALISED, PIXELS, Checkpoint, read_facts
from recon.model.formats.stored import Inert, Stored, load, read_json, read_yaml, tensors

RUN, MODEL = "config.yaml", "model.safetensors"
WRAPPERS = ("model", "state_dict")  # the keys under which the official code, and others, put the tensors

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
    stored = load(file)
    try:
        return _checkpoint(stored, file).with_target(target, path)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        if isinstance(error, InvalidSetting):
            raise
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


def _checkpoint(stored: Stored, file: Path) -> Checkpoint:
    wrapper = next((name for name in WRAPPERS if isinstance(stored.content.get(name), dict)), None)
    state = tensors(stored.content[wrapper] if wrapper else stored.content)
    if hugging_face.has_their_names(state):
        state = hugging_face.to_official(state, file)
        format, facts = "huggingface", hugging_face.read_configs(file.parent)
    elif "patch_embed.proj.weight" in state:
        format, facts = _official_names(stored, state, wrapper is not None, file)
    else:
        raise InvalidSetting(_not_an_autoencoder(stored, state, file))
    architecture, assumed = layout.architecture_of(state, facts.get("architecture", {}), file)
    layout.check(state, architecture, facts.get("target"), file)
    has_decoder = architecture.decoder_width is not None
    return Checkpoint(
        state=state,
        format=format,
        has_decoder=has_decoder,
        target=facts.get("target") if has_decoder else None,
        architecture=architecture,
        sha256=stored.sha256,
        mean=tuple(map(float, facts.get("mean") or IMAGENET_MEAN)),
        std=tuple(map(float, facts.get("std") or IMAGENET_STD)),
        notes=(*assumed, *facts.get("notes", ())),
    )


def _official_names(stored: Stored, state: dict[str, Tensor], wrapped: bool, file: Path) -> tuple[str, Facts]:
    """Format and facts of a file with the official names, which several formats share."""
    own = stored.metadata.get(FACTS) or stored.content.get(FACTS)
    if own is not None:
        facts = read_facts(own, file)
        return facts["format"], facts
    if file.name == MODEL and (file.parent / RUN).is_file():
        return "recon", _facts_of_run(file.parent / RUN)
    if wrapped or layout.holds_decoder(state):
        return "official", {"target": _official_target(stored.content.get("args"))}
    config = read_json(file.parent / hugging_face.CONFIG).get("pretrained_cfg")
    config = config if isinstance(config, dict) and file.name in hugging_face.WEIGHTS else {}
    return "timm", {"mean": config.get("mean"), "std": config.get("std")}


def _facts_of_run(path: Path) -> Facts:
    config = read_yaml(path)
    resolved, size, head = config["resolved"], config["data"]["image_size"], config["resolved"]["head"]
    is_distribution = head not in (PIXELS, NORMALISED)
    return {
        "target": PIXELS if is_distribution else head,
        "mean": resolved["mean"],
        "std": resolved["std"],
        "architecture": {
            "heads": SIZES[config["model"]["name"]]["heads"],
            "image_size": (size, size) if isinstance(size, int) else tuple(size),
            "mask_tokens": config["model"]["mask_tokens"],
            "distribution": {"name": head, **config["losses"][head]} if is_distribution else None,
        },
    }


def _official_target(args: Any) -> str | None:
    """What the official code's arguments say; files made for visualisation alone have none."""
    values = vars(args) if isinstance(args, Inert) else args if isinstance(args, dict) else {}
    norm_pix = values.get("norm_pix_loss")
    return None if not isinstance(norm_pix, bool) else NORMALISED if norm_pix else PIXELS


def _not_an_autoencoder(stored: Stored, state: dict[str, Tensor], file: Path) -> str:
    if str(stored.content.get("format", "")).startswith("recon checkpoint"):
        return f"{file} is what a run resumes from; give the run's folder, {file.parent}"
    some = ", ".join(list(state)[:3])
    what = f"its tensors begin with {some}" if some else "it holds no tensors by name"
    return f"{file} is no checkpoint of a masked autoencoder ({what}); give one of the official code, timm or ViTMAE"
