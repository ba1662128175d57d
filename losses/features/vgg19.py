"""VGG19 (Simonyan & Zisserman 2014, arXiv 1409.1556, configuration E), cut at the deepest layer asked for."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from losses.features.names import LAYERS, tap_index
from losses.options import DEFAULT_TAPS
from losses.reconstruction import IMAGENET_MEAN, IMAGENET_STD


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

    def __init__(self, taps: Sequence[str] = DEFAULT_TAPS):
        super().__init__()
        self.taps = tuple(taps)
        self.indices = [tap_index(tap) for tap in taps]
        self.features = stem(max(self.indices))
        pools = [isinstance(layer, nn.MaxPool2d) for layer in self.features]
        self.strides = [2 ** sum(pools[: index + 1]) for index in self.indices]  # pixels of the image, per tap
        # An in-place ReLU must not overwrite a layer that is itself a tap.
        for index in self.indices:
            if index + 1 < len(self.features) and isinstance(self.features[index + 1], nn.ReLU):
                self.features[index + 1].inplace = False
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
