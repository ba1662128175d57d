"""What the frozen networks and their layers are called; without torch, so that a mistyped name is found at once.

The networks themselves are in `losses.features.vgg19` and `losses.features.lpips_networks`.
"""

from losses.options import InvalidSetting, nearest

# LPIPS' trunks, and where torchvision's weights for them are.
TRUNKS = {
    "alex": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "squeeze": "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
}

# VGG19: convolutions per stage and their width; a 2x2 max-pool ends each stage.
STAGES = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))


def _layers() -> list[tuple[str, int]]:
    """Every layer of torchvision's `vgg19().features` in order: (name, output width)."""
    layers = []
    for stage, (depth, width) in enumerate(STAGES, start=1):
        for i in range(1, depth + 1):
            layers += [(f"preact{stage}_{i}", width), (f"conv{stage}_{i}", width)]
        layers.append((f"pool{stage}", width))
    return layers


LAYERS = _layers()
_INDEX = {name: index for index, (name, _) in enumerate(LAYERS)}


def tap_index(tap: str) -> int:
    """Position in torchvision's `vgg19().features` of a tap.

    `conv3_1` and `relu3_1` both mean the output of that convolution's ReLU, as perceptual losses
    use the names; `pool2` is a pooling layer; `features.N` is torchvision's own name for any layer
    (`features.0` is conv1_1 before its ReLU).

    Raises:
        InvalidSetting: no layer has that name.
    """
    name = tap.replace("relu", "conv")
    if name in _INDEX and not name.startswith("preact"):
        return _INDEX[name]
    if tap.startswith("features.") and tap[9:].isdecimal() and int(tap[9:]) < len(LAYERS):
        return int(tap[9:])
    names = [name for name in _INDEX if not name.startswith("preact")]
    raise InvalidSetting(
        f"unknown VGG19 tap '{tap}'{nearest(tap, names)} "
        "(conv1_1 to conv5_4, pool1 to pool5, features.0 to features.36)"
    )
