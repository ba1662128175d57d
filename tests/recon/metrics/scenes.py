"""What tests of metrics have in common: photographs, patches cut from them, what degrades them, what hides them."""

from functools import cache

import numpy as np
import skimage.data
import torch
import torchvision
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2gray

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee")
NETS = ["alex", "squeeze"]
BUILDERS = {"alex": "alexnet", "squeeze": "squeezenet1_1"}


@cache
def colours(name: str) -> np.ndarray:
    """(288, 400, 3) of a photograph: patches of 16 pixels fit."""
    return getattr(skimage.data, name)()[:288, :400] / 255


@cache
def luminance(name: str) -> np.ndarray:
    return rgb2gray(colours(name))


def cut(image: np.ndarray, p: int = 16) -> torch.Tensor:
    """(H, W) -> (1, N, p, p)."""
    h, w = (side // p * p for side in image.shape)
    return torch.from_numpy(image[:h, :w].copy()).unfold(0, p, p).unfold(1, p, p).flatten(0, 1)[None]


def somewhere(patches: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """(B, N) bool, about three in four hidden."""
    return torch.rand(patches.shape[:2], generator=torch.Generator().manual_seed(seed)) < 0.75


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    patches = torch.cat([cut(luminance(name)) for name in PHOTOGRAPHS])
    return patches, somewhere(patches)


def whole(function, image: np.ndarray) -> float:
    """The number of an image that is one hidden patch."""
    return function(torch.from_numpy(image)[None, None], torch.ones(1, 1, dtype=torch.bool)).item()


@cache
def untrained(builder: str) -> torch.nn.Module:
    """Features of torchvision's network of that name with random weights; copy them before writing into them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(torchvision.models, builder)(weights=None).features


@cache
def coloured(name: str) -> torch.Tensor:
    return torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)[None].double() / 255


def photograph(name: str, size: tuple[int, int] = (112, 150)) -> torch.Tensor:
    return coloured(name)[..., : size[0], -size[1] :].clone()


def photographs(size: tuple[int, int] = (64, 96)) -> torch.Tensor:
    return torch.cat([photograph(name, size) for name in PHOTOGRAPHS])


def noisy(truth: torch.Tensor, deviation: float) -> torch.Tensor:
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (truth + deviation * noise.to(truth.dtype)).clamp(0, 1)


def blurred(truth: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.from_numpy(gaussian_filter(truth.numpy(), (0, 0, sigma, sigma)))


def everywhere(images: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(images), 1, *images.shape[2:], dtype=torch.bool)


def hidden_in(images: torch.Tensor, share: float = 0.6) -> torch.Tensor:
    """(B, 1, H, W) bool, pixel by pixel."""
    shape = (len(images), 1, *images.shape[2:])
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) < share


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


DEGRADED = {
    "noise": lambda truth: noisy(truth, 0.05),
    "slight noise": lambda truth: noisy(truth, 0.002),
    "blur": lambda truth: blurred(truth, 2),
    "negative": lambda truth: 1 - truth,
    "black": torch.zeros_like,
}
