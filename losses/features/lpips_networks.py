"""LPIPS' networks: the lpips package's linear layers on torchvision's ImageNet trunks, and where they come from."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from losses.features.names import TRUNKS
from losses.features.weights import checksum, from_file, from_hub
from losses.options import InvalidSetting

if TYPE_CHECKING:
    import lpips

SMALLEST = {"alex": 31, "squeeze": 17}  # pixels; below, a pooling layer has nothing to pool


def load_lpips(net: str, weights: str | None, setting: str, *, spatial: bool) -> tuple["lpips.LPIPS", dict[str, str]]:
    """LPIPS (Zhang et al. 2018, arXiv 1801.03924, version 0.1), frozen; and where its trunk came from.

    Args:
        net: of `TRUNKS`.
        weights: a file of the trunk (.safetensors or .pth in torchvision's names); None for torchvision's own from
            the hub cache, downloaded if it is not there.
        setting: that gives such a file, for messages.
        spatial: a map of distances, upsampled to the image, in place of one number.

    Raises:
        InvalidSetting: there are no such weights; the message says how to get them.
    """
    if net not in TRUNKS:
        raise InvalidSetting(f"unknown LPIPS network '{net}' ({', '.join(TRUNKS)})")
    import lpips  # and with it torchvision, which other objectives need not import

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():  # random weights, replaced below
        warnings.simplefilter("ignore", UserWarning)  # the package calls torchvision by a deprecated argument
        package = lpips.LPIPS(net=net, pnet_rand=True, spatial=spatial, verbose=False)
    source = load_trunk(package.net, net, weights, setting)
    package.requires_grad_(False)
    return package.eval(), source


def load_trunk(trunk: nn.Module, net: str, weights: str | None, setting: str = "lpips.weights") -> dict[str, str]:
    """Fills LPIPS' trunk from a file or from torchvision's; {"source", "sha256"}, the checksum over tensors in use.

    Raises:
        InvalidSetting: there are no such weights; the message says how to get them.
    """
    if weights is None:
        found = from_hub(TRUNKS[net], "LPIPS weights", f"set {setting} to a file of its features")
    else:
        found = _from_file(net, Path(weights))
    # The package files layer N under slices (slice2.3.weight); torchvision calls it features.3.weight.
    name_of = {key: f"features.{key.split('.', 1)[1]}" for key in trunk.state_dict()}
    for key, value in trunk.state_dict().items():
        shape = tuple(getattr(found.get(name_of[key]), "shape", ())) if isinstance(found, dict) else ()
        if shape != tuple(value.shape):
            raise InvalidSetting(
                f"'{weights or TRUNKS[net]}' holds no trunk for LPIPS-{net}: {name_of[key]} is not there with shape "
                f"{tuple(value.shape)}; take torchvision's {_file_name(net)}"
            )
    trunk.load_state_dict({key: found[name] for key, name in name_of.items()})
    return {"source": weights or "imagenet", "sha256": checksum({name: found[name] for name in name_of.values()})}


def _from_file(net: str, path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InvalidSetting(f"no LPIPS weights at {path}; put torchvision's {TRUNKS[net]} there")
    try:
        return from_file(path)
    except InvalidSetting as error:
        raise InvalidSetting(f"cannot read LPIPS weights from {path}: {_reason(error.__cause__)}") from error


def _file_name(net: str) -> str:
    return TRUNKS[net].rsplit("/", 1)[1]


def _reason(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
