"""Evaluates a run in one pass over held-out images, the same images and masks for every row, and prints a table."""

import hashlib
import math
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from losses import InvalidSetting
from losses.features.weights import same_network
from recon.console import command_line, duration, progress_bar
from recon.data import Source, StreamedSource
from recon.distributed import require_one_process
from recon.evaluation.evaluator import Evaluator, MetricSuite, RatioEvaluator, columns_of, in_8_bits, load_suite
from recon.evaluation.protocol import Protocol, batches, open_source, protocol_of
from recon.evaluation.results import JSON, Evaluation, Measured, row_values, write
from recon.evaluation.rows import Row, baseline_rows, corrupted_rows, joined, run_rows
from recon.loaded_run import LoadedRun, open_run
from recon.metrics import Pair, Undefined
from recon.metrics.base import Images, chunk_length
from recon.metrics.spectrum import band_frequency
from recon.result_table import Column, Results, RowInfo, Value, points
from recon.run_folder import check_writable
from recon.scoreboard import table, undefined
from recon.study_config import EvaluateSettings, Measuring, check_measuring
from recon.training.device import make_fabric

BATCH_VALUES = 2**20  # of a CPU's images at a time, at most: 6 at 224 pixels, whose features take 250 MB
EXACT_MASKS = 12  # that exact retention is computed for: the time of each grows with the cube of its pixels


def evaluate_run(settings: EvaluateSettings, given: frozenset[str] = frozenset()) -> int:
    """Evaluates a run or another code's checkpoint, writes evaluation.json into its folder and prints a table.

    Raises:
        InvalidSetting: no such run, no readable model, nothing that could be drawn, no data, or several processes.
    """
    require_one_process("evaluate")
    if settings.run is None:
        raise InvalidSetting("give the run to evaluate: run=runs/NAME")
    began = time.monotonic()
    check_measuring(settings)
    run = open_run(Path(settings.run), settings.target)
    if run.undrawable:
        raise InvalidSetting(run.undrawable)
    if settings.render and not run.model.head.renderings:
        raise InvalidSetting(f"render={settings.render}: {run.name} has one answer to each image; leave render out")
    check_writable(run.folder)
    found = evaluate(run, settings, load_suite(settings))
    run.make_folder()
    write(run.folder, found)
    print(described(found, settings.columns))
    print(f"all numbers  {run.folder / JSON}   ({duration(time.monotonic() - began)})")
    print(f"next         {command_line('compare', {}, settings.run, 'ANOTHER_RUN')}")
    return 0


def described(found: Evaluation, which: str = "default") -> str:
    """An evaluation as text: its table, what was measured, and why columns are missing; `which` as of `table`."""
    p = found.protocol
    height, width = p.image_size
    lines = [
        table(found.rows, found.columns, found.results, which),
        f"\n{p.images} held-out images of {p.data}, {height}x{width} pixels, patches of {p.patch_size}, "
        f"{p.hiding}; ± half of the 95% interval over images (BCa bootstrap)",
        *([found.caveat] if found.caveat else []),
        *undefined(found.rows, found.columns, found.results),
    ]
    return "\n".join(lines)


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
    if before is None and run.model.corruption is not None:
        rows += corrupted_rows(run.model.corruption)
    elif before is None:
        rows += baseline_rows(protocol, training, measuring.training_images, measuring.batch)
    found = run_pass(rows, protocol, held_out, measuring, suite.to(device, protocol.image_size), device)
    if before is not None and before.digest != found.digest:
        raise InvalidSetting(f"{run.folder} finds other images of {protocol.data} than the run before it")
    taken_over = [] if before is None else [row for row in before.rows if row.kind != "run"]
    keys = {row.key for row in taken_over}
    tensors = {name: t for name, t in before.tensors.items() if name.partition("/")[0] in keys} if before else {}
    bayes = found.measured["bayes"].tensors if "bayes" in found.measured else {}
    least = tensors.get("bayes/masked_mse", bayes.get("masked_mse"))
    if least is not None:
        for measured in found.measured.values():
            measured.tensors["excess_mse"] = measured.tensors["masked_mse"] - least
    columns = columns_of(measuring, bound=least is not None)
    tensors |= {f"{key}/{name}": t for key, measured in found.measured.items() for name, t in measured.tensors.items()}
    detail = tensors.get("truth/tenengrad")
    values = [value for row in rows for value in values_of(row, found, columns, run.name, protocol, detail)]
    own = own_metrics(run, suite)
    infos = [RowInfo(row.key, row.label, row.kind, row.note, row.rendering) for row in rows]
    if own:
        note = f"not ranked by {', '.join(own)}: its objective minimised features of that network"
        infos = [replace(i, own=own, note=joined(i.note, note)) if i.kind == "run" else i for i in infos]
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
        rows=infos + taken_over,
        results=Results([*values, *(value for value in (before.results if before else ()) if value.row in keys)]),
        tensors=tensors | {"masks": found.masks},
    )


