"""VGG19 (Simonyan & Zisserman 2014, arXiv 1409.1556, configuration E), and the distance of images in its features."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.options import DEFAULT_TAPS, LAYERS, tap_index
from losses.reconstruction import IMAGENET_MEAN, IMAGENET_STD

# Pixels of the images that a CPU computes at a time: the widest map of 4 images at 64 pixels is 2 MB in bfloat16.
CHUNK_PIXELS = 4 * 64 * 64


class ImageConv2d(nn.Conv2d):
    """The first convolution, in the image's own precision also under autocast; its output is in autocast's.

    Bfloat16 rounds an image to fewer than 8 bits, and on smooth predictions this noise dominates the deeper layers: the
    gradient of the bundled critic on blurred photographs then has a cosine below 0.6 with float32's, and above 0.88
    with this layer exact (`test_an_exact_first_layer_keeps_the_direction_on_smooth_predictions`). With three input
    channels it costs little.
    """

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        with torch.autocast(kind, enabled=False):
            out = super().forward(x)
        return out.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else out


def stem(last: int) -> nn.Sequential:
    """The first `last + 1` layers, with torchvision's keys `0.weight`, `0.bias`, `2.weight`, ..."""
    modules, width = [], 3
    for name, out in LAYERS[: last + 1]:
        if name.startswith("preact"):
            convolution = nn.Conv2d if modules else ImageConv2d
            modules.append(convolution(width, out, kernel_size=3, padding=1))
            width = out
        elif name.startswith("conv"):
            modules.append(nn.ReLU(inplace=True))
        else:
            modules.append(nn.MaxPool2d(2))
    return nn.Sequential(*modules)


class VGG19(nn.Module):
    """A frozen VGG19 that returns the outputs at its taps and computes no layer after the deepest one.

    Args:
        taps: names that `tap_index` knows.

    Shape: images (B, 3, H, W) in [0, 1] -> one (B, C, h, w) per tap, in the order of `taps`.

    Its parameters never require a gradient, and `train()`, also a parent module's, leaves it in evaluation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, taps: Sequence[str] = DEFAULT_TAPS):
        super().__init__()
        self.taps = tuple(taps)
        self.indices = [tap_index(tap) for tap in taps]
        self.features = stem(max(self.indices))
        pools = [isinstance(layer, nn.MaxPool2d) for layer in self.features]
        self.strides = [2 ** sum(pools[: index + 1]) for index in self.indices]  # pixels of the image, per tap
        # An in-place ReLU must not overwrite a layer that is itself a tap.
        for index in self.indices:
            if index + 1 < len(self.features) and isinstance(layer := self.features[index + 1], nn.ReLU):
                layer.inplace = False
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "VGG19":
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.outputs(self.standardised(images))

    def standardised(self, images: Tensor) -> Tensor:
        """What the first layer takes, in channels-last memory."""
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def outputs(self, x: Tensor) -> list[Tensor]:
        """The outputs at the taps, from standardised images."""
        found = {}
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.indices:
                found[index] = x
        return [found[index] for index in self.indices]


def pooled(x: Tensor, side: int) -> Tensor:
    """Means of maps (B, C, h, w) over squares of `side` positions, at most the map, which overlap by half."""
    side = min(max(1, side), *x.shape[2:])
    return x if side == 1 else F.avg_pool2d(x, side, side // 2)


def squared_difference(net: VGG19, x: Tensor, y: Tensor, weights: Sequence[float], pool: int) -> Tensor:
    """As `feature_distance`, of standardised images in one pass, by plain autograd; it can be compiled."""
    with torch.no_grad():
        targets = net.outputs(y)
    value = x.new_zeros((), dtype=torch.promote_types(x.dtype, torch.float32))
    for output, target, weight, stride in zip(net.outputs(x), targets, weights, net.strides, strict=True):
        difference = pooled(output, pool // stride) - pooled(target, pool // stride)
        # Each row is summed in the map's own precision, then in float32 or wider. `F.mse_loss` converts bfloat16 maps
        # first: a training step of nano with perceptual+mse at 64 pixels then takes 1.12 times as long (one thread of a
        # CPU with bfloat16 units, `python -m experiments.benchmarks.libraries`).
        rows = difference.permute(0, 2, 3, 1).flatten(2)  # a view in channels-last memory
        squares = torch.linalg.vector_norm(rows, dim=2).to(value.dtype).square().sum()
        value = value + weight / difference.numel() * squares
    return value


def feature_distance(
    net: VGG19,
    predicted: Tensor,
    true: Tensor,
    weights: Sequence[float],
    pool: int = 1,
    function: Callable[..., Tensor] = squared_difference,
) -> Tensor:
    """Sum over taps of weight x mean over images, channels and positions of (features - features)^2.

    Args:
        predicted, true: (B, 3, H, W) in [0, 1]; the first gets a gradient, which is computed together with the value.
        weights: one per tap.
        pool: features are first averaged over squares of so many pixels of the image, which overlap by half.
        function: `squared_difference`, or a compiled one.

    Returns:
        A scalar of float32 or wider. Under autocast to bfloat16 the sum adds about 1e-4 to the rounding of the
        features themselves.
    """
    return _InChunks.apply(net.standardised(predicted), net.standardised(true), net, weights, pool, function)


def in_cache(images: Tensor) -> int:
    """How many of images (B, 3, H, W) to compute at a time: a CPU's few, whose maps its cache holds; else all."""
    return max(1, 3 * CHUNK_PIXELS // images[0].numel()) if images.device.type == "cpu" else len(images)


class _InChunks(torch.autograd.Function):
    """Differentiates each chunk at once, while its maps, the largest tensors of a training step, are in the cache."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, net: VGG19, weights: Sequence[float], pool: int, function: Any) -> Any:
        total, gradients = 0.0, []
        images = in_cache(x)
        for a, b in zip(x.split(images), y.split(images), strict=True):
            a = a.detach().requires_grad_()
            with torch.enable_grad():
                value = function(net, a, b, weights, pool) * (len(a) / len(x))
            gradients += torch.autograd.grad(value, a)
            total = total + value.detach()
        ctx.save_for_backward(torch.cat(gradients))
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.saved_tensors[0] * gradient, None, None, None, None, None
