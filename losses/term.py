"""What a term of an objective is."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from losses.heads import PixelHead
from losses.options import TermOptions
from losses.processes import ALONE, Processes
from losses.reconstruction import Reconstruction


@dataclass(frozen=True)
class Surroundings:
    """What a term may need to know of the run it serves.

    Args:
        image_size: (H, W) in pixels.
        steps: length of the run, for schedules given in fractions of it; None: no schedule, fully on.
        dtype: the precision in which critics compute.
        compiled: whether critics are compiled.
        processes: those that share each batch in equal parts; a trainable critic learns from all of it.
    """

    image_size: tuple[int, int] = (64, 64)
    steps: int | None = None
    dtype: torch.dtype = torch.float32
    compiled: bool = False
    processes: Processes = ALONE


class Term(nn.Module):
    """A scalar that says how far a reconstruction is from the truth.

    A subclass gives `value`; its docstring says what it measures, what it reads, its unit and its source.
    A term with a trainable critic keeps it and its optimiser to itself, and gives `learn` and `update` too.
    """

    Options: type = TermOptions  # a dataclass of `option`s
    default_weight = 1.0  # of a bare name
    default_is_share = False  # a percentage: 200%term
    every = 1  # steps; evaluated at every k-th, where it pushes k times as much
    head = PixelHead()
    sees_images = False  # whether it reads more of a reconstruction than the patches that were predicted

    def __init__(self, options: Any = None, surroundings: Surroundings | None = None):
        super().__init__()
        self.options = options or self.Options()
        self.surroundings = surroundings or Surroundings()

    @classmethod
    def head_of(cls, options: Any) -> PixelHead:
        """What the decoder must put out under these options."""
        return cls.head

    def value(self, r: Reconstruction) -> Tensor:
        """The scalar, differentiable in `r.prediction`. Trainable critics are constants here."""
        raise NotImplementedError

    def ramp(self, step: int) -> float:
        """Factor on the term's weight at `step`, in [0, 1]."""
        return 1.0

    def learn(self, r: Reconstruction) -> None:
        """Adds to the gradients of the term's own critic. `r.prediction` is detached."""

    def update(self, step: int) -> None:
        """Now: one step of the critic with the gradients gathered since the last."""

    def logs(self) -> dict[str, Tensor]:
        """Numbers worth a curve, scalars on the device."""
        return {}

    def warning(self) -> str | None:
        """One line where the term sees that something goes wrong. May wait for the device."""
        return None

    def provenance(self) -> dict[str, str]:
        """Where pretrained weights came from, with their checksum."""
        return {}

    def state(self) -> dict[str, Any]:
        """All that exact resumption needs; nothing for a term that does not train."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up a `state`."""
