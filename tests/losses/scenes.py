"""Small reconstructions to state laws with: textured truths, arbitrary predictions, masks that hide and show."""

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import skimage.data
import skimage.transform
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from losses import TERMS, NormalisedPixelHead, Objective, Reconstruction, Term, TermContext, build_objective, head_of
from losses.adversarial import Adversarial

SIZE = (32, 48)  # not square
PATCH = 8
VALUES = 3 * PATCH**2
DISTRIBUTIONS = ("flow", "mixture")  # terms that read more than pixels, behind a head of their own
FEATURES = ("features", "hog")  # terms behind a head that has no pixels
TARGETS = (*FEATURES, "pca", "tokens")  # terms that do not read pixels, behind a head of their own
NAMES = sorted(set(TERMS) - {*DISTRIBUTIONS, *TARGETS})  # those that read pixels, behind any head


def random_trunk() -> str:
    """A file of LPIPS' smaller trunk with random weights, in torchvision's names."""
    path = Path(tempfile.gettempdir()) / f"recon-tests-{os.getpid()}" / "squeezenet.safetensors"
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = torchvision.models.squeezenet1_1(weights=None)
        save_file({f"features.{name}": tensor for name, tensor in net.features.state_dict().items()}, path)
        atexit.register(shutil.rmtree, path.parent, ignore_errors=True)
    return str(path)


# Critics that need no download and little time.
SMALL = {
    "perceptual": {"weights": "random"},
    "lpips": {"weights": random_trunk()},
    "feature_matching": {"width": 8},
    "adversarial": {"width": 8},
    "features": {"weights": "random"},
}
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
# Expressions without and with percentages.
PLAIN = [
    *NAMES,
    "mse + 0.1*l1",
    "0.01*perceptual + mse",
    "norm_mse + mse + 0.3*perceptual",
    "0.5*norm_mse + l1 + 0.01*adversarial + 0.01*perceptual",
    "0*l1 + 3*mse",
]
SHARED = [
    "mse + 10%l1",
    "perceptual + mse",
    "20%perceptual + mse",
    "mse + 0.3*l1 + 80%adversarial",
    "norm_mse + 5%mse + 150%perceptual + 0.1*l1",
    "mse + 0%l1",
]
EVERY = [*PLAIN, *SHARED]
# Expressions whose predictions are wider than pixels: `scene_for`.
DISTRIBUTED = [*DISTRIBUTIONS, "mse + flow", "0.3*mixture + 10%l1", "perceptual + flow", "l1 + 20%mixture"]
# A discriminator computes in float32; `test_double_precision_reaches_every_term` says so.
DOUBLE = [expression for expression in EVERY if "adversarial" not in expression and "matching" not in expression]


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
    width = values if head is None else head.width(values)
    prediction = torch.randn(images, patches, width, generator=generator, dtype=torch.float64)
    mask = torch.rand(images, patches, generator=generator).argsort(1) < patches // 2
    return Reconstruction(prediction.to(dtype), image.to(dtype), mask, head, **settings)


def norm_scene(images: int = 2, **settings) -> Reconstruction:
    """A scene whose prediction is normalised per patch and carries its statistics."""
    return scene(images, head=NormalisedPixelHead(), **settings)


def scene_for(expression: str, images: int = 2, **settings) -> Reconstruction:
    """A scene whose prediction is what an expression, or a term, wants."""
    return scene(images, head=head_of(expression), **settings)


def replaced(r: Reconstruction, **parts) -> Reconstruction:
    """The same reconstruction with some of its parts exchanged."""
    names = ("prediction", "image", "mask", "head", "mean", "std", "over", "shift", "sampling", "indices")
    kept = {name: getattr(r, name) for name in names}
    return Reconstruction(**(kept | parts))


def with_gradient(r: Reconstruction) -> Reconstruction:
    """The same reconstruction as a model would hand it over: its prediction requires a gradient."""
    return replaced(r, prediction=r.prediction.detach().clone().requires_grad_())


def perfect(r: Reconstruction) -> Tensor:
    """The prediction that renders as the truth, (B, N, P)."""
    return r.target.clone()


def objective_of(expression: str, *, seed: int = 0, **settings) -> Objective:
    """An objective with small critics that are the same at every call."""
    torch.manual_seed(seed)
    return build_objective(expression, **({"image_size": SIZE} | SMALL | settings))


def term_of(name: str, dtype: torch.dtype = torch.float32, **context) -> Term:
    """One registered term with a small critic, the same at every call."""
    torch.manual_seed(0)
    cls = TERMS[name]
    return cls(cls.Options(**SMALL.get(name, {})), TermContext(**({"image_size": SIZE} | context))).to(dtype)


def gradient_of(term: Term, r: Reconstruction, over: str = "hidden") -> Tensor:
    """The gradient of a term's value at the prediction."""
    leaf = r.prediction.detach().clone().requires_grad_()
    term.value(r.at(leaf, over)).backward()
    return leaf.grad


def gradients_of(objective: Objective, r: Reconstruction) -> dict[str, Tensor]:
    """Every term's gradient by autograd, one at a time."""
    return {name: gradient_of(term, r, objective.over) for name, term in objective.terms.items()}


class Flat(Term):
    """A term that is blind to the prediction."""

    def value(self, r):
        return 0 * r.pixels.sum() + 3


def adversarial(seed: int = 0, steps: int | None = None, critic: torch.dtype = torch.float32, **options) -> Adversarial:
    """The adversarial term with a small discriminator, the same at every call; without the mask unless given."""
    torch.manual_seed(seed)
    options = {"width": 8, "mask_aware": False, "penalty_every": 1} | options
    return Adversarial(Adversarial.Options(**options), TermContext(SIZE, steps, critic))


def parameters_of(term: Adversarial) -> list[Tensor]:
    """A copy of the discriminator's parameters."""
    return [p.detach().clone() for p in term.discriminator.parameters()]


def weights_of(term: Adversarial) -> list[Tensor]:
    """The discriminator's weights; the relativistic loss does not depend on the bias of the logits."""
    return [p for p in term.discriminator.parameters() if p.ndim > 1]


def logits_of(term: Adversarial, r: Reconstruction) -> tuple[Tensor, ...]:
    """The discriminator's logits of truth and composite, on the inputs that the term gives it."""
    with torch.no_grad():
        return tuple(
            term.discriminator(r.shifted(image, term.discriminator.stride) * 2 - 1) for image in (r.image, r.composite)
        )


def equal(left, right) -> bool:
    """Whether two sequences of tensors are the same, one by one."""
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def photograph(name: str, size: tuple[int, int] = (64, 64)) -> Tensor:
    """One of scikit-image's own photographs, resized with anti-aliasing: (1, 3, H, W) in [0, 1]."""
    return _resized(name, size).clone()


@cache
def _resized(name: str, size: tuple[int, int]) -> Tensor:
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
