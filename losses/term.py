"""What a term of an objective is: `Term`, `Critic` for those that judge through a network, and what they share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from losses.heads import PixelHead
from losses.options import DEFAULT_POOL, CriticOptions, InvalidSetting, TermOptions
from losses.reconstruction import Reconstruction


class Processes:
    """The processes that share each batch: here one, which has it whole; a subclass stands for several."""

    count = 1

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor, in place, by its sum over all processes; all of them call it, in the same order."""


SINGLE_PROCESS = Processes()


@dataclass(frozen=True)
class TermContext:
    """What a term may need to know of the run."""

    image_size: tuple[int, int] = (64, 64)  # (H, W) in pixels
    steps: int | None = None  # of the run, for schedules in fractions of it; None: no schedule, full weight always
    dtype: torch.dtype = torch.float32  # in which critics compute
    compiled: bool = False  # whether critics are
    processes: Processes = SINGLE_PROCESS  # that share each batch in equal parts; critics learn from the whole batch


class Term(nn.Module):
    """A scalar that says how far a reconstruction is from the truth.

    A subclass gives `value`; its docstring says what it measures, what it reads, its unit and its source. A term with a
    trainable critic owns the critic and its optimiser, and implements `learn` and `update` too.
    """

    Options: type[TermOptions] = TermOptions  # a dataclass of `option`s
    every = 1  # the term is evaluated at every k-th step, with k times its weight
    head = PixelHead()
    sees_images = False  # whether it reads more of a reconstruction than the patches that were predicted

    def __init__(self, options: Any = None, context: TermContext | None = None):
        super().__init__()
        self.options: Any = options or self.Options()
        self.context = context or TermContext()
        self.head = self.head_of(self.options)

    @classmethod
    def head_of(cls, options: Any) -> PixelHead:
        """The head that the term needs under these options."""
        return cls.head

    def value(self, r: Reconstruction) -> Tensor:
        """The scalar, differentiable in `r.prediction`. Parameters of trainable critics are constants here."""
        raise NotImplementedError

    def ramp(self, step: int) -> float:
        """Factor on the term's weight at `step`, in [0, 1]."""
        return 1.0

    def learn(self, r: Reconstruction) -> None:
        """Accumulates gradients of the term's own critic. `r.prediction` is detached."""

    def update(self, step: int) -> None:
        """Takes one optimiser step of the critic with the gradients accumulated since the last one."""

    def logs(self) -> dict[str, Tensor]:
        """Numbers worth a curve, scalars on the device."""
        return {}

    def warning(self) -> str | None:
        """One line if the term finds that training goes wrong. May wait for the device."""
        return None

    def provenance(self) -> dict[str, str]:
        """Where pretrained weights came from, with their checksum."""
        return {}

    def state(self) -> dict[str, Any]:
        """All that exact resumption needs; empty for a term that does not train."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores what `state` returned."""


class Critic(Term):
    """A term whose network may run at fewer steps, on fewer images, or on a part of each.

    The expected weighted gradient stays the same, over steps, images and windows (except near the borders of windows,
    where the network lacks context). A single step's gradient is noisier: `experiments.benchmarks.critics` measures by
    how much, and what is saved. With `images` or `crop` each sampled part gets the 10% of `10%term`: the average over
    samples has less.
    """

    Options = CriticOptions
    sees_images = True
    name: str  # of the term, for messages

    def __init__(self, options: Any = None, context: TermContext | None = None):
        super().__init__(options, context)
        self.every = self.options.every

    def check_crop(self, least: int) -> None:
        """Refuses a window that exceeds the image, or is below the `least` pixels that the network needs."""
        crop, side = self.options.crop, min(self.context.image_size)
        if crop is not None and not least <= crop <= side:
            raise InvalidSetting(
                f"losses.{self.name}.crop={crop} must be between {least}, which the network needs, "
                f"and the image's {side} pixels"
            )

    def check_pool(self, stride: int) -> None:
        """Refuses squares of `pool` pixels that exceed what a network with this grid reads of an image."""
        side = self.options.crop or min(self.context.image_size) - stride + 1
        largest = max(side, DEFAULT_POOL)  # which suits any image
        if self.options.pool > largest:
            raise InvalidSetting(
                f"losses.{self.name}.pool={self.options.pool} must be between 1 and {largest}, of the {side} pixels "
                "that are seen"
            )

    def sampled(self, r: Reconstruction, image: Tensor, stride: int) -> Tensor:
        """The images and the window that a network whose grid has `stride` pixels reads: (B, C, H, W) -> (b, C, h, w).

        The same for every image tensor of one reconstruction.
        """
        which, *place = r.sampling
        if self.options.images < 1:
            image = image.index_select(0, spaced_indices(len(image), self.options.images, which, image.device))
        image = r.shifted(image, stride)
        if self.options.crop is not None:
            rows, columns = (window(n, self.options.crop, u) for n, u in zip(image.shape[2:], place, strict=True))
            image = image[:, :, rows, columns]
        return image

    def autocast(self, r: Reconstruction, enabled: bool = True) -> torch.autocast:
        """The context in which critics compute in their own precision."""
        dtype = self.context.dtype
        return torch.autocast(r.image.device.type, dtype, enabled=enabled and dtype != torch.float32)


def spaced_indices(count: int, fraction: float, u: float, device: torch.device) -> Tensor:
    """Evenly spaced indices into `count` images: `fraction` of them, at least one; `u` in [0, 1) is a random offset.

    With uniform `u` each image is drawn equally often (systematic sampling). Processes that share a batch draw the same
    images as one would, if a whole number is drawn from each part.
    """
    drawn = max(1, round(fraction * count))
    # Made on the device, so that nothing waits for it.
    return (torch.arange(drawn, device=device) * count + int(u * count)) // drawn


def window(size: int, side: int, u: float) -> slice:
    """One of the fewest evenly spaced windows of `side` that cover `size` pixels, chosen by `u` in [0, 1).

    Uniformly placed windows would contain an image's middle far more often than its borders.
    """
    side = min(side, size)
    last = -(-size // side) - 1
    top = (size - side) * int(u * (last + 1)) // max(1, last)
    return slice(top, top + side)


def widened(x: Tensor) -> Tensor:
    """In float32 or wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """L2 norm over all gradients, a scalar on the device; not finite if any gradient is not."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def step_unless(optimizer: torch.optim.Optimizer, bad: Tensor) -> None:
    """Takes one step of a fused optimiser unless `bad`, a bool scalar on the device, which nothing waits for.

    Fused kernels take `found_inf`, as gradient scaling does, and leave parameters and state untouched.
    """
    scaled: Any = optimizer  # torch's gradient scaler sets the attribute, which no class declares
    scaled.found_inf = bad.float()
    optimizer.step()
    del scaled.found_inf  # or a later plain step would be skipped too
