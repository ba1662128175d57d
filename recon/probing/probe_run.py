"""The command `python -m recon.probe`: opens a run and its data, probes, writes and prints the results."""

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from losses import InvalidSetting
from recon import config
from recon.console import aligned, command_line, duration, no_progress_bar, progress_bar
from recon.distributed import TIMEOUT, Ranks, join
from recon.loaded_run import LoadedRun, open_run
from recon.model import MaskedAutoencoder, create_model
from recon.probing import probe_results
from recon.probing.features import ProbeContext, ProbedEncoder, features_of, probed_encoders
from recon.probing.fine_tuning import TUNED, probe_trained, trained_probes
from recon.probing.frozen import FROZEN, probe_frozen
from recon.probing.label_free import MEASURES, measure_features
from recon.probing.labelled import ProbeTask, open_task
from recon.probing.probe_results import MAX_IMAGES, DataInfo, EncoderInfo, ProbeRecord, ProbeResult
from recon.run_folder import RUNS, check_writable
from recon.study_config import ProbeSettings, check_probing, layers, probes
from recon.training.device import own_fabric

FEATURES_IN = "auto, features in fp32"  # of a record; before, auto was bf16 for features too
FEATURES = "features"  # folder of the cached features, within a run's
UNLABELLED = {"bundled", "random"}  # sources of a loss network's weights that have never seen a label


@dataclass(frozen=True)
class Probed:
    """What is probed, on which data, and the folder of the results. `encoders`: the `model` of the run or from scratch,
    and controls. `caveats`: what a reader must know, a sentence each."""

    folder: Path
    name: str
    model: MaskedAutoencoder
    encoders: list[ProbedEncoder]
    task: ProbeTask
    image_size: tuple[int, int]
    caveats: list[str]

    def record(self, settings: ProbeSettings) -> ProbeRecord:
        """The record of a probing, without results."""
        task, size = self.task, list(self.image_size)
        return ProbeRecord(
            run=self.name,
            encoders={encoder.key: EncoderInfo(encoder.label, encoder.checksum) for encoder in self.encoders},
            data=DataInfo(task.name, task.digest, len(task.train), len(task.test_labels), task.classes, size),
            seeds=seeds(settings),
            settings=asdict(settings)
            | {"precision": FEATURES_IN if settings.precision == "auto" else settings.precision},
            caveats=self.caveats,
        )


def seeds(settings: ProbeSettings) -> list[int]:
    return [settings.seed + i for i in range(settings.probe.seeds)]


def probe(settings: ProbeSettings, given: frozenset[str] = frozenset()) -> int:
    """Probes a run's encoder, or trains one from scratch; writes probe.json into its folder and prints a table.

    Under torchrun the processes share extraction, fits and trainings; rank zero alone prints and writes.

    Returns 0, or 130 after Ctrl-C: the results until then are kept.

    Raises:
        InvalidSetting: no such run, no readable model, data that cannot be probed.
    """
    if settings.scratch is not None and "probe.name" not in given:
        settings.probe.name = "finetune"
    check_probing(settings, (*FROZEN, *TUNED, *MEASURES))
    if settings.run is not None and (ignored := {"data.image_size", "patch_size"} & given):
        raise InvalidSetting(
            f"{' and '.join(sorted(ignored))} with run={settings.run}: a run has its own; leave it out"
        )
    began = time.monotonic()
    ranks = join(TIMEOUT)
    with ranks.exit_together("what had been found is kept; probe again"):
        probed = open_probed(settings, ranks) if settings.scratch is None else open_scratch(settings, ranks)
        with ranks.sync_errors():
            check_writable(probed.folder)
            before = None if settings.again else probe_results.read(probed.folder)
            record = probe_results.joined(probed.record(settings), before)
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
    line = command_line("compare", {}, str(settings.run or probed.folder), "ANOTHER_RUN")
    ranks.print0(f"next         {line}")
    return 0


def write(folder: Path, record: ProbeRecord) -> None:
    """Writes the results so far. Raises InvalidSetting where the folder cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe_results.write(folder, record)
    except OSError as error:
        raise InvalidSetting(f"results cannot be written to {folder}: {error.strerror}") from error


def summary(record: ProbeRecord, folder: Path, seconds: float) -> str:
    """The table and what a reader must know of it."""
    data, (height, width) = record.data, record.data.image_size
    images = f"{data.test:,} test images of {data.name}, {height}x{width} pixels, {len(data.classes)} classes"
    measured = f"{min(data.train, MAX_IMAGES):,} training images of {data.name}, {height}x{width} pixels"
    labelled = {result.fraction > 0 for result in record.results.values()}
    lines = [
        table(record) + "\n",
        *([f"accuracies: {images}; ± reach of the 95% interval over images and seeds"] if True in labelled else []),
        *([f"without labels: {measured}; ± reach of the 95% interval over images"] if False in labelled else []),
        *doubtful_choices(record),
        *record.caveats,
        f"all numbers  {folder / probe_results.JSON}   ({duration(seconds)})",
    ]
    return "\n".join(lines)


def table(record: ProbeRecord) -> str:
    """A line per question, a column per encoder: accuracy in percent, or a measure, and how far its 95% interval
    reaches."""
    asked = {result.question: result for result in record.results.values() if result.encoder != "pixels"}
    lines = [["", "labels", *(encoder.label for encoder in record.encoders.values())]]
    for result in asked.values():
        cells = [_cell(counterpart(result, key, record)) for key in record.encoders]
        lines.append([result.title, f"{result.fraction:.0%}" if result.fraction else "none", *cells])
    return aligned(lines)


def counterpart(result: ProbeResult, encoder: str, record: ProbeRecord) -> ProbeResult | None:
    """Another encoder's result of the same question; pixels have one kind of feature, which answers for every kind."""
    feature = "pixels" if encoder == "pixels" and result.feature else result.feature
    return record.results.get(replace(result, encoder=encoder, feature=feature).name)


