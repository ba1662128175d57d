"""The command `python -m recon.probe`: opens a run and its data, probes, writes and prints the results."""

import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from losses import InvalidSetting
from recon import config
from recon.console import duration, no_progress_bar, progress_bar
from recon.distributed import TIMEOUT, Ranks, join
from recon.loaded_run import LoadedRun, open_run
from recon.model import MaskedAutoencoder, create_model
from recon.probing import probe_results
from recon.probing.features import ProbeContext, ProbedEncoder, features_of, probed_encoders
from recon.probing.labelled import ProbeTask, open_task
from recon.probing.probe_results import DataInfo, EncoderInfo, ProbeRecord, ProbeResult
from recon.probing.probes import FROZEN, TUNED, probe_frozen, probe_trained, trained_probes
from recon.runs import RUNS
from recon.study_config import ProbeSettings, check_probing, layers, probes
from recon.training.device import own_fabric

FEATURES = "features"  # folder of the cached features, within a run's
UNLABELLED = {"bundled", "random"}  # sources of a loss network's weights that have never seen a label


@dataclass(frozen=True)
class Probed:
    """What is probed, on which data, and the folder of the results.

    Args:
        model: the encoder of the run, or the model from scratch.
        encoders: that model, and controls.
        caveats: what a reader must know, a sentence each.
    """

    folder: Path
    name: str
    model: MaskedAutoencoder
    encoders: list[ProbedEncoder]
    task: ProbeTask
    image_size: tuple[int, int]
    caveats: list[str]


def probe(settings: ProbeSettings, given: frozenset[str] = frozenset()) -> int:
    """Probes a run's encoder, or trains one from scratch; writes probe.json into its folder and prints a table.

    Under torchrun the processes share extraction, fits and trainings; rank zero alone prints and writes.

    Returns 0, or 130 after Ctrl-C: the results until then are kept.

    Raises:
        InvalidSetting: no such run, no readable model, data that cannot be probed.
    """
    if settings.scratch is not None and "probe.name" not in given:
        settings.probe.name = "finetune"
    check_probing(settings, (*FROZEN, *TUNED))
    if settings.run is not None and (ignored := {"data.image_size", "patch_size"} & given):
        raise InvalidSetting(
            f"{' and '.join(sorted(ignored))} with run={settings.run}: a run has its own; leave it out"
        )
    began = time.monotonic()
    ranks = join(TIMEOUT)
    with ranks.exit_together("what had been found is kept; probe again"):
        probed = open_probed(settings, ranks) if settings.scratch is None else open_scratch(settings, ranks)
        with ranks.sync_errors():
            before = probe_results.read(probed.folder)
            record = probe_results.joined(new_record(probed, settings), before, settings.again)
        try:
            for results in all_results(probed, settings, ranks):
                record = record.with_results(results)
                ranks.on_rank_zero(partial(write, probed.folder, record))
        except KeyboardInterrupt:
            if ranks.count > 1:
                raise
            print(f"stopped; what had been found is in {probed.folder / probe_results.JSON}", file=sys.stderr)
            return 130
    ranks.print0(summary(record, probed.folder, time.monotonic() - began))
    ranks.print0(f"next         python -m recon.compare {shlex.quote(str(settings.run or probed.folder))} ANOTHER_RUN")
    return 0


def new_record(probed: Probed, settings: ProbeSettings) -> ProbeRecord:
    """The record of a probing, without results."""
    task = probed.task
    return ProbeRecord(
        run=probed.name,
        encoders={encoder.key: EncoderInfo(encoder.label, encoder.checksum) for encoder in probed.encoders},
        data=DataInfo(
            task.name, task.digest, len(task.train), len(task.test_labels), task.classes, list(probed.image_size)
        ),
        seeds=[settings.seed + i for i in range(settings.probe.seeds)],
        settings=asdict(settings),
        caveats=probed.caveats,
    )


