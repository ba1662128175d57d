"""What a metric says about itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from recon.metrics.pair import Pair


class Undefined(Exception):
    """A metric has no value here: the message says why, in a few words for a table ("patches below 8 pixels")."""


@dataclass(frozen=True)
class Passport:
    """All that a reader must know to trust a number.

    Args:
        what: one sentence: what it measures, and on which pixels.
        unit: of its values ("dB", "share", ...).
        low, high: its range.
        better: "higher", "lower", or "truth": best where it equals the same number on the truth.
        reference: paper and the implementation it agrees with.
        paired: whether it reads the truth. One that does not stands beside the same number on the truth.
    """

    name: str
    what: str
    unit: str
    low: float
    high: float
    better: Literal["higher", "lower", "truth"]
    reference: str
    paired: bool


@dataclass(frozen=True)
class SetMetric(Passport):
    """A number of a whole set of images, which no image has alone; the module that lists it says how it is had."""


@dataclass(frozen=True)
class Metric(Passport):
    """A number per image.

    Args:
        function: (B,) float32 or wider from a `Pair`; NaN where one image has no value; raises `Undefined` where
            none can have one.
    """

    function: Callable[[Pair], Tensor]

    def __call__(self, pair: Pair) -> Tensor:
        return self.function(pair)
