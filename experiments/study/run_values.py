"""What one run of a study gave, in a file of its record: once it is there, the run itself is needed no more.

So a study can be made on several machines, one after another, and its statistics can be taken anew without them.
"""

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from experiments.study.definition import Plain, Study
from experiments.study.effects import pseudo_values
from losses import InvalidSetting
from losses.reconstruction import expand_to_pixels
from recon.evaluation import results
from recon.evaluation.results import Evaluation, set_statistic
from recon.metrics.recovery import AVERAGED, Recovery, summary
from recon.probing import probe_results
from recon.probing.probe_results import ProbeRecord
from recon.result_table import RowInfo
from recon.run_folder import ENVIRONMENT, RUNS, metric_lines, read_config, write_atomically

FOLDER = "values"  # within a record
SHOWN = 8  # images of the picture
HEAD = ("made", "own", "images", "probed_on", "machine", "core_hours")
Values = dict[str, dict[str, Tensor]]


@dataclass
class RunValues:
    """The numbers of one run, an image each.

    Args:
        made: what they depend on: the run's settings, those of evaluation and probe, and what was measured.
        values: row -> metric -> (n,). A row is the variant; of one that draws completions "NAME (mean)" and the like
            for each rendering. A row has no value of a metric whose network its objective minimised.
        probes: question of a probe -> (m,).
        pictures: row -> (k, 3, H, W) uint8, composites; "truth" among them. Of a study's first seed alone.
        own: rows and metrics that were left out because the objective minimised the metric's network.
        images, probed_on: digests of the images and masks, and of the labelled images; "" for none.
        machine, core_hours: of the training; hours of the device where it is a GPU.
    """

    made: Plain
    values: Values = field(default_factory=dict)
    probes: dict[str, Tensor] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    own: list[tuple[str, str]] = field(default_factory=list)
    images: str = ""
    probed_on: str = ""
    machine: str = ""
    core_hours: float = 0.0


def path_in(folder: Path, variant: str, seed: int) -> Path:
    """The file of a run's values in the record `folder`."""
    return folder / FOLDER / f"{variant}-{seed}.npz"


def made_by(study: Study, settings: Plain) -> Plain:
    """What the values of a run with these settings depend on."""
    made = {"settings": settings, "evaluate": study.evaluate, "probe": study.probe, "measured": list(study.measured)}
    return json.loads(json.dumps(made))


def measure(study: Study, variant: str, settings: Plain, pictures: bool) -> RunValues:
    """The values of a run that has been evaluated, where it draws anything, and probed, where the study does so."""
    folder = RUNS / settings["name"]
    found = RunValues(made_by(study, settings))
    found.machine, found.core_hours = spent_on(folder)
    if study.evaluate is not None and (evaluation := results.read(folder)) is not None:
        found.images = evaluation.digest
        found.values = rows_of(variant, evaluation, study.measured)
        for info in shown_rows(evaluation):
            row = _label(variant, info.rendering)
            found.own += [(row, metric) for metric in study.measured if metric in info.own]
            if pictures:
                found.pictures[row] = composites(evaluation, info.key)
        if pictures:
            found.pictures["truth"] = evaluation.tensors["truth/pictures"][:SHOWN]
    if study.probe is not None and (probed := probe_results.read(folder)) is not None:
        found.probed_on, found.probes = probed.data.digest, probes_of(probed, study.measured)
    return found


def composites(evaluation: Evaluation, row: str) -> Tensor:
    """The first pictures of a row as predicted where hidden, and true elsewhere: (k, 3, H, W) uint8."""
    p, masks = evaluation.protocol, evaluation.tensors["masks"][:SHOWN]
    truth, predicted = (evaluation.tensors[f"{key}/pictures"][:SHOWN] for key in ("truth", row))
    return torch.where(expand_to_pixels(masks, p.grid, p.patch_size), predicted, truth)


def write(path: Path, found: RunValues) -> None:
    """Writes a compressed archive of numpy, float32 and uint8 alone."""
    arrays = {f"values/{row}/{m}": t.float() for row, values in found.values.items() for m, t in values.items()}
    arrays |= {f"probes//{question}": values.float() for question, values in found.probes.items()}
    arrays |= {f"pictures/{row}/": images for row, images in found.pictures.items()}
    head = {name: getattr(found, name) for name in HEAD}
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        np.savez_compressed(file, head=np.array(json.dumps(head)), **{key: t.numpy() for key, t in arrays.items()})


def read(path: Path) -> RunValues | None:
    """The values in a file; None where there is none.

    Raises:
        InvalidSetting: it cannot be read.
    """
    if not path.is_file():
        return None
    try:
        with np.load(path) as archive:
            head = json.loads(str(archive["head"]))
            found = RunValues(**{name: head[name] for name in HEAD})
            found.own = [(row, metric) for row, metric in found.own]
            for key in archive.files:
                kind, _, rest = key.partition("/")
                row, _, name = rest.partition("/")
                if kind == "values":
                    found.values.setdefault(row, {})[name] = torch.from_numpy(archive[key])
                elif kind == "probes":
                    found.probes[name] = torch.from_numpy(archive[key])
                elif kind == "pictures":
                    found.pictures[row] = torch.from_numpy(archive[key])
        return found
    except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, BadZipFile, zlib.error) as error:
        raise InvalidSetting(f"{path} cannot be read ({error}); remove it, and its run is measured again") from error


def current(path: Path, study: Study, settings: Plain) -> RunValues | None:
    """The values in a file, where they are of the run with these settings, measured as the study asks now."""
    found = read(path)
    return found if found is not None and found.made == made_by(study, settings) else None


def spent_on(folder: Path) -> tuple[str, float]:
    """What a run was trained on, in words, and its core-hours (of a GPU: hours of the device)."""
    environment: dict[str, Any] = json.loads((folder / ENVIRONMENT).read_text())
    size, steps, seconds = read_config(folder)["batch"]["size"], 0, 0.0
    for line in metric_lines(folder):
        step, speed = line["step"] or 0, line.get("images_per_second")
        if speed:
            seconds += size * (step - steps) / speed
        steps = step
    device = environment["device"]
    cores = environment["threads"] if device == "cpu" else 1
    packages = environment["packages"]
    words = f"{device}, {environment['threads']} thread(s), Python {environment['python']}, torch {packages['torch']}"
    return words, cores * seconds / 3600


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
