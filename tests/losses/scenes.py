"""Small reconstructions to state laws with: textured truths, arbitrary predictions, masks that hide and show."""

import numpy as np
import skimage.data
import skimage.transform
import torch
from torch import Tensor

from losses import TERMS, NormalisedPixelHead, Objective, Reconstruction, Surroundings, Term, build_objective

SIZE = (32, 48)  # not square
PATCH = 8
VALUES = 3 * PATCH**2
NAMES = sorted(TERMS)
# Critics that need no file and little time.
SMALL = {"perceptual": {"weights": "random"}, "adversarial": {"width": 8}}
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


def scene(
    images: int = 2,
    *,
    size: tuple[int, int] = SIZE,
    patch: int = PATCH,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    head=None,
    **settings,
) -> Reconstruction:
    """Noise as truth and another noise as prediction; each image has hidden and visible patches."""
    generator = torch.Generator().manual_seed(seed)
    patches, values = (size[0] // patch) * (size[1] // patch), 3 * patch**2
    image = torch.rand(images, 3, *size, generator=generator, dtype=torch.float64)
    statistics = 0 if head is None else head.statistics
    prediction = torch.randn(images, patches, values + statistics, generator=generator, dtype=torch.float64)
    mask = torch.rand(images, patches, generator=generator).argsort(1) < patches // 2
    return Reconstruction(prediction.to(dtype), image.to(dtype), mask, head, **settings)


def norm_scene(images: int = 2, **settings) -> Reconstruction:
    """A scene whose prediction is normalised per patch and carries its statistics."""
    return scene(images, head=NormalisedPixelHead(), **settings)


def replaced(r: Reconstruction, **parts) -> Reconstruction:
    """The same reconstruction with some of its parts exchanged."""
    kept = {name: getattr(r, name) for name in ("prediction", "image", "mask", "head", "mean", "std", "over", "shift")}
    return Reconstruction(**(kept | parts))


def perfect(r: Reconstruction) -> Tensor:
    """The prediction that renders as the truth, (B, N, P)."""
    return r.target.clone()


def objective_of(expression: str, *, seed: int = 0, **settings) -> Objective:
    """An objective with small critics that are the same at every call."""
    torch.manual_seed(seed)
    return build_objective(expression, **({"image_size": SIZE} | SMALL | settings))


def term_of(name: str, dtype: torch.dtype = torch.float32, **surroundings) -> Term:
    """One registered term with a small critic, the same at every call."""
    torch.manual_seed(0)
    cls = TERMS[name]
    return cls(cls.Options(**SMALL.get(name, {})), Surroundings(**({"image_size": SIZE} | surroundings))).to(dtype)


def gradient_of(term: Term, r: Reconstruction, over: str = "hidden") -> Tensor:
    """The gradient of a term's value at the prediction."""
    leaf = r.prediction.detach().clone().requires_grad_()
    term.value(r.at(leaf, over)).backward()
    return leaf.grad


def photograph(name: str, size: tuple[int, int] = (64, 64)) -> Tensor:
    """One of scikit-image's own photographs, resized with anti-aliasing: (1, 3, H, W) in [0, 1]."""
    pixels = skimage.transform.resize(getattr(skimage.data, name)(), size, anti_aliasing=True)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float()[None]


def photographs(size: tuple[int, int] = (64, 64)) -> Tensor:
    """All of `PHOTOGRAPHS`, (4, 3, H, W)."""
    return torch.cat([photograph(name, size) for name in PHOTOGRAPHS])


def one_line(error) -> str:
    """The message of a caught error, which must be one line."""
    message = str(error.value)
    assert len(message.splitlines()) == 1, message
    return message
