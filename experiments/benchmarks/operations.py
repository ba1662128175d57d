"""Multiplications and additions of a training step, counted without doing them.

    python -m experiments.benchmarks.operations            # ViT-B/16 at 224 pixels
    python -m experiments.benchmarks.operations --model nano --image-size 32 --patch-size 4

GFLOP per image (two per multiplication and addition) of products and convolutions, forward and backward: the model's
step under `mse`, and what each critic adds. VGG19 stands there twice, on what the term cuts out to shift its grid and
on the whole image.
"""

import argparse
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from losses import Objective, Reconstruction, build_objective
from losses.features.vgg19 import feature_distance
from recon.console import aligned
from recon.model import MaskedAutoencoder, create_model

IMAGES = 4

CRITICS = {
    "perceptual to conv3_1": ("perceptual", {}),
    "perceptual to conv5_4": ("perceptual", {"taps": ["conv5_4"]}),
    "adversarial, hinge": ("adversarial", {}),
    "adversarial, relativistic": ("adversarial", {"gan_loss": "relativistic"}),
    "adversarial, relativistic, penalty_every=16": ("adversarial", {"gan_loss": "relativistic", "penalty_every": 16}),
}


class Operations(TorchDispatchMode):
    """Counts while it is entered. Not FlopCounterMode, which also follows modules and stumbles over a critic's."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.count += formula(*args, **(kwargs or {}), out_val=out)
        return out


def of_model(model: MaskedAutoencoder) -> float:
    """GFLOP per image of the model's forward and backward."""
    images = torch.rand(IMAGES, 3, *model.image_size)
    with FakeTensorMode(allow_non_fake_inputs=True), Operations() as operations:
        prediction = model(images, noise=torch.rand(IMAGES, model.patches)).prediction
        prediction.backward(torch.ones_like(prediction))
    return operations.count / IMAGES / 1e9


def of_objective(objective: Objective, model: MaskedAutoencoder, steps: int) -> float:
    """GFLOP per image and step of an objective with its critics' training; the mean over its first `steps`."""
    images, mask = torch.rand(IMAGES, 3, *model.image_size), torch.ones(IMAGES, model.patches, dtype=torch.bool)
    values = images[0].numel() // model.patches
    with FakeTensorMode(allow_non_fake_inputs=True), Operations() as operations:
        for step in range(steps):
            prediction = torch.rand(IMAGES, model.patches, values)
            objective(Reconstruction(prediction, images, mask, shift=(0, 0), sampling=(0, 0, 0)), step)
            if "adversarial" in objective.terms:  # its update, less the optimiser, which has no products
                objective.terms["adversarial"].updates += 1
    return operations.count / IMAGES / steps / 1e9


def of_features(term: torch.nn.Module, images: Tensor) -> float:
    """GFLOP per image of the perceptual distance of whole images (B, 3, H, W), and its gradient."""
    with FakeTensorMode(allow_non_fake_inputs=True), Operations() as operations:
        feature_distance(term.net, images, images, term.tap_weights)
    return operations.count / len(images) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="base")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--patch-size", type=int, default=16)
    options = parser.parse_args()
    torch.backends.cuda.enable_flash_sdp(False)  # so that attention is made of products that are counted
    size = (options.image_size, options.image_size)
    model = create_model(options.model, image_size=size, patch_size=options.patch_size)
    step = of_model(model)
    lines = [["", "GFLOP per image", "over mse", "on whole images"], ["mse", f"{step:.1f}", "", ""]]
    for label, (name, critic) in CRITICS.items():
        critics = {name: critic | ({"weights": "random"} if name == "perceptual" else {})}
        objective = build_objective(f"mse+{name}", image_size=size, **critics)
        found = of_objective(objective, model, critic.get("penalty_every", 1))
        term = objective.terms[name]
        whole = f"+{of_features(term, torch.rand(IMAGES, 3, *size)) / step:.1%}" if name == "perceptual" else ""
        lines.append([label, f"{found:.1f}", f"+{found / step:.1%}", whole])
    print(aligned(lines))


if __name__ == "__main__":
    main()
