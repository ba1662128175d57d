"""Evaluates a run: the same images and masks for every row, one pass over them."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from losses import InvalidSetting
from recon.data import Source, StreamedSource
from recon.evaluation.instruments import make_instruments, networks, passports_of
from recon.evaluation.measure import Gathering, Measured, RatioPoint
from recon.evaluation.protocol import Batch, Digest, Protocol, batches, open_source, protocol_of
from recon.evaluation.rows import Progress, Row, rows_beside, rows_of_run
from recon.evaluation.settings import Measuring
from recon.evaluation.subject import Subject
from recon.metrics import Pair, Passport, Undefined

EXACT_MASKS = 12  # that exact retention is worked out for; each takes a second at 64 pixels


@dataclass
class Evaluation:
    """A run's rows by key, all on the same images and masks, whose checksum is `digest`.

    `shown` are the names of the images to look at, and `masks` (pictures, N) theirs.
    """

    protocol: Protocol
    digest: str
    names: list[str]
    shown: list[str]
    masks: Tensor
    rows: list[Row]
    measured: dict[str, Measured]
    by_ratio: dict[str, dict[float, dict[str, float]]]
    passports: dict[str, Passport]
    provenance: dict[str, dict[str, str]]
    caveat: str | None


def evaluate(
    subject: Subject, measuring: Measuring, device: torch.device, progress: Progress, before: Evaluation | None = None
) -> Evaluation:
    """Measures a run, the simple reconstructions and the truth.

    Args:
        before: an evaluation of another run under the same settings; under the same protocol too its simple
            reconstructions are taken over.

    Raises:
        InvalidSetting: the data is not to be had, or has changed since `before`.
    """
    settings, model = subject.trained.settings, subject.trained.model
    protocol = protocol_of(settings, model.patch_size, measuring)
    before = before if before is not None and before.protocol == protocol else None
    training, held_out = (open_source(settings, split, measuring) for split in ("train", "val"))
    nets = networks(measuring)
    instruments = make_instruments(nets, protocol, held_out, device)
    run, beside = rows_of_run(subject, device), before.rows if before else []
    beside = [row for row in beside if row.kind != "run"] or rows_beside(
        protocol, training, measuring.training_images, measuring.batch, progress
    )
    gatherings = {row.key: Gathering(instruments, protocol.patch_size) for row in (run if before else [*run, *beside])}
    rows = [*run, *beside]
    digest, names, shown, masks = Digest(), [], [], []
    positions = spread(measuring.pictures, protocol, held_out)
    total = -(-protocol.images // measuring.batch)
    for batch in progress(batches(protocol, held_out, measuring.batch), "metrics", total):
        looked_at = [i for i in range(len(batch.names)) if len(names) + i in positions]
        digest.add(batch)
        names += batch.names
        shown += [batch.names[i] for i in looked_at]
        masks.append(batch.mask[looked_at])
        features = None if instruments.features is None else instruments.features(batch.images.to(device)).cpu()
        for row, image, pair in reconstructed([row for row in rows if row.key in gatherings], batch, device):
            gatherings[row.key].add(pair, features, image[looked_at])
    measured = {key: gathering.result() for key, gathering in gatherings.items()}
    if before:
        if before.digest != digest.hexdigest():
            raise InvalidSetting(f"{subject.folder} finds other images of {protocol.data} than the run before it")
        measured |= {row.key: before.measured[row.key] for row in beside}
    _excess(measured)
    _exact(rows, measured, torch.cat(masks)[:EXACT_MASKS])
    return Evaluation(
        protocol=protocol,
        digest=digest.hexdigest(),
        names=names,
        shown=shown,
        masks=torch.cat(masks),
        rows=rows,
        measured=measured,
        by_ratio=along_ratios(run, protocol, held_out, measuring, device, progress, instruments.colour),
        passports=passports_of(measuring, bound="bayes" in measured),
        provenance=nets.provenance,
        caveat=held_out.caveat,
    )


def reconstructed(rows: Iterable[Row], batch: Batch, device: torch.device) -> Iterator[tuple[Row, Tensor, Pair]]:
    """Every row's prediction of a batch as it is, and beside the truth, hidden patches alone."""
    truth, mask = batch.images.to(device), batch.mask.to(device)
    for row in rows:
        image = row.reconstruct(truth, mask)
        yield row, image, Pair(image, truth, mask)


def spread(count: int, protocol: Protocol, source: Source | StreamedSource) -> set[int]:
    """Positions of `count` images among those that are measured."""
    images = protocol.images if isinstance(source, StreamedSource) else min(protocol.images, len(source))
    return {i * images // count for i in range(count)}


def along_ratios(
    rows: list[Row],
    protocol: Protocol,
    source: Source | StreamedSource,
    measuring: Measuring,
    device: torch.device,
    progress: Progress,
    colour: Tensor,
) -> dict[str, dict[float, dict[str, float]]]:
    """The run's rows at other mask ratios: row -> ratio -> numbers."""
    found: dict[str, dict[float, dict[str, float]]] = {row.key: {} for row in rows}
    for ratio in progress(measuring.ratios, "mask ratios", len(measuring.ratios)):
        patches = protocol.grid[0] * protocol.grid[1]
        if not 0 < int(patches * (1 - ratio)) < patches:
            continue  # so few patches that all would be hidden, or none
        points = {row.key: RatioPoint(colour) for row in rows}
        for batch in batches(protocol, source, measuring.batch, ratio):
            for row, _, pair in reconstructed(rows, batch, device):
                points[row.key].add(pair)
        for key, point in points.items():
            found[key][ratio] = point.result()
    return found


def _excess(measured: dict[str, Measured]) -> None:
    """Where the least possible error is known, every row's error beyond it."""
    if "bayes" in measured:
        least = measured["bayes"].values["masked_mse"]
        for row in measured.values():
            if "masked_mse" in row.values:
                row.values["excess_mse"] = row.values["masked_mse"] - least


def _exact(rows: list[Row], measured: dict[str, Measured], masks: Tensor) -> None:
    """What theory expects of a bound, for masks such as these: random ones of one ratio differ little."""
    for row in rows:
        if row.exact_retention is not None and measured[row.key].exact_retention is None:
            with suppress(Undefined):  # patches too small for bands
                measured[row.key].exact_retention = row.exact_retention(masks)
