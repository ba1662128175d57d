"""The settings of every term, the names of networks and layers in them, and how a setting is declared and checked.

This module imports no torch, so that help and errors are immediate. The terms themselves are in `losses.build.TERMS`.
"""

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any

MAX_SIDE = 2**15  # pixels of an image's side


class InvalidSetting(ValueError):
    """A setting that cannot be used; the message is one line that names it and the remedy."""


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for the known name closest to `name`, or "" where none is close."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def chosen(key: str, value: str, known: Iterable[str]) -> None:
    """Raises InvalidSetting if the value of the setting `key` is not one of the known ones."""
    if value not in (known := list(known)):
        raise InvalidSetting(f"{key}={value}: choose {' or '.join(known)}{nearest(str(value), known)}")


def option(default: Any, doc: str, choices: Iterable[str] = (), **limits: Any) -> Any:
    """A dataclass field with its documentation, shown by `--help`, and what `check_limits` allows.

    Args:
        choices: the words that it may be; none: any.
        limits: `least`, `most` (included), `above`, `below` (excluded) of a number, or of every number of a list. A
            number with limits is finite. Null is always allowed.
    """
    metadata = {"doc": doc, "limits": limits, "choices": tuple(choices)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


LIMITS = {
    "above": ("above", operator.gt),
    "least": ("at least", operator.ge),
    "below": ("below", operator.lt),
    "most": ("at most", operator.le),
}


def check_limits(options: Any, prefix: str = "") -> None:
    """Checks a dataclass of `option`s, and those within it, against what they allow; settings are `prefix` + name.

    Raises:
        InvalidSetting: a number out of its limits, a value with limits that is no number, or a word that is no choice.
    """
    for f in fields(options):
        limits, value = f.metadata.get("limits"), getattr(options, f.name)
        if is_dataclass(value):
            check_limits(value, f"{prefix}{f.name}.")
        elif (choices := f.metadata.get("choices")) and value is not None:
            chosen(prefix + f.name, value, choices)
        for number in value if isinstance(value, list | tuple) else [value]:
            if not limits or number is None:
                continue
            n = number if isinstance(number, int | float) and not isinstance(number, bool) else math.nan
            if not abs(n) < math.inf or not all(LIMITS[name][1](n, limit) for name, limit in limits.items()):
                wanted = " and ".join(f"{LIMITS[name][0]} {limit}" for name, limit in limits.items())
                raise InvalidSetting(f"{prefix}{f.name}={value} must be {wanted}")


@dataclass
class TermOptions:
    """Base of the settings `losses.<term>.<option>`, which are its annotated fields; it has none itself.

    `default_weight` is that of a bare name in an expression; with `default_is_share` it is a percentage of the gradient
    norm of the plainly weighted terms.
    """

    default_weight = 1.0  # without annotations they are no settings
    default_is_share = False


@dataclass
class CriticOptions(TermOptions):
    """Settings of every term that judges through a network."""

    every: int = option(1, "evaluate the term at every k-th step only, with k times the weight", least=1, most=10**6)
    images: float = option(1.0, "fraction of each batch's images that the network reads", above=0, most=1)
    crop: int | None = option(
        None, "side in pixels of the window that it reads in each image; null: the whole image", least=1, most=MAX_SIDE
    )


@dataclass
class LowPassOptions(TermOptions):
    """Settings `losses.low_pass.<option>`."""

    cutoff: float = option(
        40 / 224, "highest frequency kept, in cycles per pixel; PixMIM keeps 40 cycles in 224 pixels", above=0, most=1
    )


@dataclass
class PCAOptions(TermOptions):
    """Settings `losses.pca.<option>`."""

    components: int | None = option(
        None,
        "largest principal components that are predicted; null: an eighth of a patch's values",
        above=0,
        most=10**6,
    )
    basis: str | None = option(None, "file of recon.tokenizer kind=pca; null: fitted on training images")


@dataclass
class TokensOptions(TermOptions):
    """Settings `losses.tokens.<option>`."""

    tokenizer: str = option(
        "kmeans", "kmeans (a codebook of patches), colours (4 x 4 in each patch), or a file of recon.tokenizer"
    )
    codes: int = option(512, "entries of the codebook that is fitted; a file has its own", least=2, most=2**16)


DEFAULT_TAPS = ("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1")
DEFAULT_POOL = 8  # pixels; an image of any size has such a square
POOL_DOC = "side in pixels of squares over which features are averaged first; 1: not averaged"


@dataclass
class PerceptualOptions(CriticOptions):
    """Settings `losses.perceptual.<option>`."""

    # As in the results of docs/critics.md, which has others. It suits a trained model; from random weights it is slow.
    default_weight, default_is_share = 2000.0, True

    weights: str = option("bundled", "imagenet (torchvision's), bundled (label-free), random, or a file's path")
    taps: list[str] = option(
        list(DEFAULT_TAPS), "layers compared, by name: conv3_1 (after its ReLU), pool2, features.7"
    )
    tap_weights: list[float] = option([], "one weight per tap; empty: 1 each", least=0, most=1e6)
    pool: int = option(DEFAULT_POOL, POOL_DOC, least=1, most=MAX_SIDE)


@dataclass
class FeaturesOptions(TermOptions):
    """Settings `losses.features.<option>`."""

    weights: str = option(
        "bundled", "of VGG19: imagenet (torchvision's), bundled (label-free), random, or a file's path"
    )
    tap: str = option("conv3_1", "the layer that is the target")


@dataclass
class LPIPSOptions(CriticOptions):
    """Settings `losses.lpips.<option>`."""

    net: str = option("squeeze", "trunk: alex, or squeeze", choices=("alex", "squeeze"))
    weights: str | None = option(None, "file of the trunk's weights in torchvision's names; null: torch hub's cache")


@dataclass
class AdversarialOptions(CriticOptions):
    """Settings `losses.adversarial.<option>`."""

    # As in the results of docs/critics.md, which has others.
    default_weight, default_is_share = 200.0, True

    gan_loss: str = option(
        "nonsaturating",
        "hinge, nonsaturating, or relativistic (paired, with R1 + R2, after R3GAN)",
        choices=("hinge", "nonsaturating", "relativistic"),
    )
    width: int = option(32, "channels of the discriminator's first layer", least=1, most=1024)
    lr: float = option(4e-4, "the discriminator's learning rate (Adam)", least=0, most=10)
    mask_aware: bool = option(True, "the discriminator gets the mask as a channel, and only hidden patches count")
    penalty: float = option(
        0.15, "weight of R1 (relativistic: R1 + R2) over 2, on pixels in [-1, 1]", least=0, most=1e6
    )
    penalty_every: int = option(
        8, "the penalty at every k-th update only, times k (lazy regularisation)", least=1, most=10**6
    )
    generator_start: float = option(0.1, "fraction of the run in which the discriminator trains alone", least=0, most=1)
    generator_full: float = option(0.2, "fraction of the run from which the term has its full weight", least=0, most=1)


@dataclass
class FeatureMatchingOptions(AdversarialOptions):
    """Settings `losses.feature_matching.<option>`."""

    default_weight = 500.0  # a percentage too; docs/critics.md has others

    pool: int = option(DEFAULT_POOL, POOL_DOC, least=1, most=MAX_SIDE)


@dataclass
class MixtureOptions(TermOptions):
    """Settings `losses.mixture.<option>`."""

    gaussians: int = option(8, "Gaussians per patch", above=0, most=1024)
    components: int | None = option(
        None,
        "principal components over which they are mixed; null: 64, or all of a patch's values if these are fewer",
        above=0,
        most=10**6,
    )


@dataclass
class FlowOptions(TermOptions):
    """Settings `losses.flow.<option>`."""

    source: str = option(
        "mean", "start of the flow: mean (the model's own, with a little noise), or noise", choices=("mean", "noise")
    )
    network: str = option(
        "conv", "conv (a U-Net over the image), or patch (each patch by itself)", choices=("conv", "patch")
    )
    noise: float = option(0.1, "standard deviation of the noise on the mean, for pixels in [0, 1]", above=0, below=10)
    steps: int = option(
        12, "steps of the midpoint method for a sample; the network runs twice in each", above=0, most=10**5
    )


# Every term's settings, in the order of `--help`. Register a new term here and in `losses.build.TERMS`.
TERM_OPTIONS: dict[str, type[TermOptions]] = {
    "mse": TermOptions,
    "norm_mse": TermOptions,
    "l1": TermOptions,
    "charbonnier": TermOptions,
    "ssim": TermOptions,
    "ms_ssim": TermOptions,
    "low_pass": LowPassOptions,
    "fourier": TermOptions,
    "gradient": TermOptions,
    "pca": PCAOptions,
    "tokens": TokensOptions,
    "hog": TermOptions,
    "features": FeaturesOptions,
    "perceptual": PerceptualOptions,
    "lpips": LPIPSOptions,
    "feature_matching": FeatureMatchingOptions,
    "adversarial": AdversarialOptions,
    "mixture": MixtureOptions,
    "flow": FlowOptions,
}

# LPIPS' trunks, and where torchvision's weights for them are.
TRUNKS = {
    "alex": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "squeeze": "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
}

# Networks whose features the metrics of sets of images can compare, by name; or timm:NAME.
FEATURE_NETWORKS = ("vgg19", "alexnet", "squeezenet")
TIMM = "timm:"

# VGG19: convolutions per stage and their width; a 2x2 max-pool ends each stage.
STAGES = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))


