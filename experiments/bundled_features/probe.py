"""How good are the bundled features? A linear classifier on each tap, beside random and ImageNet weights.

Protocol: Imagenette at 64 pixels, centre crops; each tap (after its ReLU) is average-pooled to 2 x 2 positions,
standardised by the training images, and classified into the 10 classes by multinomial logistic regression (L2,
strength chosen on a fifth of the training images). The number is accuracy on Imagenette's validation images.
The labels serve this measurement alone. ImageNet weights have seen labels of these very images.

    python -m experiments.bundled_features.probe --images ../shared/data/imagenette \\
        --weights random bundled ../shared/weights/vgg19_features_to_conv3_4.safetensors
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.bundled_features.images import load
from losses.features.vgg19 import DEFAULT_TAPS, VGG19
from losses.features.weights import load_vgg19

SIZE = 64
POSITIONS = 2
STRENGTHS = (1e-3, 1e-2, 1e-1)


@torch.no_grad()
def pooled(net: VGG19, images: Tensor) -> list[Tensor]:
    """One (n, C * 4) per tap, from uint8 images (n, 3, S, S)."""
    batches = []
    for some in images.split(64):
        with torch.autocast("cpu", torch.bfloat16):
            taps = net(some / 255)
        batches.append([F.adaptive_avg_pool2d(tap.float(), POSITIONS).flatten(1) for tap in taps])
    return [torch.cat(tap) for tap in zip(*batches, strict=True)]


def fit(x: Tensor, y: Tensor, strength: float) -> torch.nn.Linear:
    """Multinomial logistic regression with L2 penalty `strength / 2 * |w|^2`, by at most 100 steps of L-BFGS."""
    linear = torch.nn.Linear(x.shape[1], int(y.max()) + 1)
    torch.nn.init.zeros_(linear.weight)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=100, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(linear(x), y) + strength / 2 * linear.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return linear


@torch.no_grad()
def accuracy(linear: torch.nn.Linear, x: Tensor, y: Tensor) -> float:
    return (linear(x).argmax(1) == y).float().mean().item()


def probe(x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor) -> float:
    """Test accuracy, the penalty chosen on every fifth training image."""
    mean, std = x.mean(0), x.std(0) + 1e-6
    x, test_x = (x - mean) / std, (test_x - mean) / std
    held = torch.arange(len(x)) % 5 == 0
    chosen = max(STRENGTHS, key=lambda s: accuracy(fit(x[~held], y[~held], s), x[held], y[held]))
    return accuracy(fit(x, y, chosen), test_x, test_y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="a folder with train/ and val/ of classes")
    parser.add_argument("--weights", nargs="+", default=["random", "bundled"], help="as losses.perceptual.weights")
    options = parser.parse_args()
    train, train_labels = load(options.images / "train", size=SIZE)
    test, test_labels = load(options.images / "val", size=SIZE)
    print(f"{'':<24}" + "".join(f"{tap:>10}" for tap in DEFAULT_TAPS))
    for source in options.weights:
        net = VGG19(DEFAULT_TAPS)
        load_vgg19(net, source)
        taps = zip(pooled(net, train), pooled(net, test), strict=True)
        scores = [probe(x, train_labels, test_x, test_labels) for x, test_x in taps]
        print(f"{Path(source).name[:22]:<24}" + "".join(f"{score:10.1%}" for score in scores), flush=True)


if __name__ == "__main__":
    main()