def _cell(result: ProbeResult | None) -> str:
    if result is None:
        return "-"
    found = result.estimate
    reach = max(found.high - found.mean, found.mean - found.low)  # near 0 and 1 the sides differ
    return f"{found.mean:.1%} ±{100 * reach:.1f}" if result.fraction else f"{found.mean:.2f} ±{reach:.2f}"


def doubtful_choices(record: ProbeRecord) -> Iterator[str]:
    """A line for each linear probe that has not converged, or whose weight decay is an end of the grid."""
    for result in record.results.values():
        name = f"{result.title}, {result.fraction:.0%} of the labels, on {record.encoders[result.encoder].label}"
        if any(chosen.get("converged") is False for chosen in result.chosen):
            yield f"Not converged: {name}; its accuracy may be too low."
        ends = [chosen["weight_decay"] for chosen in result.chosen if chosen.get("on_border")]
        if ends:
            found = ", ".join(f"{decay:g}" for decay in sorted(set(ends)))
            yield (
                f"Weight decay at an end of its grid ({found}; {len(ends)} of {len(result.chosen)} seeds): {name}; "
                "a better one may lie outside."
            )


def all_results(probed: Probed, settings: ProbeSettings, ranks: Ranks) -> Iterator[list[ProbeResult]]:
    """Runs the requested probes on every encoder that they can probe; yields results as they are found."""
    with ranks.sync_errors():
        fabric = own_fabric(settings.device, settings.precision, ranks)
        # Features of a barely trained encoder hardly differ between images: bfloat16 would round the difference away.
        exact = own_fabric(settings.device, "fp32", ranks) if settings.precision == "auto" else fabric
    depth, names = len(probed.model.blocks), probes(settings)
    frozen, measures = ([name for name in names if name in known] for known in (FROZEN, MEASURES))
    trained = trained_probes([name for name in names if name in TUNED], settings.probe, depth)
    read_layers, fractions = layers(settings, depth), list(dict.fromkeys(settings.probe.fractions))
    device = (fabric, settings.batch, settings.data.workers, progress_bar if ranks.is_zero else no_progress_bar, ranks)
    context = ProbeContext(probed.task, probed.image_size, fractions, seeds(settings), *device)
    frozen_context = replace(context, fabric=exact)
    for encoder in probed.encoders:
        if frozen or measures:
            features = features_of(encoder, read_layers, frozen_context, probed.folder / FEATURES)
            if frozen:
                yield probe_frozen(encoder, features, frozen, frozen_context)
            found, undefined = measure_features(encoder, features[0], measures)
            for line in undefined:
                ranks.print0(line)
            yield found
        if encoder.model is not None:
            yield from (probe_trained(encoder, encoder.model, each, context) for each in trained)


def open_probed(settings: ProbeSettings, ranks: Ranks) -> Probed:
    """Opens a run's encoder with its controls, and the data it was trained on or other data."""
    with ranks.sync_errors():
        run = open_run(Path(str(settings.run)))
    trained_on, model = run.settings.data, run.model
    name = settings.data.name or trained_on.name
    if name is None:
        raise InvalidSetting(f"{settings.run} does not say what it was trained on: give data=NAME data.root=PATH")
    root = settings.data.root or (trained_on.root if name == trained_on.name else None)
    task = open_task(name, root, ranks, labelled=not MEASURES.keys() >= set(probes(settings)))
    encoders = probed_encoders(run.name, model, settings.seed, settings.probe.controls)
    caveats = run_caveats(run) + data_caveats(task)
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
        str(settings.scratch), image_size=image_size, patch_size=settings.patch_size, mean=source.mean, std=source.std
    ).untrained(settings.seed)
    size = "x".join(map(str, dict.fromkeys(image_size)))
    name = f"scratch-{settings.scratch}-{settings.patch_size}-{settings.data.name}-{size}".replace("/", "-")
    encoders = [ProbedEncoder("scratch", name, model)]
    return Probed(RUNS / name, name, model, encoders, task, image_size, data_caveats(task))


def run_caveats(run: LoadedRun) -> list[str]:
    """What a reader must know of the model: what has seen labels, what was assumed of a checkpoint of others."""
    found = [
        f"Not label-free: the objective's {term} term used a network ({weights['source']}) that may have learnt from "
        "labels of such images."
        for term, weights in (run.resolved.get("weights") or {}).items()
        if weights["source"] not in UNLABELLED
    ]
    if run.unfinished:
        found.append(run.unfinished)
    if (origin := run.origin) is not None:
        found += [f"{run.path}: {note}" for note in origin.notes]
        if origin.classifier:
            found.append(f"Not label-free: {run.path} was trained on labels.")
        if not origin.verified:
            found.append(f"Nothing in {run.path} vouches for its bytes.")
    return found


def data_caveats(task: ProbeTask) -> list[str]:
    """What a reader must know of the data."""
    found = [f"{task.duplicates} of the test images are training images too, to the byte."] if task.duplicates else []
    return found + ([task.train.source.caveat] if task.train.source.caveat else [])
