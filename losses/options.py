"""The settings of every term, and how a setting is declared; without torch, so that help and errors are immediate.

`TERM_OPTIONS` says which terms there are, with their settings and default weights. The terms themselves are in
`losses.build.TERMS`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any


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


def option(default: Any, doc: str) -> Any:
    """A dataclass field with its documentation, shown by `--help`."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"doc": doc})
    return field(default=default, metadata={"doc": doc})


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

    every: int = option(1, "evaluate the term at every k-th step only, with k times the weight")
    images: float = option(1.0, "fraction of each batch's images that the network reads")
    crop: int | None = option(None, "side in pixels of the window that it reads in each image; null: the whole image")


DEFAULT_TAPS = ("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1")
DEFAULT_POOL = 8  # pixels; an image of any size has such a square


@dataclass
class PerceptualOptions(CriticOptions):
    """Settings `losses.perceptual.<option>`."""

    # As in the results of docs/critics.md, which has others. It suits a trained model; from random weights it is slow.
    default_weight, default_is_share = 2000.0, True

    weights: str = option("bundled", "imagenet (torchvision's), bundled (label-free), random, or a file's path")
    taps: list[str] = option(
        list(DEFAULT_TAPS), "layers compared, by name: conv3_1 (after its ReLU), pool2, features.7"
    )
    tap_weights: list[float] = option([], "one weight per tap; empty: 1 each")
    pool: int = option(
        DEFAULT_POOL, "side in pixels of squares over which features are averaged first; 1: not averaged"
    )


@dataclass
class LPIPSOptions(CriticOptions):
    """Settings `losses.lpips.<option>`."""

    net: str = option("squeeze", "trunk: alex, or squeeze")
    weights: str | None = option(None, "file of the trunk's weights in torchvision's names; null: torch hub's cache")


@dataclass
class AdversarialOptions(CriticOptions):
    """Settings `losses.adversarial.<option>`."""

    # As in the results of docs/critics.md, which has others.
    default_weight, default_is_share = 200.0, True

    gan_loss: str = option("nonsaturating", "hinge, nonsaturating, or relativistic (paired, with R1 + R2, after R3GAN)")
    width: int = option(32, "channels of the discriminator's first layer")
    lr: float = option(4e-4, "the discriminator's learning rate (Adam)")
    mask_aware: bool = option(True, "the discriminator gets the mask as a channel, and only hidden patches count")
    penalty: float = option(0.15, "weight of R1 (relativistic: R1 + R2) over 2, on pixels in [-1, 1]")
    penalty_every: int = option(8, "the penalty at every k-th update only, times k (lazy regularisation)")
    generator_start: float = option(0.1, "fraction of the run in which the discriminator trains alone")
    generator_full: float = option(0.2, "fraction of the run from which the term has its full weight")


@dataclass
class FeatureMatchingOptions(AdversarialOptions):
    """Settings `losses.feature_matching.<option>`."""

    default_weight = 500.0  # a percentage too; docs/critics.md has others

    pool: int = option(
        DEFAULT_POOL, "side in pixels of squares over which features are averaged first; 1: not averaged"
    )


@dataclass
class MixtureOptions(TermOptions):
    """Settings `losses.mixture.<option>`."""

    gaussians: int = option(8, "Gaussians per patch")
    components: int | None = option(
        None, "principal components over which they are mixed; null: 64, or all of a patch's values if these are fewer"
    )


@dataclass
class FlowOptions(TermOptions):
    """Settings `losses.flow.<option>`."""

    source: str = option("mean", "start of the flow: mean (the model's own, with a little noise), or noise")
    network: str = option("conv", "conv (a U-Net over the image), or patch (each patch by itself)")
    noise: float = option(0.1, "standard deviation of the noise on the mean, for pixels in [0, 1]")
    steps: int = option(12, "steps of the midpoint method for a sample; the network runs twice in each")


# Every term's settings, in the order of `--help`. Register a new term here and in `losses.build.TERMS`.
TERM_OPTIONS: dict[str, type[TermOptions]] = {
    "mse": TermOptions,
    "norm_mse": TermOptions,
    "l1": TermOptions,
    "charbonnier": TermOptions,
    "ssim": TermOptions,
    "ms_ssim": TermOptions,
    "perceptual": PerceptualOptions,
    "lpips": LPIPSOptions,
    "feature_matching": FeatureMatchingOptions,
    "adversarial": AdversarialOptions,
    "mixture": MixtureOptions,
    "flow": FlowOptions,
}
