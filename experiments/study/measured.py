"""What the runs of a study gave together: one value per image of each seed, and what follows from them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from experiments.study.effects import Effect, corrected, effect
from experiments.study.run_values import RunValues
from losses import InvalidSetting


@dataclass
class Measurements:
    """The values of a study.

    Args:
        values: row -> metric or question of a probe -> (S, n), seeds by images. Rows as of `RunValues`.
        seeds: row -> its S seeds, in the study's order; fewer than the study's while it is not finished.
        pictures: row -> (k, 3, H, W) uint8 of the first seed; "truth" among them.
        own: rows and metrics that were left out because the objective minimised the metric's network.
        images: row -> digest of the images and masks on which its reconstructions were measured. Reconstructions are
            compared where it is the same, as of runs with other masks it is not.
        probed: questions of probes, whose images are the same for all rows.
    """

    values: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    seeds: dict[str, list[int]] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    own: set[tuple[str, str]] = field(default_factory=set)
    images: dict[str, str] = field(default_factory=dict)
    probed: set[str] = field(default_factory=set)

    def effects(self, metric: str) -> dict[str, Effect]:
        """Row -> its mean, of the rows that have the metric."""
        return {row: effect(found[metric]) for row, found in self.values.items() if metric in found}

    def other_task(self, row: str, reference: str) -> bool:
        """Whether its reconstructions were measured on other images or masks than the reference's."""
        return bool(self.images.get(row)) and self.images[row] != self.images.get(reference)

    def comparable(self, row: str, metric: str, reference: str) -> bool:
        """Whether both rows have the metric, on the same images and masks."""
        own, base = self.values[row], self.values[reference]
        same = metric in self.probed or not self.other_task(row, reference)
        return same and metric in own and metric in base

    def differences(self, metrics: Iterable[str], reference: str) -> dict[tuple[str, str], Effect]:
        """(row, metric) -> the row's mean less the reference's, seed by seed and image by image; Holm over all.

        Over the seeds that both have; a row that shares none is not compared.

        Raises:
            InvalidSetting: the reference draws completions, so that several rows have its name.
        """
        if reference not in self.values:
            raise InvalidSetting(f"reference '{reference}' is no row; the rows are {', '.join(self.values)}")
        found = {
            (row, metric): effect(self._of(row, metric, common) - self._of(reference, metric, common))
            for row in self.values
            if row != reference and (common := [s for s in self.seeds[row] if s in self.seeds[reference]])
            for metric in metrics
            if self.comparable(row, metric, reference)
        }
        return dict(zip(found, corrected(list(found.values())), strict=True))

    def _of(self, row: str, metric: str, seeds: list[int]) -> Tensor:
        return self.values[row][metric][[self.seeds[row].index(seed) for seed in seeds]]


def gather(of_runs: Mapping[tuple[str, int], RunValues]) -> Measurements:
    """Puts together what the runs gave, by variant and seed.

    Raises:
        InvalidSetting: seeds of a variant were not measured on the same images, or runs were not probed on the same.
    """
    by_row: dict[str, dict[str, list[Tensor]]] = {}
    found = Measurements()
    for (variant, seed), run in of_runs.items():
        rows = {row: dict(values) for row, values in run.values.items()} or {variant: {}}
        next(iter(rows.values())).update(run.probes)  # the encoder of all rows is one
        for row, values in rows.items():
            found.seeds.setdefault(row, []).append(seed)
            for metric, values_of_images in values.items():
                by_row.setdefault(row, {}).setdefault(metric, []).append(values_of_images)
            if found.images.setdefault(row, run.images) != run.images:
                raise InvalidSetting(f"{row} of seed {seed} was measured on other images than with the seeds before")
        found.own |= set(run.own)
        found.probed |= run.probes.keys()
        for row, pictures in run.pictures.items():
            found.pictures.setdefault(row, pictures)
    if len({run.probed_on for run in of_runs.values() if run.probed_on}) > 1:
        raise InvalidSetting("the runs were probed on different images")
    found.values = {
        row: {metric: torch.stack(seeds) for metric, seeds in values.items() if len(seeds) == len(found.seeds[row])}
        for row, values in by_row.items()
    }
    return found
