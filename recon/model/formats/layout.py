"""Finds a model's sizes from its tensors, and checks that the tensors are those of these sizes."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from losses import InvalidSetting
from recon.model import DECODER_HEAD_WIDTH, SIZES
from recon.model.formats.architecture import NORM_EPS, NORMALISED, Architecture
from recon.model.layers import sincos_positions

HEAD_WIDTH = 64  # of every ViT of the paper but the huge one


def holds_decoder(names: Iterable[str]) -> bool:
    """Whether there are tensors of a decoder among the names."""
    return any(name.startswith("decoder_") or name == "mask_token" for name in names)


def architecture_of(state: dict[str, Tensor], known: dict[str, Any], where: Path) -> tuple[Architecture, list[str]]:
    """Sizes by the shapes of a state under official names, and what had to be assumed.

    Args:
        known: fields of `Architecture` that are known from elsewhere; None: not known.

    Raises:
        InvalidSetting: there is no such model, or its sizes cannot be found out.
        TypeError or ValueError: a known field is of another type.
    """
    known = {name: value for name, value in known.items() if value is not None}
    kernel, positions = _shape(state, "patch_embed.proj.weight", where), _shape(state, "pos_embed", where)
    if len(kernel) != 4 or kernel[1] != 3 or kernel[2] != kernel[3] or len(positions) != 3:
        raise InvalidSetting(
            f"{where}: patch_embed.proj.weight {kernel}, pos_embed {positions} are not those of square patches of RGB"
        )
    width, patch_size, notes = kernel[0], kernel[2], []
    if isinstance(size := known.get("image_size"), list | tuple):
        height, breadth = map(int, size)
        known["image_size"] = height, breadth
    elif size is not None:
        known["image_size"] = int(size), int(size)
    depth = _block_count(state, "blocks.", where)
    sizes: dict[str, Any] = {
        "width": width,
        "depth": depth,
        "patch_size": patch_size,
        "heads": int(known.get("heads") or _head_count(width, depth, where, notes)),
        "image_size": known.get("image_size") or _square(positions[1] - 1, patch_size, where),
        "class_tokens": _shape(state, "cls_token", where)[1],
        "mask_tokens": known.get("mask_tokens", "decoder"),
        "norm_eps": float(known.get("norm_eps", NORM_EPS)),
    }
    if holds_decoder(state):
        own = _shape(state, "decoder_embed.weight", where)[0]
        heads = known.get("decoder_heads")
        if heads is None:
            heads = max(1, own // DECODER_HEAD_WIDTH)
            if not _size_of_paper(width, depth):
                notes.append(f"{heads} heads in the decoder, {own // heads} wide, are assumed")
        if (refiner := state.get("refiner.inputs.weight")) is not None:
            sizes["refiner_width"] = refiner.shape[0]
        depth = _block_count(state, "decoder_blocks.", where)
        sizes |= {"decoder_width": own, "decoder_depth": depth, "decoder_heads": int(heads)}
        sizes["distribution"] = known.get("distribution")
    for name, value in known.items():
        if sizes.get(name, value) != value:
            raise InvalidSetting(f"{where}: {name} is {sizes[name]} by its tensors, {value} by what stands beside them")
    a = Architecture(**sizes)
    if a.grid[0] * a.grid[1] != positions[1] - 1 or min(a.grid) < 1:
        raise InvalidSetting(
            f"{where}: pos_embed is {positions}, not of images of {a.image_size} in patches of {patch_size}"
        )
    if not 0 < a.norm_eps < 1:
        raise InvalidSetting(f"{where}: a norm's epsilon is not {a.norm_eps}; fetch what stands beside it again")
    if a.mask_tokens not in ("decoder", "encoder"):
        raise InvalidSetting(f"{where}: mask_tokens is not {a.mask_tokens!r}; fetch what stands beside it again")
    for width, heads in ((a.width, a.heads), (a.decoder_width, a.decoder_heads)):
        if width is None or heads is None:
            continue
        if width % 4:
            raise InvalidSetting(
                f"{where}: a width of {width} has no sine-cosine positions; give a masked autoencoder's"
            )
        if heads < 1 or width % heads:
            raise InvalidSetting(f"{where}: {heads} heads do not divide a width of {width}")
    return a, notes


def check(state: dict[str, Tensor], a: Architecture, target: str | None, where: Path, fixed_positions: bool) -> None:
    """Raises InvalidSetting where tensors are missing, unknown, of another shape, or have other positions."""
    statistics = any(name.startswith("statistics.") for name in state) and target in (None, NORMALISED)
    expected = a.shapes(statistics and a.decoder_width is not None)
    if missing := [name for name in expected if name not in state]:
        raise InvalidSetting(f"{where} lacks {_some(missing)}; it is no whole masked autoencoder, fetch it again")
    if unknown := [name for name in state if name not in expected]:
        raise InvalidSetting(
            f"{where} holds {_some(unknown)}, which no masked autoencoder has; give the pretrained model, "
            "not a classifier or another architecture"
        )
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise InvalidSetting(f"{where}: {name} is {tuple(state[name].shape)}, not {shape}; fetch it again")
        if not state[name].is_floating_point():
            raise InvalidSetting(f"{where}: {name} holds {state[name].dtype}; only floating point can be read")
    for name, width in (("pos_embed", a.width), ("decoder_pos_embed", a.decoder_width)):
        if width and fixed_positions:
            off = (state[name].float() - sincos_positions(width, a.grid)).abs().max().item()
            if not off <= max(1e-6, torch.finfo(state[name].dtype).eps):
                raise InvalidSetting(
                    f"{where}: {name} is not the fixed sine-cosine of masked autoencoders (off by {off:.2g}); "
                    "a model with learnt or interpolated positions cannot be read"
                )


def _shape(state: dict[str, Tensor], name: str, where: Path) -> tuple[int, ...]:
    if name not in state:
        raise InvalidSetting(f"{where} lacks {name}; it is no whole masked autoencoder, fetch it again")
    return tuple(state[name].shape)


def _block_count(state: dict[str, Tensor], prefix: str, where: Path) -> int:
    """The highest block number plus one; `check` finds a gap by the missing tensors."""
    numbers = [name[len(prefix) :].partition(".")[0] for name in state if name.startswith(prefix)]
    count = max((int(number) + 1 for number in numbers if number.isascii() and number.isdigit()), default=0)
    if count > len(state):  # `check` would build them all
        raise InvalidSetting(f"{where} lacks most of its {count} {prefix.rstrip('.')}; fetch it again")
    return count


def _head_count(width: int, depth: int, where: Path, notes: list[str]) -> int:
    if size := _size_of_paper(width, depth):
        return size["heads"]
    if width % HEAD_WIDTH:
        raise InvalidSetting(
            f"{where}: how many heads a width of {width} has cannot be seen; put transformers' config.json beside it"
        )
    notes.append(f"{width // HEAD_WIDTH} heads, {HEAD_WIDTH} wide, are assumed")
    return width // HEAD_WIDTH


def _size_of_paper(width: int, depth: int) -> dict[str, int] | None:
    return next((size for size in SIZES.values() if (size["width"], size["depth"]) == (width, depth)), None)


def _square(patches: int, patch_size: int, where: Path) -> tuple[int, int]:
    side = math.isqrt(max(patches, 0))
    if side < 1 or side**2 != patches:
        raise InvalidSetting(
            f"{where}: {patches} patches are no square, and nothing beside them tells the image's size"
        )
    return side * patch_size, side * patch_size


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
