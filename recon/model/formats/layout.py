"""Sizes from tensors, and whether the tensors are those of these sizes."""

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from losses import InvalidSetting
from recon.model import DECODER_HEAD_WIDTH, SIZES
from recon.model.distributions import layers_for
from recon.model.formats.architecture import NORM_EPS, NORMALISED, Architecture, distribution_head
from recon.model.layers import Refiner, sincos_positions

HEAD_WIDTH = 64  # of every ViT of the paper but the huge one
Shape = tuple[int, ...]


def holds_decoder(names: Iterable[str]) -> bool:
    return any(name.startswith("decoder_") or name == "mask_token" for name in names)


def architecture_of(state: dict[str, Tensor], said: dict, where: Path) -> tuple[Architecture, list[str]]:
    """Sizes by the shapes of a state under official names, and what had to be assumed.

    Args:
        said: fields of `Architecture` that something beside the tensors tells; None: it does not.

    Raises:
        InvalidSetting: there is no such model, or what is not said cannot be known.
    """
    said = {name: value for name, value in said.items() if value is not None}
    kernel = _shape(state, "patch_embed.proj.weight", where)
    positions = _shape(state, "pos_embed", where)
    if len(kernel) != 4 or kernel[1] != 3 or kernel[2] != kernel[3] or len(positions) != 3:
        raise InvalidSetting(
            f"{where}: patch_embed.proj.weight {kernel}, pos_embed {positions} are not those of square patches of RGB"
        )
    width, p, notes = kernel[0], kernel[2], []
    depth = _blocks(state, "blocks.")
    if width % 4:
        raise InvalidSetting(f"{where}: a width of {width} has no sine-cosine positions; give a masked autoencoder's")
    sizes = {
        "width": width,
        "depth": depth,
        "patch_size": p,
        "heads": said.get("heads") or _heads(width, depth, where, notes),
        "image_size": tuple(said.get("image_size") or _square(positions[1] - 1, p, where)),
        "mask_tokens": said.get("mask_tokens", "decoder"),
        "norm_eps": float(said.get("norm_eps", NORM_EPS)),
        "distribution": said.get("distribution"),
    }
    if holds_decoder(state):
        own = _shape(state, "decoder_embed.weight", where)[0]
        heads = said.get("decoder_heads")
        if heads is None:
            heads = max(1, own // DECODER_HEAD_WIDTH)
            if not _known(width, depth):
                notes.append(f"{heads} heads in the decoder, {own // heads} wide, are assumed")
        if (refiner := state.get("refiner.inputs.weight")) is not None:
            sizes["refiner_width"] = refiner.shape[0]
        sizes |= {"decoder_width": own, "decoder_depth": _blocks(state, "decoder_blocks."), "decoder_heads": heads}
    for name, value in said.items():
        if sizes.get(name, value) != value:
            raise InvalidSetting(f"{where}: {name} is {sizes[name]} by its tensors, {value} by what stands beside them")
    if not 0 < sizes["norm_eps"] < 1:
        raise InvalidSetting(f"{where}: a norm's epsilon is not {sizes['norm_eps']}; fetch what stands beside it again")
    for heads, of in (("heads", "width"), ("decoder_heads", "decoder_width")):
        if sizes.get(of) and (sizes[heads] < 1 or sizes[of] % sizes[heads]):
            raise InvalidSetting(f"{where}: {sizes[heads]} heads do not divide a width of {sizes[of]}")
    return Architecture(**sizes), notes


def check(state: dict[str, Tensor], a: Architecture, target: str | None, where: Path) -> None:
    """Raises InvalidSetting where tensors are missing, unknown, of another shape, or have other positions."""
    expected = shapes(a)
    if any(name.startswith("statistics.") for name in state) and target in (None, NORMALISED) and a.decoder_width:
        expected |= _statistics(a.decoder_width)
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
        if width:
            _check_positions(name, state[name], sincos_positions(width, a.grid), where)


def shapes(a: Architecture) -> dict[str, Shape]:
    """Every tensor that a model of these sizes has, by its official name."""
    n, p = a.grid[0] * a.grid[1], a.patch_size
    found = {
        "cls_token": (1, 1, a.width),
        "pos_embed": (1, 1 + n, a.width),
        **_linear("patch_embed.proj", (a.width, 3, p, p)),
        **_stack("blocks", a.depth, a.width),
        **_linear("norm", (a.width,)),
    }
    if a.decoder_width is None:
        return found
    d = a.decoder_width
    with torch.device("meta"):  # shapes alone; no generator moves
        beside = {
            "refiner": Refiner(a.refiner_width, a.image_size) if a.refiner_width else None,
            "distribution": layers_for(distribution_head(a.distribution), d, p, a.image_size, (1.0, 1.0, 1.0))
            if a.distribution
            else None,
        }
    for part, module in beside.items():
        if module is not None:
            found |= {f"{part}.{name}": tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    return found | {
        "mask_token": (1, 1, d if a.mask_tokens == "decoder" else a.width),
        "decoder_pos_embed": (1, 1 + n, d),
        **_linear("decoder_embed", (d, a.width)),
        **_stack("decoder_blocks", a.decoder_depth, d),
        **_linear("decoder_norm", (d,)),
        **_linear("decoder_pred", (3 * p * p, d)),
    }


def _linear(name: str, weight: Shape) -> dict[str, Shape]:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def _stack(name: str, depth: int, w: int) -> dict[str, Shape]:
    parts = {"norm1": (w,), "attn.qkv": (3 * w, w), "attn.proj": (w, w), "norm2": (w,)}
    parts |= {"mlp.fc1": (4 * w, w), "mlp.fc2": (w, 4 * w)}
    return {k: v for i in range(depth) for part in parts for k, v in _linear(f"{name}.{i}.{part}", parts[part]).items()}


def _statistics(d: int) -> dict[str, Shape]:
    return _linear("statistics.0", (d, d)) | _linear("statistics.2", (2, d))


def _shape(state: dict[str, Tensor], name: str, where: Path) -> Shape:
    if name not in state:
        raise InvalidSetting(f"{where} lacks {name}; it is no whole masked autoencoder, fetch it again")
    return tuple(state[name].shape)


def _blocks(state: dict[str, Tensor], prefix: str) -> int:
    """How many there are by the highest number; a gap is found with the missing tensors."""
    numbers = [name[len(prefix) :].partition(".")[0] for name in state if name.startswith(prefix)]
    return max((int(number) + 1 for number in numbers if number.isascii() and number.isdigit()), default=0)


def _heads(width: int, depth: int, where: Path, notes: list[str]) -> int:
    if size := _known(width, depth):
        return size["heads"]
    if width % HEAD_WIDTH:
        raise InvalidSetting(
            f"{where}: how many heads a width of {width} has cannot be seen; put transformers' config.json beside it"
        )
    notes.append(f"{width // HEAD_WIDTH} heads, {HEAD_WIDTH} wide, are assumed")
    return width // HEAD_WIDTH


def _known(width: int, depth: int) -> dict[str, int] | None:
    return next((size for size in SIZES.values() if (size["width"], size["depth"]) == (width, depth)), None)


def _square(patches: int, p: int, where: Path) -> tuple[int, int]:
    side = math.isqrt(max(patches, 0))
    if side < 1 or side**2 != patches:
        raise InvalidSetting(
            f"{where}: {patches} patches are no square, and nothing beside them tells the image's size"
        )
    return side * p, side * p


def _check_positions(name: str, found: Tensor, ours: Tensor, where: Path) -> None:
    off = (found.float() - ours).abs().max().item()
    if not off <= max(1e-6, torch.finfo(found.dtype).eps):
        raise InvalidSetting(
            f"{where}: {name} is not the fixed sine-cosine of masked autoencoders (off by {off:.2g}); "
            "a model with learnt or interpolated positions cannot be read"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
