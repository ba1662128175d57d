"""What the runs of a study gave: one value per image of each seed, and what follows from them."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from experiments.study.definition import Plain, Study
from experiments.study.effects import Effect, effect, holm, pseudo_values
from losses import InvalidSetting
from recon.evaluation import results
from recon.evaluation.results import SUMMED, Evaluation
from recon.metrics.recovery import Recovery
from recon.probing import probe_results
from recon.probing.probe_results import ProbeRecord
from recon.run_folder import RUNS


@dataclass
class Measurements:
    """The values of a study.

    Args:
        values: row -> metric -> (S, n), seeds by images. A row is a variant; of one that draws completions "NAME mean"
            and the like for each rendering.
        pictures: row -> (k, 3, H, W) uint8 of the first seed; "truth" and "masked" among them.
        reasons: metrics that no row has, and why.
    """

    values: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)

    def effects(self, metric: str) -> dict[str, Effect]:
        """Row -> its mean, of the rows that have the metric."""
        return {row: effect(found[metric]) for row, found in self.values.items() if metric in found}

    def differences(self, metrics: Iterable[str], reference: str) -> dict[tuple[str, str], Effect]:
        """(row, metric) -> the row's mean less the reference's, seed by seed and image by image; Holm over all."""
        base = self.values[reference]
        found = {
            (row, metric): effect(own[metric] - base[metric])
            for row, own in self.values.items()
            for metric in metrics
            if row != reference and metric in own and metric in base
        }
        return dict(zip(found, holm(list(found.values())), strict=True))


def gather(name: str, study: Study) -> Measurements:
    """Reads evaluations and probings of all runs.

    Raises:
        InvalidSetting: runs were not measured on the same images.
    """
    by_row: dict[str, dict[str, list[Tensor]]] = {}
    found, digests = Measurements(), set()
    for (variant, _), settings in study.runs(name).items():
        evaluation, probed = _read(settings)
        digests.add((evaluation.digest, probed.data.digest if probed else ""))
        for row, values in rows_of(variant, evaluation, probed, study.measured).items():
            for metric, per_image in values.items():
                by_row.setdefault(row, {}).setdefault(metric, []).append(per_image)
        for info in evaluation.rows:
            if info.kind == "run":
                found.pictures.setdefault(_label(variant, info.rendering), evaluation.tensors[f"{info.key}/pictures"])
        found.pictures.setdefault("truth", evaluation.tensors["truth/pictures"])
    if len(digests) > 1:
        raise InvalidSetting(f"the runs of {name} were measured on different images")
    found.values = {
        row: {metric: torch.stack(seeds) for metric, seeds in values.items() if len(seeds) == len(study.seeds)}
        for row, values in by_row.items()
    }
    return found


def _read(settings: Plain) -> tuple[Evaluation, ProbeRecord | None]:
    folder = RUNS / settings["name"]
    evaluation = results.read(folder)
    if evaluation is None:
        raise InvalidSetting(f"{folder} has no evaluation of this version")
    return evaluation, probe_results.read(folder)


def rows_of(
    variant: str, evaluation: Evaluation, probed: ProbeRecord | None, metrics: Iterable[str]
) -> dict[str, dict[str, Tensor]]:
    """Row -> metric -> (n,) float64 of one run. A probe belongs to the run's first row: the encoder is one."""
    found: dict[str, dict[str, Tensor]] = {}
    for info in evaluation.rows:
        if info.kind == "run":
            row = _label(variant, info.rendering)
            values = {metric: per_image(evaluation, info.key, metric) for metric in metrics}
            found[row] = {metric: value for metric, value in values.items() if value is not None}
    if probed:
        first = found[next(iter(found))]
        for result in probed.results.values():
            if result.encoder == "run" and result.question in metrics:
                first[result.question] = result.per_image.double().mean(0)
    return found


def _label(variant: str, rendering: str | None) -> str:
    return f"{variant} ({rendering})" if rendering else variant


def per_image(evaluation: Evaluation, row: str, metric: str) -> Tensor | None:
    """(n,) values of a row's metric; None where it has none. Ratios of sums are split into what each image adds.

    A metric of `recovery` can be asked of one frequency band, "invented/band=3", or of the hidden patches at one
    distance from the nearest visible patch, "invented/distance=2".
    """
    tensors = evaluation.tensors
    name, _, part = metric.partition("/")
    summed, statistic = SUMMED.get(name, ("", None))
    if statistic and f"{row}/{summed}" in tensors:
        sums, (kind, _, place) = tensors[f"{row}/{summed}"], part.partition("=")
        if summed == "moments":  # (n, distances, bands, 4)
            sums = sums[:, int(place) - 1] if kind == "distance" else sums.sum(1)
        if kind == "band":
            return pseudo_values(sums, lambda sums: getattr(Recovery(sums), name)[:, int(place)])
        return pseudo_values(sums, statistic)
    if metric == "detail":
        pairs = torch.stack([tensors[f"{row}/tenengrad"], tensors["truth/tenengrad"]], dim=1)
        return pseudo_values(pairs, lambda sums: sums[:, 0] / sums[:, 1])
    return tensors.get(f"{row}/{metric}")
