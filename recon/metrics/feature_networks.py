"""Features of whole images by a frozen network of choice: what the metrics of sets of images compare."""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses import InvalidSetting, tensor_files
from losses.features.vgg19 import VGG19
from losses.features.weights import SMALLEST, load_trunk, load_vgg19, provenance
from losses.options import TIMM, nearest
from losses.reconstruction import IMAGENET_MEAN, IMAGENET_STD
from recon.metrics.base import Images, Undefined, map_in_chunks

# The last layer in use of torchvision's `features`, and the network's name for LPIPS' trunks.
TRUNK_LAYERS = {"alexnet": ("alex", "AlexNet", 11), "squeezenet": ("squeeze", "SqueezeNet", 12)}
LARGEST_INPUT = 224  # pixels; DINOv2 in timm asks for 518, FD-DINOv2 (Stein et al. 2023) is computed at 224


class FeatureNetwork(nn.Module):
    """Base of all: images (B, 3, H, W) in [0, 1] -> (B, D) in the network's precision.

    Its parameters never require a gradient, and `train()` leaves it in evaluation.

    Attributes:
        title: the network's name in tables.
        provenance: where its weights came from, `losses.features.weights.provenance`.

    Raises:
        InvalidSetting: (where it is made) its weights are not to be had.
        Undefined: (where it is called) the images are smaller than its poolings need.
    """

    title: str
    provenance: dict[str, str]

    def train(self, mode: bool = True) -> "FeatureNetwork":
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        return map_in_chunks(self.features, images.to(next(self.parameters()).dtype))

    def of(self, images: Images) -> Tensor:
        """As `forward`, computed once for the same images."""
        if self not in images.kept:
            images.kept[self] = self(images.pixels)
        return images.kept[self]

    def features(self, images: Tensor) -> Tensor:
        raise NotImplementedError


class VGG19Features(FeatureNetwork):
    """One VGG19 tap's outputs, mean over positions. `source` as of `load_vgg19`."""

    title = "VGG19"

    def __init__(self, source: str = "bundled", tap: str = "conv3_1"):
        super().__init__()
        self.net = VGG19([tap]).to(memory_format=torch.channels_last)
        self.provenance, self.source = load_vgg19(self.net, source), source

    def of(self, images: Images) -> Tensor:
        """As `forward`; found by `FeatureDistance` where that has the same weights and tap."""
        found = images.kept.get((VGG19, self.source, *self.net.taps))
        return super().of(images) if found is None else found

    def features(self, images: Tensor) -> Tensor:
        _refuse_below(self.net.strides[0], images)
        return self.net(images)[0].mean((2, 3))


class TrunkFeatures(FeatureNetwork):
    """The last convolution of torchvision's AlexNet (256) or SqueezeNet 1.1 (512), after its ReLU, mean over positions.

    Args:
        name: a key of `TRUNK_LAYERS`.
        weights: a file in torchvision's names; None: ImageNet's, from torch hub's cache or downloaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, weights: str | None = None):
        super().__init__()
        import torchvision

        self.trunk, self.title, last = TRUNK_LAYERS[name]
        builder = {"alex": torchvision.models.alexnet, "squeeze": torchvision.models.squeezenet1_1}[self.trunk]
        with torch.random.fork_rng(devices=[]):  # random weights, replaced below
            self.net = builder(weights=None).features[: last + 1]
        self.provenance = load_trunk(self.net, self.trunk, weights, "features.weights", self.title)
        self.requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        _refuse_below(SMALLEST[self.trunk], images)
        return self.net((images - self.mean) / self.std).mean((2, 3))


class TimmFeatures(FeatureNetwork):
    """The features in front of the classifier of a timm model: of a ViT its class token or mean, as the model pools.

    Images are resized (bicubic, with antialiasing) to the model's own size or, where that is larger, to 224 pixels.

    Args:
        name: timm's, such as vit_small_patch14_dinov2.lvd142m.
        weights: a file of them, timm's or the original code's where timm converts it; None: timm downloads its own.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, weights: str | None = None):
        super().__init__()
        import timm
        from timm.data import resolve_model_data_config

        self.title = name
        if not timm.is_model(name):
            raise InvalidSetting(f"features.network={TIMM}{name}: no model of timm{nearest(name, timm.list_models())}")
        try:
            asked = timm.get_pretrained_cfg(name)
            side = min(asked.input_size[-1], LARGEST_INPUT) if asked else LARGEST_INPUT
            options: dict[str, Any] = {"img_size": side} if asked and asked.fixed_input_size else {}
            with torch.random.fork_rng(devices=[]):
                self.net = timm.create_model(name, pretrained=weights is None, num_classes=0, **options)
        except Exception as error:  # an unknown tag, or whatever the libraries of a download raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InvalidSetting(
                f"the weights of {TIMM}{name} could not be loaded ({reason}); give their file: features.weights=FILE"
            ) from error
        if weights is not None:
            _load_timm(self.net, name, weights)
        self.provenance = provenance(weights or name, self.net.state_dict())
        self.requires_grad_(False).eval()
        self.side = side
        data = resolve_model_data_config(self.net)
        self.register_buffer("mean", torch.tensor(data["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(data["std"]).view(3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        size = (self.side, self.side)
        if images.shape[2:] != size:
            images = F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
        return self.net((images - self.mean) / self.std)


def _load_timm(net: nn.Module, name: str, weights: str) -> None:
    """Loads a file into a timm model, by timm's own conversion of other codes' names and sizes."""
    if not (path := Path(weights)).is_file():
        raise InvalidSetting(f"no weights of {name} at features.weights={weights}")
    found = tensor_files.tensors(tensor_files.read(path, f"weights of {name}").content)
    convert = getattr(importlib.import_module(type(net).__module__), "checkpoint_filter_fn", lambda state, net: state)
    try:
        missing = net.load_state_dict(convert(dict(found), net), strict=False).missing_keys
    except Exception as error:  # other shapes, or what the conversion of timm does not expect
        raise InvalidSetting(
            f"features.weights={weights} does not fit {name}: {' '.join(str(error).split())}"
        ) from error
    if missing:
        raise InvalidSetting(f"features.weights={weights} is no file of {name}: {missing[0]} is not in it")


def _refuse_below(smallest: int, images: Tensor) -> None:
    if min(images.shape[2:]) < smallest:
        raise Undefined(f"images below {smallest} pixels")


def load_features(network: str, weights: str | None, tap: str) -> FeatureNetwork:
    """The network that the settings `features.<option>` choose, on the CPU.

    Raises:
        InvalidSetting: its weights are not to be had, or do not fit it.
    """
    if network == "vgg19":
        return VGG19Features(weights or "bundled", tap)
    if network.startswith(TIMM):
        return TimmFeatures(network.removeprefix(TIMM), weights)
    return TrunkFeatures(network, weights)


def title_of(network: str) -> str:
    """A network's name in tables, known without its weights."""
    named = {"vgg19": VGG19Features.title} | {name: title for name, (_, title, _) in TRUNK_LAYERS.items()}
    return named.get(network, network.removeprefix(TIMM))
