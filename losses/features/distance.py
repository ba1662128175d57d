"""The distance between two images in a frozen network's features, with its gradient written out by hand.

The early maps are the largest tensors of a training step, and on a CPU passing them through memory costs more than
their convolutions. So the gradient at the input is made together with the value, a few images at a time, while
their maps are still in cache; and no map is copied: each is subtracted in the target's place, summed in its own
precision, and added to the gradient on its way down. `experiments.benchmarks.step` says what that saves.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.features.vgg19 import VGG19
from losses.options import DEFAULT_POOL, InvalidSetting

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


@torch.no_grad()
def map_in_chunks(function: Callable[..., Tensor], *tensors: Tensor, values: int | None = None) -> Tensor:
    """Calls `function` on `chunks` of batches (B, ...) and joins its results along the first dimension."""
    return torch.cat([function(*part) for part in chunks(*tensors, values=values)])


def feature_distance(net: VGG19, predicted: Tensor, true: Tensor, weights: Sequence[float], pool: int = 1) -> Tensor:
    """Sum over taps of weight x mean over images, channels and positions of (features - features)^2.

    Args:
        net: the frozen network, with its taps.
        predicted: (B, 3, H, W) in [0, 1]; the gradient goes here, and here alone.
        true: (B, 3, H, W).
        weights: one per tap.
        pool: features are first averaged over squares of so many pixels of the image, which overlap by half.

    Returns:
        A scalar of float32 or wider. Under autocast to bfloat16 the sum adds about 1e-4 to the rounding of the
        features themselves; the gradient does not pass through it. Made even where nobody asks for it.
    """
    return _FeatureDistance.apply(net.standardised(predicted), net.standardised(true), net, weights, pool)


class _FeatureDistance(torch.autograd.Function):
    """Forward finds the gradient too; backward hands it on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, net: VGG19, weights: Sequence[float], pool: int) -> Tensor:
        parts = [_value_and_gradient(net, a, b, weights, pool) for a, b in chunks(x, y)]
        shares = [len(gradient) / len(x) for _, gradient in parts]
        gradient = torch.cat([gradient * share for (_, gradient), share in zip(parts, shares, strict=True)])
        ctx.save_for_backward(gradient.to(x.dtype))
        return sum(value * share for (value, _), share in zip(parts, shares, strict=True))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        return ctx.saved_tensors[0] * gradient, None, None, None, None


def _value_and_gradient(net: VGG19, x: Tensor, y: Tensor, weights: Sequence[float], pool: int) -> tuple[Tensor, Tensor]:
    """The distance of standardised images and its gradient at `x`."""
    targets = dict(zip(net.indices, net.outputs(y), strict=True))
    weight_of = dict.fromkeys(net.indices, 0.0)
    for index, weight in zip(net.indices, weights, strict=True):
        weight_of[index] += weight
    value = x.new_zeros((), dtype=torch.promote_types(x.dtype, torch.float32))
    maps, pooled, taps, stride = [x], {}, {}, 1
    for index, layer in enumerate(net.features):
        if isinstance(layer, nn.MaxPool2d):
            x, pooled[index] = F.max_pool2d(x, layer.kernel_size, return_indices=True)
            stride *= layer.kernel_size
        else:
            x = layer(x)
        maps.append(x)
        if index in targets:
            cell = min(max(1, pool // stride), *x.shape[2:])
            difference = averaged(targets[index], cell).sub_(averaged(x, cell))
            scale = weight_of[index] / difference.numel()
            value = value + scale * _sum_of_squares(difference).to(value.dtype)
            taps[index] = difference, scale, cell
    g: Tensor | None = None
    for index in reversed(range(len(net.features))):
        if index in taps:
            difference, scale, cell = taps[index]  # target - prediction
            difference = _averaged_backward(difference, maps[index + 1], cell)
            g = difference * (-2 * scale) if g is None else g.add_(difference, alpha=-2 * scale)
        g = _backward(net.features[index], g, maps[index], maps[index + 1], pooled.get(index))
    return value, g


def check_pool(term: str, pool: int, side: int) -> None:
    """Raises InvalidSetting where squares of `pool` pixels are larger than the `side` pixels that a network sees."""
    largest = max(side, DEFAULT_POOL)
    if not 1 <= pool <= largest:
        raise InvalidSetting(
            f"losses.{term}.pool={pool} must be between 1 and {largest}, of the {side} pixels that are seen"
        )


def averaged(x: Tensor, cell: int) -> Tensor:
    """Means over squares of `cell` positions, which overlap by half or a little more; with one position `x` itself."""
    return x if cell == 1 else F.avg_pool2d(x, cell, cell // 2)


def _averaged_backward(g: Tensor, x: Tensor, cell: int) -> Tensor:
    """The gradient at the input of `averaged` from the one at its output."""
    if cell == 1:
        return g
    return torch.ops.aten.avg_pool2d_backward(g, x, [cell] * 2, [cell // 2] * 2, [0, 0], False, True, None)


def _backward(layer: nn.Module, g: Tensor, x: Tensor, out: Tensor, indices: Tensor | None) -> Tensor:
    """The gradient at a layer's input from the one at its output; overwrites `g` where it can."""
    if isinstance(layer, nn.ReLU):
        return torch.ops.aten.threshold_backward.grad_input(g, out, 0, grad_input=g)
    if isinstance(layer, nn.MaxPool2d):
        k = [layer.kernel_size] * 2
        return torch.ops.aten.max_pool2d_with_indices_backward(g, x, k, k, [0, 0], [1, 1], False, indices)
    weight, one, none = layer.weight.to(g.dtype), [1, 1], [0, 0]
    return torch.ops.aten.convolution_backward(
        g, x.to(g.dtype), weight, None, one, list(layer.padding), one, False, none, 1, [True, False, False]
    )[0]


def _sum_of_squares(x: Tensor) -> Tensor:
    """Over all elements; summed row by row in the map's own precision, each row rounded once, the rows in float32."""
    rows = x.permute(0, 2, 3, 1).flatten(2)  # a view in channels-last memory
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.vector_norm(rows, dim=2).to(wide).square().sum()
