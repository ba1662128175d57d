"""What a probe found: which test images it told right, for every seed."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Result:
    """One probe of one contestant.

    Args:
        contestant: key of who was probed.
        probe: linear, knn, attentive, partial, finetune.
        variant: what else tells it apart: "k=20", "blocks=2".
        feature: what a frozen probe read: "mean/12" (patch tokens behind block 12), "class/12", "pixels"; otherwise "".
        fraction: of the training labels.
        correct: (S, n) bool, seeds by test images.
        chosen: per seed, what was chosen on held-back training images, or how it was trained.
    """

    contestant: str
    probe: str
    variant: str
    feature: str
    fraction: float
    correct: Tensor
    chosen: list[dict[str, Any]] = field(default_factory=list)

    @property
    def question(self) -> str:
        """What was asked, whoever answered: the same for every contestant's counterpart."""
        return "/".join(filter(None, (self.probe, self.variant, self.feature, f"{self.fraction:g}")))

    @property
    def name(self) -> str:
        """Unique within one probing."""
        return f"{self.contestant}/{self.question}"
