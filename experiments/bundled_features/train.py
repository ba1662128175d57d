"""Trains the features that `losses.perceptual.weights=bundled` means: VGG19's first five convolutions, without labels.

The task is RotNet's (Gidaris et al. 2018, arXiv 1803.07728): by how many quarter turns was this picture turned?
The network is VGG19 up to conv3_1 with batch normalisation after each convolution, and above it a small head that
is thrown away. At the end batch normalisation is folded into the convolutions, and each layer is rescaled so that
the mean output of its ReLU over the training images is 1 (ReLU is homogeneous: directions do not change), which
puts every tap's distance on one scale.

    python -m experiments.bundled_features.train --images ../shared/data/imagenette/train
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.bundled_features.images import load, random_crops
from losses.features.vgg19 import VGG19, stem, tap_index

OUT = Path(__file__).parents[2] / "losses" / "features" / "bundled" / "vgg19_rotnet.safetensors"
DEEPEST = "conv3_1"


def with_batch_norm(plain: nn.Sequential) -> nn.Sequential:
    """The same layers with batch normalisation between each convolution and its ReLU."""
    layers = []
    for layer in plain:
        if isinstance(layer, nn.Conv2d):
            layer = nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            layers += [layer, nn.BatchNorm2d(layer.out_channels)]
        else:
            layers.append(layer)
    return nn.Sequential(*layers)


def head(width: int) -> nn.Sequential:
    def block(inputs: int) -> list[nn.Module]:
        return [nn.MaxPool2d(2), nn.Conv2d(inputs, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU()]

    return nn.Sequential(*block(width), *block(256), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 4))


def quarter_turns(images: Tensor) -> tuple[Tensor, Tensor]:
    """Each image in its four rotations: (B, 3, S, S) -> (4B, 3, S, S) and the number of quarter turns (4B,)."""
    turned = torch.cat([torch.rot90(images, k, dims=(2, 3)) for k in range(4)])
    return turned, torch.arange(4).repeat_interleave(len(images))


@torch.no_grad()
def folded(trunk: nn.Sequential) -> dict[str, Tensor]:
    """Batch normalisation (evaluation mode) folded into the convolutions, under torchvision's keys."""
    plain = stem(tap_index(DEEPEST))
    layers = iter(trunk)
    for layer in plain:
        source = next(layers)
        if isinstance(layer, nn.Conv2d):
            norm = next(layers)
            gain = norm.weight / (norm.running_var + norm.eps).sqrt()
            layer.weight.copy_(source.weight * gain.view(-1, 1, 1, 1))
            layer.bias.copy_(norm.bias - norm.running_mean * gain)
    return {f"features.{key}": value for key, value in plain.state_dict().items()}


@torch.no_grad()
def rescaled(weights: dict[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """Scales layer by layer so that each ReLU's mean output over `images` is 1; the function's shape is kept."""
    convolutions = [f"conv{s}_{i}" for s, i in ((1, 1), (1, 2), (2, 1), (2, 2), (3, 1))]
    net = VGG19(convolutions)
    net.load_state_dict(weights)
    before = torch.tensor(1.0)
    for tap, features in zip(convolutions, net(images), strict=True):
        scale = 1 / features.mean()
        key = f"features.{tap_index(tap) - 1}"
        weights[f"{key}.weight"] *= scale / before
        weights[f"{key}.bias"] *= scale
        before = scale
    return weights


def train(images: Tensor, steps: int, crop: int, batch: int, lr: float, seed: int) -> nn.Sequential:
    """SGD with momentum on `batch` turned pictures a step; linear warm-up over 2% of the steps, then a half cosine."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    trunk = with_batch_norm(stem(tap_index(DEEPEST)))
    net = nn.Sequential(trunk, head(256)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), momentum=0.9, nesterov=True, weight_decay=5e-4)
    began, right = time.time(), 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min((step + 1) / (0.02 * steps), 0.5 + 0.5 * math.cos(math.pi * step / steps))
        chosen = torch.randint(len(images), (batch // 4,), generator=generator)
        turned, turns = quarter_turns(random_crops(images[chosen], crop, generator))
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(turned.contiguous(memory_format=torch.channels_last)).float()
        loss = F.cross_entropy(logits, turns)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right += (logits.argmax(1) == turns).float().mean().item()
        if step % 100 == 99:
            print(f"step {step + 1}/{steps}  accuracy {right / 100:.3f}  {time.time() - began:.0f} s", flush=True)
            right = 0.0
    return net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, crop: int) -> float:
    """Share of right answers over the four turns of each image's centre crop."""
    right = 0
    low = (images.shape[-1] - crop) // 2
    for some in images[:, :, low : low + crop, low : low + crop].split(64):
        turned, turns = quarter_turns(some / 255)
        with torch.autocast("cpu", torch.bfloat16):
            right += (net(turned).argmax(1) == turns).sum().item()
    return right / (4 * len(images))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="a folder of classes (its labels are not used)")
    parser.add_argument("--held-out", type=Path, help="a second folder, to report the accuracy of the task on")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--crop", type=int, default=48)
    parser.add_argument("--batch", type=int, default=128, help="turned pictures per step (four of each image)")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()

    images, _ = load(options.images, size=112)
    print(f"{len(images)} images", flush=True)
    net = train(images, options.steps, options.crop, options.batch, options.lr, options.seed)
    story = {key: getattr(options, key) for key in ("steps", "crop", "batch", "lr", "seed")}
    if options.held_out:
        held_out, _ = load(options.held_out, size=112)
        story["held_out_rotation_accuracy"] = round(accuracy(net, held_out, options.crop), 4)
    sample = random_crops(images[:: len(images) // 200], options.crop, torch.Generator().manual_seed(options.seed))
    weights = rescaled(folded(net[0]), sample)
    story |= {"task": "rotation (RotNet, arXiv 1803.07728), no labels", "scale": "each ReLU output has mean 1"}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    halves = {key: value.half().contiguous() for key, value in weights.items()}
    save_file(halves, options.out, metadata={key: str(value) for key, value in story.items()})
    print(json.dumps(story, indent=2), f"\n{options.out}", flush=True)


if __name__ == "__main__":
    main()
