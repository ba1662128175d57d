"""A term that judges through a network, and what makes that cheaper by choice."""

from typing import Any

import torch
from torch import Tensor

from losses.options import CriticOptions, InvalidSetting
from losses.reconstruction import Reconstruction
from losses.term import Surroundings, Term


class Critic(Term):
    """A term whose network may look less often, at fewer images, or at a part of each.

    The mean of a weighted term's gradient stays what it was: over k steps with `every=k`, over the draws of images,
    and, but for the rims of windows where the network sees no surroundings, over the draws of windows. A single step
    knows less: `experiments.benchmarks.critics` measures how far its direction is off, and what that saves. `10%term`
    means 10% in the mean over steps too; but where a part of the images or places gets all of it, not over the draws,
    whose pushes partly cancel.
    """

    Options = CriticOptions
    sees_images = True
    name: str  # of the term, in messages

    def __init__(self, options: Any = None, surroundings: Surroundings | None = None):
        super().__init__(options, surroundings)
        o = self.options
        if o.every < 1:
            raise InvalidSetting(f"losses.{self.name}.every={o.every} must be at least 1")
        if not 0 < o.images <= 1:
            raise InvalidSetting(f"losses.{self.name}.images={o.images} is a fraction, above 0 and at most 1")
        self.every = o.every

    def check_crop(self, least: int) -> None:
        """Raises InvalidSetting where the window is larger than the image, or below the `least` the network needs."""
        crop, side = self.options.crop, min(self.surroundings.image_size)
        if crop is not None and not least <= crop <= side:
            raise InvalidSetting(
                f"losses.{self.name}.crop={crop} must be between {least}, which the network needs, "
                f"and the image's {side} pixels"
            )

    def seen(self, r: Reconstruction, image: Tensor, stride: int) -> Tensor:
        """What a network whose grid has `stride` pixels is shown of an image of `r`: (B, 3, H, W) -> (b, 3, h, w).

        The same part of every image of one reconstruction.
        """
        first, *place = r.chance
        if self.options.images < 1:
            image = image.index_select(0, spaced(len(image), self.options.images, first, image.device))
        image = r.shifted(image, stride)
        if self.options.crop is not None:
            rows, columns = (tile(n, self.options.crop, u) for n, u in zip(image.shape[2:], place, strict=True))
            image = image[:, :, rows, columns]
        return image


def spaced(count: int, fraction: float, first: float, device: torch.device) -> Tensor:
    """Evenly spaced indices into `count` images, `fraction` of them but at least one; `first` in [0, 1) moves them all.

    Over a uniform `first` each image is drawn equally often (systematic sampling). Processes with equal parts of a
    batch, where a whole number of images is drawn from each, draw the very images that one process would.
    """
    drawn = max(1, round(fraction * count))
    # Made on the device, so that nothing waits for it.
    return (torch.arange(drawn, device=device) * count + int(first * count)) // drawn


def tile(size: int, side: int, u: float) -> slice:
    """One of the fewest evenly spaced windows of `side` that cover `size` pixels; `u` in [0, 1) says which.

    Windows at any place would look at an image's middle far more often than at its borders.
    """
    side = min(side, size)
    last = -(-size // side) - 1
    top = (size - side) * int(u * (last + 1)) // max(1, last)
    return slice(top, top + side)