def write(folder: Path, record: ProbeRecord) -> None:
    """Writes the results so far.

    Raises:
        InvalidSetting: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe_results.write(folder, record)
    except OSError as error:
        raise InvalidSetting(f"results cannot be written to {folder}: {error.strerror}") from error


def summary(record: ProbeRecord, folder: Path, seconds: float) -> str:
    """The table and what a reader must know of it."""
    data, (height, width) = record.data, record.data.image_size
    lines = [
        probe_results.table(record),
        f"\n{data.test:,} test images of {data.name}, {height}x{width} pixels, {len(data.classes)} classes; "
        "± reach of the 95% interval over images and seeds",
        *record.caveats,
        f"all numbers  {folder / probe_results.JSON}   ({duration(seconds)})",
    ]
    return "\n".join(lines)


def all_results(probed: Probed, settings: ProbeSettings, ranks: Ranks) -> Iterator[list[ProbeResult]]:
    """Runs the requested probes on every encoder that they can probe; yields results as they are found."""
    with ranks.sync_errors():
        fabric = own_fabric(settings.device, settings.precision, ranks)
    depth, names = len(probed.model.blocks), probes(settings)
    frozen = [name for name in names if name in FROZEN]
    trained = trained_probes([name for name in names if name in TUNED], settings.probe, depth)
    read_layers = layers(settings, depth)
    context = ProbeContext(
        probed.task,
        probed.image_size,
        list(dict.fromkeys(settings.probe.fractions)),
        [settings.seed + i for i in range(settings.probe.seeds)],
        fabric,
        settings.batch,
        settings.data.workers,
        progress_bar if ranks.is_zero else no_progress_bar,
        ranks,
    )
    for encoder in probed.encoders:
        if frozen:
            features = features_of(encoder, read_layers, context, probed.folder / FEATURES)
            yield probe_frozen(encoder, features, frozen, context)
        for each in trained if encoder.model is not None else ():
            yield probe_trained(encoder, each, context)


def open_probed(settings: ProbeSettings, ranks: Ranks) -> Probed:
    """Opens a run's encoder with its controls, and the data it was trained on or other data."""
    with ranks.sync_errors():
        run = open_run(Path(settings.run))
    trained_on, model = run.settings.data, run.model
    name = settings.data.name or trained_on.name
    if name is None:
        raise InvalidSetting(f"{settings.run} does not say what it was trained on: give data=NAME data.root=PATH")
    task = open_task(name, settings.data.root or (trained_on.root if name == trained_on.name else None), ranks)
    encoders = probed_encoders(run.name, model, settings.seed, settings.probe.controls)
    caveats = [*labels_seen(run), *([run.unfinished] if run.unfinished else []), *data_caveats(task)]
    return Probed(run.folder, run.name, model, encoders, task, model.image_size, caveats)


def open_scratch(settings: ProbeSettings, ranks: Ranks) -> Probed:
    """Makes an untrained model, whose results go to runs/scratch-MODEL-PATCH-DATA-SIZE, and opens its data."""
    if settings.data.name is None:
        raise InvalidSetting(f"scratch={settings.scratch} needs data=NAME")
    if others := [name for name in probes(settings) if name != "finetune"]:
        raise InvalidSetting(f"scratch={settings.scratch} is trained by finetune alone; take {', '.join(others)} away")
    image_size = config.pixels(settings.data.image_size)
    task = open_task(settings.data.name, settings.data.root, ranks)
    source = task.train.source
    model = create_model(
        settings.scratch, image_size=image_size, patch_size=settings.patch_size, mean=source.mean, std=source.std
    ).untrained(settings.seed)
    size = "x".join(map(str, dict.fromkeys(image_size)))
    name = f"scratch-{settings.scratch}-{settings.patch_size}-{settings.data.name}-{size}".replace("/", "-")
    encoders = [ProbedEncoder("scratch", name, model)]
    return Probed(RUNS / name, name, model, encoders, task, image_size, data_caveats(task))


def labels_seen(run: LoadedRun) -> list[str]:
    """A sentence for each network of the objective that may have been trained on labels."""
    return [
        f"Not label-free: the objective's {term} term used a network ({weights['source']}) that may have learnt from "
        "labels of such images."
        for term, weights in (run.resolved.get("weights") or {}).items()
        if weights["source"] not in UNLABELLED
    ]


def data_caveats(task: ProbeTask) -> list[str]:
    """What a reader must know of the data."""
    duplicates = f"{task.duplicates} of the test images are training images too, to the byte."
    return [
        *([duplicates] if task.duplicates else []),
        *([task.train.source.caveat] if task.train.source.caveat else []),
    ]
