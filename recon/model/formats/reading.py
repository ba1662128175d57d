"""Finds out by its names what a file is, and reads it."""

from pathlib import Path
from typing import Any

from torch import Tensor

from losses import InvalidSetting
from losses.statistics import IMAGENET_MEAN, IMAGENET_STD
from recon.model import SIZES
from recon.model.formats import facts, hugging_face, layout, plain
from recon.model.formats.architecture import NORMALISED, PIXELS, Checkpoint
from recon.model.formats.file import Inert, Stored, load, tensors

RUN, MODEL = "config.yaml", "model.safetensors"
WRAPPERS = ("model", "state_dict")  # under which the official code, and others, put the tensors

Said = dict[str, Any]  # target, mean, std, notes, "architecture": its fields; what is not known is left out or None


def read(path: Path, target: str | None = None) -> Checkpoint:
    """A masked autoencoder's checkpoint; whose it is, is seen in its names.

    Args:
        path: a file of the official code (encoder alone, or with its decoder), of timm, of transformers or of
            recon.convert; or a folder: of transformers or timm with its config.json, or a run of this program.
        target: "pixels" or "normalised", where the file cannot tell what its decoder was trained for.

    Raises:
        InvalidSetting: it is none of these, damaged, incomplete, or of another architecture; or the file says
            another target.
    """
    file = weights_in(path)
    stored = load(file)
    try:
        return _understood(stored, file).for_target(target, path)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        if isinstance(error, InvalidSetting):
            raise
        raise InvalidSetting(f"what stands beside the tensors of {path} is damaged ({error})") from error


def weights_in(path: Path) -> Path:
    """The file of weights that a path means: itself, or the one in the folder."""
    if not path.is_dir():
        return path
    names = (MODEL,) if (path / RUN).is_file() else hugging_face.WEIGHTS
    for name in names:
        if (path / name).is_file():
            return path / name
    if list(path.glob("*.index.json")):
        raise InvalidSetting(f"{path} holds its weights in several files; save them as one, max_shard_size='20GB'")
    raise InvalidSetting(f"{path} holds no checkpoint ({' or '.join(names)})")


def _understood(stored: Stored, file: Path) -> Checkpoint:
    content, wrapped = _unwrapped(stored.content)
    state = tensors(content)
    if hugging_face.is_theirs(state):
        state, form, said = hugging_face.official(state, file), "huggingface", hugging_face.said(file.parent)
    elif "patch_embed.proj.weight" in state:
        form, said = _official_names(stored, state, wrapped, file)
    else:
        raise InvalidSetting(_no_autoencoder(stored, state, file))
    architecture, assumed = layout.architecture_of(state, said.get("architecture", {}), file)
    layout.check(state, architecture, said.get("target"), file)
    has_decoder = architecture.decoder_width is not None
    return Checkpoint(
        state=state,
        format=form,
        has_decoder=has_decoder,
        target=said.get("target") if has_decoder else None,
        architecture=architecture,
        sha256=stored.sha256,
        mean=_three(said.get("mean"), IMAGENET_MEAN),
        std=_three(said.get("std"), IMAGENET_STD),
        notes=(*assumed, *said.get("notes", ())),
    )


def _unwrapped(content: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    for name in WRAPPERS:
        if isinstance(content.get(name), dict):
            return content[name], True
    return content, False


def _official_names(stored: Stored, state: dict[str, Tensor], wrapped: bool, file: Path) -> tuple[str, Said]:
    """Whose a file is that has the official names, and what it tells: many use them."""
    told = stored.metadata.get(facts.KEY) or stored.content.get(facts.KEY)
    if told is not None:
        said = facts.read(told, file)
        return said["format"], said
    if file.name == MODEL and (file.parent / RUN).is_file():
        return "recon", _said_by_run(file.parent / RUN)
    if wrapped or layout.holds_decoder(state):
        return "official", {"target": _target_of(stored.content.get("args"))}
    config = plain.read_json(file.parent / hugging_face.CONFIG).get("pretrained_cfg")
    config = config if isinstance(config, dict) and file.name in hugging_face.WEIGHTS else {}
    return "timm", {"mean": config.get("mean"), "std": config.get("std")}


def _said_by_run(path: Path) -> Said:
    config = plain.read_yaml(path)
    resolved, size = config["resolved"], config["data"]["image_size"]
    drawn = resolved["head"] not in (PIXELS, NORMALISED)
    options = {"name": resolved["head"], **config["losses"][resolved["head"]]} if drawn else None
    return {
        "target": PIXELS if drawn else resolved["head"],
        "mean": resolved["mean"],
        "std": resolved["std"],
        "architecture": {
            "heads": SIZES[config["model"]["name"]]["heads"],
            "image_size": (size, size) if isinstance(size, int) else tuple(size),
            "mask_tokens": config["model"]["mask_tokens"],
            "distribution": options,
        },
    }


def _target_of(args: Any) -> str | None:
    """What the official code's arguments say; a file made for pictures alone has none."""
    values = vars(args) if isinstance(args, Inert) else args if isinstance(args, dict) else {}
    norm_pix = values.get("norm_pix_loss")
    return None if not isinstance(norm_pix, bool) else NORMALISED if norm_pix else PIXELS


def _no_autoencoder(stored: Stored, state: dict[str, Tensor], file: Path) -> str:
    if str(stored.content.get("format", "")).startswith("recon checkpoint"):
        return f"{file} is what a run resumes from; give the run's folder, {file.parent}"
    some = ", ".join(list(state)[:3])
    what = f"its tensors begin with {some}" if some else "it holds no tensors by name"
    return f"{file} is no checkpoint of a masked autoencoder ({what}); give one of the official code, timm or ViTMAE"


def _three(values: Any, default: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(default) if values is None else tuple(float(value) for value in values)
