"""Evaluates a run: one pass over held-out images, with the same images and masks for every row."""

from contextlib import suppress
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from losses import InvalidSetting
from recon.console import progress_bar
from recon.data import Source, StreamedSource
from recon.evaluation.evaluator import Evaluator, RatioEvaluator
from recon.evaluation.protocol import Digest, Protocol, batches, open_source, protocol_of
from recon.evaluation.results import Evaluation
from recon.evaluation.rows import Row, baseline_rows, run_rows
from recon.evaluation.suite import MetricSuite, columns_of
from recon.evaluation.summary import Measured, row_values
from recon.loaded_run import LoadedRun
from recon.metrics import Pair, Undefined
from recon.metrics.spectrum import band_frequency
from recon.result_table import Column, Results, RowInfo, Value, points
from recon.study_config import Measuring, check_measuring
from recon.training.device import make_fabric

EXACT_MASKS = 12  # that exact retention is computed for: the time of each grows with the cube of its pixels


@dataclass
class EvalPass:
    """What one pass over the images of a protocol found; `digest` is their checksum.

    `names` are those of all images, `pictured` of the ones that are kept to look at, and `masks` (pictures, N) theirs.
    `measured` has the rows by key; `by_ratio` those of the run under other mask ratios: row -> ratio -> numbers.
    """

    digest: str
    names: list[str]
    pictured: list[str]
    masks: Tensor
    measured: dict[str, Measured]
    by_ratio: dict[str, dict[float, dict[str, float]]]


def evaluate(run: LoadedRun, measuring: Measuring, suite: MetricSuite, before: Evaluation | None = None) -> Evaluation:
    """Measures a run, the simple reconstructions and the truth, with a progress bar.

    Args:
        suite: of `load_suite(measuring)`.
        before: an evaluation of another run under the same settings; its simple reconstructions are taken over where
            the protocol is the same too.

    Raises:
        InvalidSetting: a setting is out of range, the data is not available, or has changed since `before`.
    """
    check_measuring(measuring)
    device = evaluation_device(measuring.device)
    protocol = protocol_of(run.settings, run.model.patch_size, measuring)
    training, held_out = (open_source(run.settings, split, measuring) for split in ("train", "val"))
    rows = run_rows(run, device, measuring.render, measuring.draws)
    if before is not None and before.protocol.differing(protocol):
        before = None
    if before is None:
        rows += baseline_rows(protocol, training, measuring.training_images, measuring.batch)
    found = run_pass(rows, protocol, held_out, measuring, suite.to(device, protocol.image_size), device)
    if before is not None and before.digest != found.digest:
        raise InvalidSetting(f"{run.folder} finds other images of {protocol.data} than the run before it")
    taken_over = [] if before is None else [row for row in before.rows if row.kind != "run"]
    keys = {row.key for row in taken_over}
    tensors = {name: t for name, t in before.tensors.items() if name.partition("/")[0] in keys} if before else {}
    bayes = found.measured["bayes"].tensors if "bayes" in found.measured else {}
    least = tensors.get("bayes/masked_mse", bayes.get("masked_mse"))
    for measured in found.measured.values() if least is not None else ():
        measured.tensors["excess_mse"] = measured.tensors["masked_mse"] - least
    columns = columns_of(measuring, bound=least is not None)
    tensors |= {f"{key}/{name}": t for key, measured in found.measured.items() for name, t in measured.tensors.items()}
    values = [value for row in rows for value in values_of(row, found, columns, run.name, protocol)]
    return Evaluation(
        run=run.name,
        model={"sha256": run.sha256, "step": run.step, "steps": run.resolved["steps"]},
        objective=run.resolved["objective"],
        protocol=replace(protocol, images=len(found.names)),
        digest=found.digest,
        caveat=held_out.caveat,
        measuring=asdict(measuring) | {"run": None},
        weights=suite.provenance,
        images=found.names,
        pictures=found.pictured,
        columns=columns,
        rows=[RowInfo(row.key, row.label, row.kind, row.note, row.rendering) for row in rows] + taken_over,
        results=Results([*values, *(value for value in (before.results if before else ()) if value.row in keys)]),
        tensors=tensors | {"masks": found.masks},
    )


