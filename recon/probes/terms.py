"""What every contestant of one probing is probed under."""

from dataclasses import dataclass

from lightning_fabric import Fabric

from recon.evaluation.rows import Progress
from recon.probes.labelled import Task
from recon.training.ranks import Ranks


@dataclass(frozen=True)
class Terms:
    """The data and the conditions.

    `image_size`: (H, W). `fractions`: of the training labels. `batch`: images at a time through a frozen encoder.
    `workers`: processes that read ahead. `ranks`: that share the work, `fabric` being this one's own.
    """

    task: Task
    image_size: tuple[int, int]
    fractions: list[float]
    seeds: list[int]
    fabric: Fabric
    batch: int
    workers: int
    progress: Progress
    ranks: Ranks
