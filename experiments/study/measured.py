"""What the runs of a study gave: one value per image of each seed, and what follows from them."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from experiments.study.definition import Study
from experiments.study.effects import Effect, corrected, effect, pseudo_values
from losses import InvalidSetting
from recon.evaluation import results
from recon.evaluation.results import Evaluation, set_statistic
from recon.metrics.recovery import AVERAGED, Recovery, summary
from recon.probing import probe_results
from recon.probing.probe_results import ProbeRecord
from recon.result_table import RowInfo
from recon.run_folder import RUNS


@dataclass
class Measurements:
    """The values of a study.

    Args:
        values: row -> metric -> (S, n), seeds by images. A row is a variant; of one that draws completions
            "NAME (mean)" and the like for each rendering. A row has no value of a metric whose network its objective
            minimised.
        pictures: row -> (k, 3, H, W) uint8 of the first seed; "truth" among them.
        own: rows and metrics that were left out for that reason.
    """

    values: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    own: set[tuple[str, str]] = field(default_factory=set)

    def effects(self, metric: str) -> dict[str, Effect]:
        """Row -> its mean, of the rows that have the metric."""
        return {row: effect(found[metric]) for row, found in self.values.items() if metric in found}

    def differences(self, metrics: Iterable[str], reference: str) -> dict[tuple[str, str], Effect]:
        """(row, metric) -> the row's mean less the reference's, seed by seed and image by image; Holm over all.

        Raises:
            InvalidSetting: the reference draws completions, so that several rows have its name.
        """
        if reference not in self.values:
            raise InvalidSetting(f"reference '{reference}' is no row; the rows are {', '.join(self.values)}")
        base = self.values[reference]
        found = {
            (row, metric): effect(own[metric] - base[metric])
            for row, own in self.values.items()
            for metric in metrics
            if row != reference and metric in own and metric in base
        }
        return dict(zip(found, corrected(list(found.values())), strict=True))


def gather(name: str, study: Study) -> Measurements:
    """Reads evaluations and probings of all runs.

    Raises:
        InvalidSetting: runs were not measured on the same images.
    """
    by_row: dict[str, dict[str, list[Tensor]]] = {}
    found = Measurements()
    evaluated, probed_on = set(), set()  # digests
    for (variant, _), settings in study.runs(name).items():
        evaluation = results.read(RUNS / settings["name"])
        if evaluation is None:
            raise InvalidSetting(f"{RUNS / settings['name']} has no evaluation of this version")
        rows = rows_of(variant, evaluation, study.measured)
        if any(rows.values()):  # images and masks, which may differ where probes alone are measured
            evaluated.add(evaluation.digest)
        if study.probe is not None and (probed := probe_results.read(RUNS / settings["name"])):
            probed_on.add(probed.data.digest)
            next(iter(rows.values())).update(probes_of(probed, study.measured))  # the encoder of all rows is one
        for row, values in rows.items():
            for metric, values_of_images in values.items():
                by_row.setdefault(row, {}).setdefault(metric, []).append(values_of_images)
        for info in shown_rows(evaluation):
            row = _label(variant, info.rendering)
            found.own |= {(row, metric) for metric in study.measured if metric in info.own}
            found.pictures.setdefault(row, evaluation.tensors[f"{info.key}/pictures"])
        found.pictures.setdefault("truth", evaluation.tensors["truth/pictures"])
    if len(evaluated) > 1 or len(probed_on) > 1:
        raise InvalidSetting(f"the runs of {name} were measured on different images")
    found.values = {
        row: {metric: torch.stack(seeds) for metric, seeds in values.items() if len(seeds) == len(study.seeds)}
        for row, values in by_row.items()
    }
    return found


def shown_rows(evaluation: Evaluation) -> list[RowInfo]:
    """The run's rows, without the one that has seen the answer."""
    return [info for info in evaluation.rows if info.kind == "run" and info.key != "oracle"]


def rows_of(variant: str, evaluation: Evaluation, metrics: Iterable[str]) -> dict[str, dict[str, Tensor]]:
    """Row -> metric -> (n,) float64 of one run; without those whose network the run's objective minimised."""
    found: dict[str, dict[str, Tensor]] = {}
    for info in shown_rows(evaluation):
        each = {m: per_image(evaluation, info.key, m) for m in metrics if m not in info.own}
        found[_label(variant, info.rendering)] = {m: values for m, values in each.items() if values is not None}
    return found


def probes_of(record: ProbeRecord, metrics: Iterable[str]) -> dict[str, Tensor]:
    """Question -> (n,) float64, means over the probe's seeds."""
    asked = [r for r in record.results.values() if r.encoder == "run" and r.question in metrics]
    return {result.question: result.per_image.double().mean(0) for result in asked}


def _label(variant: str, rendering: str | None) -> str:
    return f"{variant} ({rendering})" if rendering else variant


def per_image(evaluation: Evaluation, row: str, metric: str) -> Tensor | None:
    """(n,) values of a row's metric; None where it has none. Ratios of sums are split into what each image adds.

    A metric of `recovery` can be asked of one frequency band, "invented/band=3", or of the hidden patches at one
    distance from the nearest visible patch, "invented/distance=2".
    """
    tensors = evaluation.tensors
    name, _, part = metric.partition("/")
    if part and name in AVERAGED and f"{row}/moments" in tensors:  # (n, distances, bands, 4)
        moments, (kind, _, place) = tensors[f"{row}/moments"], part.partition("=")
        try:
            if kind == "band":
                return pseudo_values(moments.sum(1), lambda sums: getattr(Recovery(sums), name)[:, int(place)])
            return pseudo_values(moments[:, int(place) - 1], lambda sums: summary(sums)[name])
        except (IndexError, ValueError) as error:
            raise InvalidSetting(f"measured '{metric}': {name}/band=B or {name}/distance=D that exist") from error
    of_row = {key.removeprefix(f"{row}/"): value for key, value in tensors.items() if key.startswith(f"{row}/")}
    if (statistic := set_statistic(metric, of_row, tensors.get("truth/tenengrad"))) is not None:
        return pseudo_values(*statistic)
    return of_row.get(metric)
