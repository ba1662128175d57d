"""Evaluates a run: the same images and masks for every row, one pass over them."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from losses import InvalidSetting
from recon.data import Source, StreamedSource
from recon.evaluation.measure import Gathering, Instruments, Measured, RatioPoint
from recon.evaluation.protocol import Batch, Digest, Protocol, batches, open_source, protocol_of
from recon.evaluation.rows import Row, rows_beside, rows_of_run
from recon.evaluation.settings import Measuring
from recon.evaluation.subject import Subject
from recon.metrics import GROUPS, METRICS, SET_METRICS, Pair, Passport, Undefined
from recon.metrics.deep import (
    LPIPS,
    VGG,
    FeatureDistance,
    Lpips,
    PooledFeatures,
    feature_distance_metric,
    lpips_metric,
)

Progress = Callable[[Iterable, str, int], Iterable]  # what it goes through, what that is, how many

EXACT_MASKS = 12  # that exact retention is worked out for; each takes a second at 64 pixels
EXCESS = Passport(
    name="excess_mse",
    what="Mean squared error over hidden pixels beyond the least possible one, which this data's law gives.",
    unit="squared intensity",
    low=-math.inf,
    high=math.inf,
    better="lower",
    reference="the conditional mean given the visible pixels, recon.baselines.bayes",
    paired=True,
)


@dataclass
class Evaluation:
    """A run's rows by key, all on the same images and masks, whose checksum is `digest`.

    `masks` (pictures, N) are of the images to look at.
    """

    protocol: Protocol
    digest: str
    names: list[str]
    masks: Tensor
    rows: list[Row]
    measured: dict[str, Measured]
    by_ratio: dict[str, dict[float, dict[str, float]]]
    passports: dict[str, Passport]
    provenance: dict[str, dict[str, str]]


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
    protocol = protocol_of(subject.settings, subject.model.patch_size, measuring)
    before = before if before is not None and before.protocol == protocol else None
    training, held_out = (open_source(subject.settings, split, measuring) for split in ("train", "val"))
    instruments, provenance = make_instruments(measuring, protocol, held_out, device)
    run = rows_of_run(subject, device)
    beside = [] if before else rows_beside(protocol, training, measuring.training_images, measuring.batch)
    rows = [*run, *beside]
    digest, names = Digest(), []
    gatherings = {row.key: Gathering(instruments, protocol.patch_size) for row in rows}
    total = -(-protocol.images // measuring.batch)
    shown = spread(measuring.pictures, protocol, held_out)
    for batch in progress(batches(protocol, held_out, measuring.batch), "metrics", total):
        looked_at = [i for i in range(len(batch.names)) if len(names) + i in shown]
        digest.add(batch, looked_at)
        names += batch.names
        features = None if instruments.features is None else instruments.features(batch.images.to(device)).cpu()
        for row, image, pair in reconstructed(rows, batch, device):
            gatherings[row.key].add(pair, features, image[looked_at])
    measured = {key: gathering.result() for key, gathering in gatherings.items()}
    if before:
        if before.digest != digest.hexdigest():
            raise InvalidSetting(f"the images of {protocol.data} changed during the evaluation")
        rows += [row for row in before.rows if row.kind != "run"]
        measured |= {row.key: before.measured[row.key] for row in rows if row.kind != "run"}
    _excess(measured)
    _exact(rows, measured, torch.cat(digest.masks)[:EXACT_MASKS])
    return Evaluation(
        protocol,
        digest.hexdigest(),
        names,
        torch.cat(digest.masks),
        rows,
        measured,
        by_ratio=along_ratios(run, protocol, held_out, measuring, device, progress, instruments.colour),
        passports=passports_of(measuring, measured),
        provenance=provenance,
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


def make_instruments(
    measuring: Measuring, protocol: Protocol, source: Source | StreamedSource, device: torch.device
) -> tuple[Instruments, dict[str, dict[str, str]]]:
    """All metrics, and where the weights of their networks came from; a network that cannot be had is a reason."""
    metrics, missing, provenance, features = dict(METRICS), {}, {}, None
    networks = {
        "lpips": lambda: (Lpips(measuring.lpips.net, measuring.lpips.weights), lpips_metric),
        "vgg19": lambda: (FeatureDistance(measuring.features.weights), feature_distance_metric),
    }
    for name, make in networks.items():
        try:
            net, passport = make()
            metrics[name] = passport(net.to(device))
            provenance[name] = net.provenance()
        except InvalidSetting as reason:
            missing[name] = str(reason)
    try:
        features = PooledFeatures(measuring.features.weights, measuring.features.tap).to(device)
        features(torch.zeros(1, 3, *protocol.image_size, device=device))
        provenance["kid"] = features.provenance() | {"tap": measuring.features.tap}
    except (InvalidSetting, Undefined) as reason:
        features, missing["kid"] = None, str(reason)
    colour = torch.tensor(source.mean, dtype=torch.float64)
    return Instruments(metrics, features, missing, colour), provenance


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


def passports_of(measuring: Measuring, measured: dict[str, Measured]) -> dict[str, Passport]:
    """What every column means, in the table's order; those that could not be had too."""
    known = {**METRICS, **SET_METRICS, "lpips": LPIPS[measuring.lpips.net], "vgg19": VGG, EXCESS.name: EXCESS}
    names = [name for group in GROUPS.values() for name in group]
    return {name: known[name] for name in names if name != EXCESS.name or "bayes" in measured}
