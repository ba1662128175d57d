"""Where the weights of frozen networks come from, VGG19's and LPIPS'; a missing source is never replaced by another."""

import hashlib
import warnings
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from losses import tensor_files
from losses.features.vgg19 import VGG19
from losses.options import LAYERS, TRUNKS, InvalidSetting

if TYPE_CHECKING:
    import lpips

BUNDLED = Path(__file__).parent / "bundled" / "vgg19_rotnet.safetensors"
IMAGENET_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
SMALLEST = {"alex": 31, "squeeze": 17}  # pixels; below, a pooling layer of LPIPS' trunk has nothing to pool


def load_vgg19(net: VGG19, source: str) -> dict[str, str]:
    """Loads weights into `net` and returns a record of where they came from.

    Args:
        source: `imagenet` (torchvision's IMAGENET1K_V1, from the hub cache or downloaded), `bundled` (this
            package's label-free weights), `random` (He initialisation from a fixed seed), or a file's path
            (with torchvision's names; layers after the deepest tap may be missing).

    Returns:
        As of `provenance`; the checksum is over the tensors in use, so it does not depend on the container.

    Raises:
        InvalidSetting: the weights are missing or do not fit; the message says how to get them.
    """
    if source == "random":
        weights = he_initialised(net)
    elif source == "imagenet":
        weights = from_hub(IMAGENET_URL, "VGG19's ImageNet weights", "use the weights bundled or a file")
    elif source == "bundled" and not BUNDLED.is_file():
        raise InvalidSetting(f"the bundled VGG19 weights are missing ({BUNDLED.name}); reinstall this package")
    else:
        path = BUNDLED if source == "bundled" else Path(source)
        if not path.is_file():
            raise InvalidSetting(
                f"no VGG19 weights at {path}: use imagenet, bundled, random, "
                "or a .safetensors or .pth file in torchvision's names"
            )
        weights = tensor_files.tensors(tensor_files.read(path, "VGG19 weights").content)
    if not any(key.startswith("features.") for key in weights):
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
        if weights[key].shape != value.shape:
            raise InvalidSetting(
                f"'{key}' in VGG19 weights '{source}' has shape {tuple(weights[key].shape)}, not {tuple(value.shape)}"
            )
    net.load_state_dict({key: weights[key] for key in wanted})
    return provenance(source, net.state_dict())


def load_lpips(net: str, weights: str | None, setting: str, *, spatial: bool) -> tuple["lpips.LPIPS", dict[str, str]]:
    """LPIPS (Zhang et al. 2018, arXiv 1801.03924, version 0.1), the lpips package's linear layers on torchvision's
    ImageNet trunk, frozen; and the trunk's `provenance`.

    Args:
        net: of `TRUNKS`.
        weights: a file of the trunk (in torchvision's names); None for torchvision's own, cached or downloaded.
        setting: that gives such a file, for messages.
        spatial: a map of distances, upsampled to the image, in place of one number.

    Raises:
        InvalidSetting: there are no such weights; the message says how to get them.
    """
    if net not in TRUNKS:
        raise InvalidSetting(f"unknown LPIPS network '{net}' ({', '.join(TRUNKS)})")
    import lpips  # and with it torchvision, which other objectives need not import

    found = trunk_weights(net, weights, setting, "LPIPS")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():  # random weights, replaced below
        warnings.simplefilter("ignore", UserWarning)  # the package calls torchvision by a deprecated argument
        package = lpips.LPIPS(net=net, pnet_rand=True, spatial=spatial, verbose=False)
    # The package files layer N under slices (slice2.3.weight); torchvision calls it features.3.weight.
    name_of = {key: f"features.{key.split('.', 1)[1]}" for key in package.net.state_dict()}
    for key, value in package.net.state_dict().items():
        if (name := name_of[key]) not in found or found[name].shape != value.shape:
            raise InvalidSetting(
                f"'{weights or TRUNKS[net]}' holds no trunk for LPIPS-{net}: {name} is not there with shape "
                f"{tuple(value.shape)}; take torchvision's {TRUNKS[net].rsplit('/', 1)[1]}"
            )
    package.net.load_state_dict({key: found[name] for key, name in name_of.items()})
    package.requires_grad_(False)
    used = {name: found[name] for name in name_of.values()}
    return package.eval(), provenance(weights or "imagenet", used)


def load_trunk(features: nn.Sequential, net: str, weights: str | None, setting: str, title: str) -> dict[str, str]:
    """Loads the first layers of torchvision's `features` of a trunk; arguments, result and errors as of `load_lpips`.

    Args:
        title: the network's name, for messages.
    """
    found = trunk_weights(net, weights, setting, title)
    wanted = {f"features.{key}": value for key, value in features.state_dict().items()}
    for name, value in wanted.items():
        if name not in found or found[name].shape != value.shape:
            raise InvalidSetting(
                f"'{weights or TRUNKS[net]}' holds no {title}: {name} is not there with shape {tuple(value.shape)}; "
                f"take torchvision's {TRUNKS[net].rsplit('/', 1)[1]}"
            )
    used = {name: found[name] for name in wanted}
    features.load_state_dict({name.removeprefix("features."): value for name, value in used.items()})
    return provenance(weights or "imagenet", used)


def trunk_weights(net: str, weights: str | None, setting: str, title: str) -> dict[str, Tensor]:
    """A trunk's weights in torchvision's names: those of a file, or torchvision's own."""
    if weights is None:
        return from_hub(TRUNKS[net], f"{title} weights", f"set {setting} to a file of its features")
    if not Path(weights).is_file():
        raise InvalidSetting(f"no {title} weights at {weights}; put torchvision's {TRUNKS[net]} there")
    return tensor_files.tensors(tensor_files.read(Path(weights), f"{title} weights").content)


def provenance(source: str, weights: dict[str, Tensor]) -> dict[str, str]:
    """The record of where a network's weights came from.

    Returns:
        {"source", "sha256", "first_layer"}: checksums of the tensors in use, and of the first that has more than one
        dimension: it tells the same network from others also where another number of its layers is in use.
    """
    first = next(value for value in weights.values() if value.ndim > 1)
    return {"source": source, "sha256": checksum(weights), "first_layer": checksum({"": first})}


def same_network(record: dict[str, str], other: dict[str, str]) -> bool:
    """Whether two records of `provenance` are of one network of the same weights; earlier ones have no first_layer."""
    return any(key in record and record[key] == other.get(key) for key in ("sha256", "first_layer"))


def checksum(weights: dict[str, Tensor]) -> str:
    """SHA-256 over names and float32 values, in the order of the names."""
    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(key.encode())
        digest.update(weights[key].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


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
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InvalidSetting(
                f"{what} could not be downloaded ({reason}); put {name} from {url} into {path.parent}, or {otherwise}"
            ) from error
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(prefix):
        raise InvalidSetting(
            f"{path} is damaged (its SHA-256 does not begin with {prefix}); delete it to download it again"
        )
    return tensor_files.tensors(tensor_files.read(path, what).content)


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
