"""Where VGG19's weights come from; a source that is missing is an error, never replaced by another one."""

import hashlib
from http.client import HTTPException
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from losses.features.vgg19 import LAYERS, VGG19
from losses.options import InvalidSetting

BUNDLED = Path(__file__).parent / "bundled" / "vgg19_rotnet.safetensors"
IMAGENET_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"


def load_vgg19(net: VGG19, source: str) -> dict[str, str]:
    """Loads weights into `net` and returns a record of where they came from.

    Args:
        source: `imagenet` (torchvision's IMAGENET1K_V1, from the hub cache or downloaded), `bundled` (this
            package's label-free weights), `random` (He initialisation from a fixed seed), or a file's path
            (.safetensors or .pth with torchvision's names; layers after the deepest tap may be missing).

    Returns:
        {"source", "sha256"}; the checksum is over the tensors in use, so it does not depend on the container.

    Raises:
        InvalidSetting: the weights are missing or do not fit; the message says how to get them.
    """
    named = {"imagenet": imagenet, "bundled": bundled, "random": lambda: he_initialised(net)}
    weights = named[source]() if source in named else from_file(Path(source))
    if not isinstance(weights, dict) or not any(str(key).startswith("features.") for key in weights):
        raise InvalidSetting(
            f"'{source}' holds no VGG19 in torchvision's names (features.0.weight, features.0.bias, ...)"
        )
    wanted = net.state_dict()
    if any(key not in weights for key in wanted):
        depth = _depth(weights)
        raise InvalidSetting(
            f"VGG19 weights '{source}' end at {depth}, but the taps {', '.join(net.taps)} need more; "
            f"choose taps up to {depth} or take the weights imagenet"
        )
    for key, value in wanted.items():
        shape = tuple(getattr(weights[key], "shape", ()))
        if shape != tuple(value.shape):
            raise InvalidSetting(f"'{key}' in VGG19 weights '{source}' has shape {shape}, not {tuple(value.shape)}")
    net.load_state_dict({key: weights[key] for key in wanted})
    return {"source": source, "sha256": checksum(net.state_dict())}


def checksum(weights: dict[str, Tensor]) -> str:
    """SHA-256 over names and float32 values, in the order of the names."""
    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(key.encode())
        digest.update(weights[key].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def bundled() -> dict[str, Tensor]:
    if not BUNDLED.is_file():
        raise InvalidSetting(
            f"the bundled VGG19 weights are missing from this installation ({BUNDLED.name}); reinstall"
        )
    return load_file(BUNDLED)


def imagenet() -> dict[str, Tensor]:
    return from_hub(IMAGENET_URL, "VGG19's ImageNet weights", "use the weights bundled or a file")


def from_hub(url: str, what: str, otherwise: str) -> dict[str, Tensor]:
    """Torchvision's weights at `url`, from torch hub's cache or downloaded into it; the file's name has the hash.

    Raises:
        InvalidSetting: missing or damaged; the message calls them `what` and ends with the alternative, `otherwise`.
    """
    name = url.rsplit("/", 1)[1]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    prefix = name.removesuffix(".pth").rsplit("-", 1)[1]
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Written to a temporary name, checked against the hash in the file's name, then renamed.
            torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix, progress=True)
        except (OSError, RuntimeError, HTTPException) as error:
            raise InvalidSetting(
                f"{what} could not be downloaded ({_first_line(error)}); "
                f"put {name} from {url} into {path.parent}, or {otherwise}"
            ) from error
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(prefix):
        raise InvalidSetting(
            f"{path} is damaged (its SHA-256 does not begin with {prefix}); delete it to download it again"
        )
    return torch.load(path, map_location="cpu", weights_only=True)


def from_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InvalidSetting(
            f"no VGG19 weights at {path}: use imagenet, bundled, random, "
            "or a .safetensors or .pth file in torchvision's names"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise InvalidSetting(f"cannot read VGG19 weights from {path}: {_first_line(error)}") from error
    except Exception as error:  # torch.load raises pickle's own errors, whose only common base this is
        raise InvalidSetting(f"{path} is not a file of weights alone: {_first_line(error)}") from error


def he_initialised(net: VGG19) -> dict[str, Tensor]:
    """He et al. 2015 (arXiv 1502.01852), biases zero, always from seed 0, so that all random critics are the same."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for key, value in net.state_dict().items():
        weights[key] = torch.zeros_like(value)
        if key.endswith("weight"):
            nn.init.kaiming_normal_(weights[key], nonlinearity="relu", generator=generator)
    return weights


def _depth(weights: dict[str, Tensor]) -> str:
    """The deepest layer up to which weights with torchvision's names have every convolution."""
    deepest = "no layer"
    for index, (name, _) in enumerate(LAYERS):
        if name.startswith("preact"):
            if f"features.{index}.weight" not in weights or f"features.{index}.bias" not in weights:
                return deepest
            deepest = LAYERS[index + 1][0]
    return deepest


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