def own_metrics(run: LoadedRun, suite: MetricSuite) -> tuple[str, ...]:
    """The metrics whose network, of the same weights, the run's own objective minimised."""
    trained_on = run.resolved["weights"].values()
    return tuple(
        name for name, weights in suite.provenance.items() if any(same_network(weights, other) for other in trained_on)
    )


def values_of(
    row: Row, found: EvalPass, columns: list[Column], run: str, protocol: Protocol, true_detail: Tensor | None
) -> list[Value]:
    """Every number of a row, for the table: those of the pass, and what is known without one."""
    run = run if row.kind == "run" else ""
    values = row_values(run, row.key, found.measured[row.key], columns, protocol.patch_size, true_detail)
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
    digest, names, pictured, masks, true_features = hashlib.sha256(), [], [], [], []
    colour = torch.tensor(source.mean, dtype=torch.float64)
    evaluators = {row.key: Evaluator(suite, protocol.patch_size, colour) for row in rows}
    images = protocol.images if isinstance(source, StreamedSource) else min(protocol.images, len(source))
    positions = {i * images // measuring.pictures for i in range(measuring.pictures)}  # of those that are kept
    # Draws take their time: under other ratios only the run's own row and the oracle's are measured.
    at_ratios = [row for row in rows if row.kind == "run" and row.key in ("run", "oracle")]
    patches = protocol.grid[0] * protocol.grid[1]
    asked = () if protocol.corrupts else dict.fromkeys(measuring.ratios)  # a corruption has no share of patches
    ratios = [ratio for ratio in asked if 0 < int(patches * (1 - ratio)) < patches]
    by_ratio = {row.key: {ratio: RatioEvaluator(colour) for ratio in ratios} for row in at_ratios}
    # The truth's features are kept for all rows of a batch.
    size = min(measuring.batch, chunk_length(3 * math.prod(protocol.image_size), device, BATCH_VALUES))
    for batch in progress_bar(batches(protocol, source, size), "metrics", -(-protocol.images // size)):
        chosen = [i for i in range(len(batch.names)) if len(names) + i in positions]
        digest.update(batch.content())
        names += batch.names
        pictured += [batch.names[i] for i in chosen]
        masks.append(batch.mask[chosen])
        truth, mask, given = batch.images.to(device), batch.mask.to(device), batch.given.to(device)
        true = Images(truth, protocol.patch_size)
        for row in rows:
            image = truth if row.kind == "truth" else in_8_bits(row.reconstruct(truth, given))
            evaluators[row.key].update(Pair(image, true, mask), image, row.distribution, chosen)
        if suite.features is not None:
            true_features.append(suite.features.of(true))
        for ratio in ratios:
            mask = protocol.masks(batch.names, ratio).to(device)
            for row in at_ratios:
                by_ratio[row.key][ratio].update(Pair(in_8_bits(row.reconstruct(truth, mask)), true, mask))
    features = torch.cat(true_features) if true_features else None
    return EvalPass(
        digest.hexdigest(),
        names,
        pictured,
        torch.cat(masks),
        {key: evaluator.compute(features) for key, evaluator in evaluators.items()},
        {key: {ratio: at.compute() for ratio, at in found.items()} for key, found in by_ratio.items()},
    )
