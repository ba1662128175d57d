"""The patch discriminator of pix2pix, its depth fitting the image."""

import math

from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """C64-C128-C256-C512 of Isola et al. 2017 (arXiv 1611.07004, appendix 6.1.2), without batch normalisation.

    A batch statistic would couple the images of a batch, and ranks. Three strided layers from 64 pixels on (a
    receptive field of 70 pixels), fewer on smaller images, so that there is a map of judgements and not one.

    Args:
        image_size: (H, W).
        width: channels of the first layer.
        inputs: channels of an image; 4 where the mask is one of them.

    Shape: (B, 3 or 4, H, W) in [-1, 1] -> logits (B, 1, h, w).
    """

    def __init__(self, image_size: tuple[int, int], width: int = 64, inputs: int = 3):
        super().__init__()
        depth = max(1, min(3, int(math.log2(min(image_size) / 8))))
        self.stride = 2**depth
        self.least = 3 * self.stride  # pixels a side; the last two layers take two from the map
        layers: list[nn.Module] = []
        for i in range(depth + 1):
            outputs = width * 2**i
            layers += [
                nn.Conv2d(inputs, outputs, 4, stride=2 if i < depth else 1, padding=1),
                nn.LeakyReLU(0.2, inplace=True),  # its gradient needs the output alone, which is kept anyway
            ]
            inputs = outputs
        self.strides = [min(2 ** (i + 1), self.stride) for i in range(depth + 1)]
        layers.append(nn.Conv2d(inputs, 1, 4, padding=1))
        self.layers = nn.Sequential(*layers)
        for module in self.layers:
            if isinstance(module, nn.Conv2d):
                # pix2pix's N(0, 0.02) counts on batch normalisation; without it the logits would vanish.
                nn.init.kaiming_normal_(module.weight, a=0.2)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor, features: bool = False) -> Tensor | list[Tensor]:
        """The logits; or, with `features`, the outputs of all layers but the last, after their activations.

        Their strides are `strides`, in pixels of the image.
        """
        if not features:
            return self.layers(images)
        found = []
        for layer in self.layers[:-1]:
            images = layer(images)
            if isinstance(layer, nn.LeakyReLU):
                found.append(images)
        return found
