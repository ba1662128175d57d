"""The distance between images in a frozen network's features, computed in chunks that fit a CPU's cache."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.features.vgg19 import VGG19

# Pixels of the images that a CPU computes at a time: the widest map of 4 images at 64 pixels is 2 MB in bfloat16.
CHUNK_PIXELS = 4 * 64 * 64


def chunks(*tensors: Tensor, values: int | None = None) -> Iterator[tuple[Tensor, ...]]:
    """Splits batches (B, ...) along B, all alike, so that what a CPU makes of one part stays in its cache.

    Args:
        tensors: on a CPU they are split; on other devices there is one part, the whole.
        values: numbers that a part of the first tensor may have (at least one image); None: an RGB image's
            `CHUNK_PIXELS`.
    """
    first = tensors[0]
    values = 3 * CHUNK_PIXELS if values is None else values
    images = max(1, values // first[0].numel()) if first.device.type == "cpu" else len(first)
    return zip(*(tensor.split(images) for tensor in tensors), strict=True)


def pooled(x: Tensor, side: int) -> Tensor:
    """Means of maps (B, C, h, w) over squares of `side` positions, at most the map, which overlap by half.

    `x` itself if a square has one position.
    """
    side = min(max(1, side), *x.shape[2:])
    return x if side == 1 else F.avg_pool2d(x, side, side // 2)


def squared_difference(net: VGG19, x: Tensor, y: Tensor, weights: Sequence[float], pool: int) -> Tensor:
    """As `feature_distance`, of standardised images in one pass, by plain autograd; it can be compiled."""
    with torch.no_grad():
        targets = net.outputs(y)
    value = x.new_zeros((), dtype=torch.promote_types(x.dtype, torch.float32))
    for output, target, weight, stride in zip(net.outputs(x), targets, weights, net.strides, strict=True):
        difference = pooled(output, pool // stride) - pooled(target, pool // stride)
        value = value + weight / difference.numel() * _sum_of_squares(difference)
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
        net: the frozen network, with its taps.
        predicted: (B, 3, H, W) in [0, 1]; the only argument that gets a gradient.
        true: (B, 3, H, W).
        weights: one per tap.
        pool: features are first averaged over squares of so many pixels of the image, which overlap by half.
        function: `squared_difference`, or a compiled one.

    Returns:
        A scalar of float32 or wider. Under autocast to bfloat16 the sum adds about 1e-4 to the rounding of the
        features themselves. The gradient is computed together with the value, even if nobody asks for it.
    """
    return _InChunks.apply(net.standardised(predicted), net.standardised(true), net, weights, pool, function)


class _InChunks(torch.autograd.Function):
    """Differentiates each chunk at once, while its maps, the largest tensors of a training step, are in the cache."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, net: VGG19, weights: Sequence[float], pool: int, function: Any) -> Any:
        total, gradients = 0.0, []
        for a, b in chunks(x, y):
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


def _sum_of_squares(x: Tensor) -> Tensor:
    """Over all elements, in float32 or wider; each row of a map is summed in the map's own precision first.

    `F.mse_loss` converts bfloat16 maps to float32: a training step of nano with perceptual+mse then takes 1.11 times as
    long at 64 pixels, and 1.26 times at 224 (AMD EPYC with bfloat16 units, one thread).
    """
    rows = x.permute(0, 2, 3, 1).flatten(2)  # a view in channels-last memory
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.vector_norm(rows, dim=2).to(wide).square().sum()