# Every layer of torchvision's `vgg19().features` in order: (name, output width).
LAYERS = [
    layer
    for stage, (depth, width) in enumerate(STAGES, start=1)
    for layer in [
        *((f"{kind}{stage}_{i}", width) for i in range(1, depth + 1) for kind in ("preact", "conv")),
        (f"pool{stage}", width),
    ]
]
_INDEX = {name: index for index, (name, _) in enumerate(LAYERS)}


def tap_index(tap: str) -> int:
    """Position in torchvision's `vgg19().features` of a tap.

    `conv3_1` and `relu3_1` both mean the output of that convolution's ReLU, as perceptual losses use the names;
    `pool2` is a pooling layer; `features.N` is torchvision's own name for any layer (`features.0` is conv1_1 before its
    ReLU).

    Raises:
        InvalidSetting: no layer has that name.
    """
    name = tap.replace("relu", "conv")
    if name in _INDEX and not name.startswith("preact"):
        return _INDEX[name]
    if tap.startswith("features.") and tap[9:].isdecimal() and int(tap[9:]) < len(LAYERS):
        return int(tap[9:])
    names = [name for name in _INDEX if not name.startswith("preact")]
    raise InvalidSetting(
        f"unknown VGG19 tap '{tap}'{nearest(tap, names)} "
        "(conv1_1 to conv5_4, pool1 to pool5, features.0 to features.36)"
    )