def values_of(row: Row, found: EvalPass, columns: list[Column], run: str, protocol: Protocol) -> list[Value]:
    """Every number of a row, for the table: those of the pass, and what is known without one."""
    run = run if row.kind == "run" else ""
    values = row_values(run, row.key, found.measured[row.key], columns, protocol.patch_size)
    by_ratio = found.by_ratio.get(row.key, {})
    names = next(iter(by_ratio.values()), ())
    curves = {name: [numbers[name] for numbers in by_ratio.values()] for name in names}
    values += points(run, row.key, "by_ratio", list(by_ratio), **curves)
    if row.exact_retention is not None:
        with suppress(Undefined):  # patches too small for bands
            exact = row.exact_retention(found.masks[:EXACT_MASKS]).tolist()
            values += points(run, row.key, "bands", band_frequency(protocol.patch_size).tolist(), exact_retention=exact)
    return values


def evaluation_device(name: str) -> torch.device:
    """The device of the settings, where it has double precision; sets CUDA to compute in float32, not in TF32."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    device = make_fabric(name, "fp32").device
    return torch.device("cpu") if device.type == "mps" else device


def run_pass(
    rows: list[Row],
    protocol: Protocol,
    source: Source | StreamedSource,
    measuring: Measuring,
    suite: MetricSuite,
    device: torch.device,
) -> EvalPass:
    """Measures every row in one pass over the images."""
    digest, names, pictured, masks, true_features = Digest(), [], [], [], []
    colour = torch.tensor(source.mean, dtype=torch.float64)
    evaluators = {row.key: Evaluator(suite, protocol.patch_size, colour) for row in rows}
    positions = evenly_spaced(measuring.pictures, protocol, source)
    # Draws take their time: under other ratios only the run's own row and the oracle's are measured.
    at_ratios = [row for row in rows if row.kind == "run" and row.key in ("run", "oracle")]
    ratios = other_ratios(measuring, protocol)
    by_ratio = {row.key: {ratio: RatioEvaluator(colour) for ratio in ratios} for row in at_ratios}
    total = -(-protocol.images // measuring.batch)
    for batch in progress_bar(batches(protocol, source, measuring.batch), "metrics", total):
        chosen = [i for i in range(len(batch.names)) if len(names) + i in positions]
        digest.add(batch)
        names += batch.names
        pictured += [batch.names[i] for i in chosen]
        masks.append(batch.mask[chosen])
        truth, mask = batch.images.to(device), batch.mask.to(device)
        if suite.features is not None:
            true_features.append(suite.features(truth))
        for row in rows:
            image = row.reconstruct(truth, mask)
            evaluators[row.key].update(Pair(image, truth, mask), image, row.distribution, chosen)
        for ratio in ratios:
            mask = protocol.masks(batch.names, ratio).to(device)
            for row in at_ratios:
                by_ratio[row.key][ratio].update(Pair(row.reconstruct(truth, mask), truth, mask))
    features = torch.cat(true_features) if true_features else None
    return EvalPass(
        digest.hexdigest(),
        names,
        pictured,
        torch.cat(masks),
        {key: evaluator.compute(features) for key, evaluator in evaluators.items()},
        {key: {ratio: at.compute() for ratio, at in found.items()} for key, found in by_ratio.items()},
    )


def evenly_spaced(count: int, protocol: Protocol, source: Source | StreamedSource) -> set[int]:
    """Positions of `count` images, evenly spaced among those that are measured."""
    images = protocol.images if isinstance(source, StreamedSource) else min(protocol.images, len(source))
    return {i * images // count for i in range(count)}


def other_ratios(measuring: Measuring, protocol: Protocol) -> list[float]:
    """The mask ratios of the curve, but for those that would hide all patches, or none."""
    patches = protocol.grid[0] * protocol.grid[1]
    return [ratio for ratio in dict.fromkeys(measuring.ratios) if 0 < int(patches * (1 - ratio)) < patches]
