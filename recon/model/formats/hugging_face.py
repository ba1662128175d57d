"""transformers' ViTMAE: the names of its tensors, on the hub and in memory, and its config.json."""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from losses import InvalidSetting
from recon.model.formats.architecture import NORM_EPS, NORMALISED, PIXELS, Checkpoint

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
DIGEST = "configs"  # in the metadata of the weights: of the two, where this program wrote them

# official -> theirs; a name on the hub first, then other spellings.
NAMES = {
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "norm": "vit.layernorm",
    "mask_token": "decoder.mask_token",
    "decoder_pos_embed": "decoder.decoder_pos_embed",
    "decoder_embed": "decoder.decoder_embed",
    "decoder_norm": "decoder.decoder_norm",
    "decoder_pred": "decoder.decoder_pred",
}
# theirs -> official, in every spelling, the hub's last: transformers 5 calls the layers otherwise in memory, and saves
# its decoder as `decoder_encoder.layer`. Of query, key and value the number.
STACKS = {
    "vit.layers": "blocks",
    "vit.encoder.layer": "blocks",
    "decoder.decoder_encoder.layer": "decoder_blocks",
    "decoder.decoder_layers": "decoder_blocks",
}
PARTS = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.o_proj": "attn.proj",
    "attention.output.dense": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "intermediate.dense": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "output.dense": "mlp.fc2",
}
THIRDS = {
    **{f"attention.{letter}_proj": i for i, letter in enumerate("qkv")},
    **{f"attention.attention.{word}": i for i, word in enumerate(("query", "key", "value"))},
}
LAYER = re.compile(rf"({'|'.join(map(re.escape, STACKS))})\.(\d+)\.(.+)")
# official -> the hub's.
THEIR_STACKS, THEIR_PARTS, THEIR_THIRDS = (
    {ours: theirs for theirs, ours in t.items()} for t in (STACKS, PARTS, THIRDS)
)


def has_their_names(names: Iterable[str]) -> bool:
    """Whether tensors have the names of ViTMAE."""
    return any(name in ("vit.embeddings.cls_token", "embeddings.cls_token") for name in names)


def to_official(state: dict[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Their tensors under the official names, query, key and value joined. Unknown names stay as they are.

    Raises:
        InvalidSetting: a query, key or value is missing, or they differ in shape.
    """
    if "embeddings.cls_token" in state:  # of ViTMAEModel, which is `vit` in ViTMAEForPreTraining
        state = {f"vit.{name}": value for name, value in state.items()}
    ours = {theirs: ours for ours, theirs in NAMES.items()}
    found: dict[str, Tensor] = {}
    thirds: dict[str, dict[int, Tensor]] = {}
    for name, value in state.items():
        stem, _, kind = name.rpartition(".")
        layer = LAYER.fullmatch(stem)
        block = f"{STACKS[layer[1]]}.{layer[2]}" if layer else ""
        if name in ours:
            found[ours[name]] = value
        elif stem in ours:
            found[f"{ours[stem]}.{kind}"] = value
        elif layer and layer[3] in PARTS:
            found[f"{block}.{PARTS[layer[3]]}.{kind}"] = value
        elif layer and layer[3] in THIRDS:
            thirds.setdefault(f"{block}.attn.qkv.{kind}", {})[THIRDS[layer[3]]] = value
        else:
            found[name] = value
    for name, values in thirds.items():
        if len(values) < 3 or len({(v.dtype, v.shape) for v in values.values()}) > 1:
            raise InvalidSetting(
                f"{where}: query, key and value of {name} are not all there in one shape; fetch it again"
            )
        found[name] = torch.cat([values[i] for i in range(3)])
    return found


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official tensors under the names of the files on the hub, which transformers of all versions reads."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        stem, _, kind = name.rpartition(".")
        if name in NAMES or stem in NAMES:
            found[NAMES.get(name) or f"{NAMES[stem]}.{kind}"] = value
            continue
        stack, number, part = stem.split(".", 2)
        layer = f"{THEIR_STACKS[stack]}.{number}"
        if part == "attn.qkv":
            for i, piece in enumerate(value.chunk(3)):
                found[f"{layer}.{THEIR_THIRDS[i]}.{kind}"] = piece.contiguous()
        else:
            found[f"{layer}.{THEIR_PARTS[part]}.{kind}"] = value
    return found


def facts_of(config: dict[str, Any], images: dict[str, Any], folder: Path) -> dict[str, Any]:
    """target, mean, std, notes and fields of `Architecture` from config.json and preprocessor_config.json in `folder`.

    Raises:
        InvalidSetting: they are of another model, or of a variant that this program does not compute.
    """
    if config.get("model_type", "vit_mae") != "vit_mae":
        raise InvalidSetting(f"{folder / CONFIG} is of a {config['model_type']}; give a ViTMAE (vit_mae)")
    for key, value in {"hidden_act": "gelu", "qkv_bias": True, "num_channels": 3}.items():
        if config.get(key, value) != value:
            raise InvalidSetting(f"{folder / CONFIG} has {key}={config[key]}; only {value} can be read")
    notes = []
    if config.get("layer_norm_eps", NORM_EPS) != NORM_EPS:
        notes.append(f"layer_norm_eps={config['layer_norm_eps']} as {CONFIG} has it; the official code has {NORM_EPS}")
    norm_pix = config.get("norm_pix_loss")
    return {
        "target": None if norm_pix is None else NORMALISED if norm_pix else PIXELS,
        "mean": images.get("image_mean"),
        "std": images.get("image_std"),
        "notes": notes,
        "mask_ratio": config.get("mask_ratio"),
        "architecture": {
            "heads": config.get("num_attention_heads"),
            "decoder_heads": config.get("decoder_num_attention_heads"),
            "norm_eps": config.get("layer_norm_eps"),
            "image_size": config.get("image_size"),
        },
    }


def digest(config: dict[str, Any], images: dict[str, Any]) -> str:
    """SHA-256 of what config.json and preprocessor_config.json say."""
    return hashlib.sha256(json.dumps([config, images], sort_keys=True).encode()).hexdigest()


def configs(c: Checkpoint) -> dict[str, dict[str, Any]]:
    """config.json and preprocessor_config.json, by name."""
    a = c.architecture
    height, width = a.image_size
    decoder = {
        "decoder_hidden_size": a.decoder_width,
        "decoder_intermediate_size": 4 * (a.decoder_width or 0),
        "decoder_num_attention_heads": a.decoder_heads,
        "decoder_num_hidden_layers": a.decoder_depth,
    }
    config = {
        "architectures": ["ViTMAEForPreTraining" if c.has_decoder else "ViTMAEModel"],
        "model_type": "vit_mae",
        "hidden_size": a.width,
        "intermediate_size": 4 * a.width,
        "num_attention_heads": a.heads,
        "num_hidden_layers": a.depth,
        "image_size": height if height == width else [height, width],
        "patch_size": a.patch_size,
        "layer_norm_eps": a.norm_eps,
        "qkv_bias": True,
        **(decoder if c.has_decoder else {}),
        # Left out where it is not known: transformers then assumes raw pixels, and we read "not known" back.
        **({} if c.target is None else {"norm_pix_loss": c.target == NORMALISED}),
        **({} if c.mask_ratio is None else {"mask_ratio": c.mask_ratio}),
    }
    images = {
        "image_processor_type": "ViTImageProcessor",
        "image_mean": list(c.mean),
        "image_std": list(c.std),
        "size": {"height": height, "width": width},
    }
    return {CONFIG: config, PREPROCESSOR: images}
