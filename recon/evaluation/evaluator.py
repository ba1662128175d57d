"""Evaluates a run: the same images and masks for every row, one pass over them."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from losses import InvalidSetting
from recon.console import Progress
from recon.data import Source, StreamedSource
from recon.evaluation.measures import Gauge, Measured, Part, RatioPart, at_ratio, ratio_point
from recon.evaluation.protocol import Batch, Digest, Protocol, batches, open_source, protocol_of
from recon.evaluation.rows import Row, rows_beside, rows_of_run
from recon.evaluation.suite import Instruments, Networks, make_instruments, metric_infos
from recon.loaded_run import Subject
from recon.metrics import MetricInfo, Pair, Undefined
from recon.study_config import Measuring

EXACT_MASKS = 12  # that exact retention is worked out for; the time of each grows with the cube of its pixels


@dataclass
class Seen:
    """One pass over the images of a protocol, whose checksum is `digest`.

    `names` are those of all images, `shown` of the ones to look at, and `masks` (pictures, N) theirs.
    `measured` has the rows by key, `by_ratio` those of the run at other mask ratios: row -> ratio -> numbers.
    """

    digest: str
    names: list[str]
    shown: list[str]
    masks: Tensor
    measured: dict[str, Measured]
    by_ratio: dict[str, dict[float, dict[str, float]]]


@dataclass
class Evaluation:
    """A run's rows and those beside it, all on the same images and masks."""

    protocol: Protocol
    seen: Seen
    rows: list[Row]
    metrics: dict[str, MetricInfo]
    provenance: dict[str, dict[str, str]]
    caveat: str | None


def evaluate(
    subject: Subject,
    measuring: Measuring,
    nets: Networks,
    device: torch.device,
    progress: Progress,
    before: Evaluation | None = None,
) -> Evaluation:
    """Measures a run, the simple reconstructions and the truth.

    Args:
        nets: of `networks(measuring)`.
        before: an evaluation of another run under the same settings; under the same protocol too its simple
            reconstructions are taken over.

    Raises:
        InvalidSetting: the data is not to be had, or has changed since `before`.
    """
    settings = subject.trained.settings
    protocol = protocol_of(settings, subject.trained.model.patch_size, measuring)
    training, held_out = (open_source(settings, split, measuring) for split in ("train", "val"))
    instruments = make_instruments(nets, protocol, held_out, device)
    rows = run = rows_of_run(subject, device, measuring.render, measuring.draws)
    if before is None or before.protocol != protocol:
        before = None
        rows = [*run, *rows_beside(protocol, training, measuring.training_images, measuring.batch, progress)]
    seen = look(rows, protocol, held_out, measuring, instruments, device, progress)
    if before is not None:
        if before.seen.digest != seen.digest:
            raise InvalidSetting(f"{subject.folder} finds other images of {protocol.data} than the run before it")
        beside = [row for row in before.rows if row.kind != "run"]
        rows = [*run, *beside]
        seen.measured |= {row.key: before.seen.measured[row.key] for row in beside}
    _excess(seen.measured)
    _exact(rows, seen)
    return Evaluation(
        protocol,
        seen,
        rows,
        metrics=metric_infos(measuring, bound="bayes" in seen.measured),
        provenance=nets.provenance,
        caveat=held_out.caveat,
    )


def look(
    rows: list[Row],
    protocol: Protocol,
    source: Source | StreamedSource,
    measuring: Measuring,
    instruments: Instruments,
    device: torch.device,
    progress: Progress,
) -> Seen:
    """Every row's numbers, in one pass over the images."""
    digest, names, shown, masks = Digest(), [], [], []
    gauge = Gauge(instruments, protocol.patch_size, device)
    positions = spread(measuring.pictures, protocol, source)
    ratios = other_ratios(measuring, protocol)
    # Draws take their time: at other ratios the run's own row and the oracle's alone.
    at_ratios = [row for row in rows if row.kind == "run" and row.key in ("run", "oracle")]

    def measured(batch: Batch) -> tuple[dict[str, Part], dict[tuple[str, float], RatioPart]]:
        looked_at = [i for i in range(len(batch.names)) if len(names) + i in positions]
        digest.add(batch)
        names.extend(batch.names)
        shown.extend(batch.names[i] for i in looked_at)
        masks.append(batch.mask[looked_at])
        features = None if instruments.features is None else instruments.features(batch.images.to(device)).cpu()
        parts = {
            row.key: gauge.measure(pair, features, image[looked_at], row.distribution, looked_at)
            for row, image, pair in reconstructed(rows, batch.images, batch.mask, device)
        }
        points = {
            (row.key, ratio): at_ratio(pair, instruments.colour)
            for ratio in ratios
            for row, _, pair in reconstructed(at_ratios, batch.images, protocol.masks(batch.names, ratio), device)
        }
        return parts, points

    total = -(-protocol.images // measuring.batch)
    found = [measured(batch) for batch in progress(batches(protocol, source, measuring.batch), "metrics", total)]
    results = {row.key: gauge.result([parts[row.key] for parts, _ in found]) for row in rows}
    by_ratio = {
        row.key: {ratio: ratio_point([p[row.key, ratio] for _, p in found]) for ratio in ratios} for row in at_ratios
    }
    return Seen(digest.hexdigest(), names, shown, torch.cat(masks), results, by_ratio)


def reconstructed(
    rows: Iterable[Row], images: Tensor, mask: Tensor, device: torch.device
) -> Iterator[tuple[Row, Tensor, Pair]]:
    """Every row's prediction of a batch as it is, and beside the truth, hidden patches alone."""
    truth, mask = images.to(device), mask.to(device)
    for row in rows:
        image = row.reconstruct(truth, mask)
        yield row, image, Pair(image, truth, mask)


def spread(count: int, protocol: Protocol, source: Source | StreamedSource) -> set[int]:
    """Positions of `count` images among those that are measured."""
    images = protocol.images if isinstance(source, StreamedSource) else min(protocol.images, len(source))
    return {i * images // count for i in range(count)}


def other_ratios(measuring: Measuring, protocol: Protocol) -> list[float]:
    """Those that were asked for, less what would hide all of so few patches, or none."""
    patches = protocol.grid[0] * protocol.grid[1]
    return [ratio for ratio in dict.fromkeys(measuring.ratios) if 0 < int(patches * (1 - ratio)) < patches]


def _excess(measured: dict[str, Measured]) -> None:
    """Where the least possible error is known, every row's error beyond it."""
    if "bayes" in measured:
        least = measured["bayes"].values["masked_mse"]
        for row in measured.values():
            if "masked_mse" in row.values:
                row.values["excess_mse"] = row.values["masked_mse"] - least


def _exact(rows: list[Row], seen: Seen) -> None:
    """What theory expects of a bound under masks such as these, of which a few stand for all."""
    for row in rows:
        if row.exact_retention is not None and seen.measured[row.key].exact_retention is None:
            with suppress(Undefined):  # patches too small for bands
                seen.measured[row.key].exact_retention = row.exact_retention(seen.masks[:EXACT_MASKS])
