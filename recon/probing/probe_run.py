"""What `python -m recon.probe` does."""

import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from losses import InvalidSetting
from recon import config
from recon.console import aligned, duration, no_progress_bar, progress_bar
from recon.distributed import PATIENCE, Ranks, join
from recon.loaded_run import Subject, open_run
from recon.model import MaskedAutoencoder, create_model
from recon.probing import probe_results as record
from recon.probing.context import Contestant, Terms, contestants
from recon.probing.fine_tuning import TUNED, probe_tuned, trainings
from recon.probing.frozen import FROZEN, features_of, probe_features
from recon.probing.labelled import Task, open_task
from recon.probing.probe_results import Result
from recon.runs import RUNS
from recon.study_config import ProbeSettings, check_probing, layers, probes
from recon.training.device import own_fabric

FEATURE_NAMES = {"mean": "mean of the patch tokens", "class": "class token"}


def table(page: dict[str, Any]) -> str:
    """A line per question, a column per contestant: accuracy in percent, and how far its 95% interval reaches."""
    columns = {key: c["label"] for key, c in page["contestants"].items()}
    found = {(entry["question"], entry["contestant"]): entry for entry in page["results"]}
    asked = {entry["question"]: entry for entry in page["results"] if entry["contestant"] != "pixels"}
    lines = [["", "labels", *columns.values()]]
    for question, entry in asked.items():
        cells = [found.get((question, key)) or _of_pixels(entry, key, page["results"]) for key in columns]
        lines.append([title(entry), f"{entry['fraction']:.0%}", *map(_cell, cells)])
    return aligned(lines)


def title(entry: dict[str, Any]) -> str:
    """What was asked, in words: "linear, class token of block 12"."""
    kind, _, layer = entry["feature"].partition("/")
    of = f"{FEATURE_NAMES[kind]} of block {layer}" if layer else kind
    return ", ".join(filter(None, (entry["probe"], entry["variant"], of)))


def _of_pixels(entry: dict[str, Any], contestant: str, results: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Pixels have one kind of features, which stands beside every kind of an encoder's."""
    same = ("probe", "variant", "fraction")
    return next(
        (r for r in results if r["contestant"] == contestant == "pixels" and all(r[key] == entry[key] for key in same)),
        None,
    )


def _cell(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "-"
    half = max(entry["high"] - entry["value"], entry["value"] - entry["low"])  # near 0 and 1 the sides differ
    return f"{entry['value']:.1%} ±{100 * half:.1f}"


FEATURES = "features"  # folder of the cache, within a run's
UNLABELLED = {"bundled", "random"}  # sources of a critic's weights that have never seen a label


@dataclass(frozen=True)
class Probed:
    """What is probed, on what, and where the results go. `notes`: what a reader must know, a sentence each."""

    folder: Path
    title: str
    model: MaskedAutoencoder
    contestants: list[Contestant]
    task: Task
    image_size: tuple[int, int]
    notes: list[str]


def probe(settings: ProbeSettings, given: frozenset[str] = frozenset()) -> int:
    """Probes a run's encoder, or trains one from scratch; writes probe.json into its folder and prints a table.

    Under torchrun processes share the images, the fits and the trainings; the first alone prints and writes.

    Returns 0, or 130 where Ctrl-C ended it: what had been found until then is kept.

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
    ranks = join(PATIENCE)
    with ranks.ending_together("what had been found is kept; probe again"):
        probed = of_run(settings, ranks) if settings.scratch is None else of_scratch(settings, ranks)
        task = probed.task
        page = record.page_of(
            probed.title, probed.contestants, task, probed.image_size, settings, probed.notes + notes(task)
        )
        with ranks.one_voice():
            found = record.usable(record.read(probed.folder), page, settings.again)
        try:
            for answers in results(probed, settings, ranks):
                found = record.with_results(page, answers, found)
                ranks.by_first(partial(keep, found, probed.folder))
        except KeyboardInterrupt:
            if ranks.count > 1:
                raise
            print(f"stopped; what had been found is in {probed.folder / record.JSON}", file=sys.stderr)
            return 130
    ranks.say(summary(found, probed, time.monotonic() - began))
    ranks.say(f"next         python -m recon.compare {shlex.quote(str(settings.run or probed.folder))} ANOTHER_RUN")
    return 0


def keep(found: record.Record, folder: Path) -> None:
    """Writes what has been found so far."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        record.write(folder, found)
    except OSError as error:
        raise InvalidSetting(f"results cannot be written to {folder}: {error.strerror}") from error


def summary(found: record.Record, probed: Probed, seconds: float) -> str:
    """The table and what a reader must know of it."""
    task, (height, width) = probed.task, probed.image_size
    lines = [
        table(found.page),
        f"\n{len(task.answers):,} test images of {task.name}, {height}x{width} pixels, {len(task.classes)} classes; "
        "± reach of the 95% interval over images and seeds",
        *found.page["caveats"],
        f"all numbers  {probed.folder / record.JSON}   ({duration(seconds)})",
    ]
    return "\n".join(lines)


def results(probed: Probed, settings: ProbeSettings, ranks: Ranks) -> Iterator[list[Result]]:
    """Every probe that was asked for, of every contestant that it can probe; kind after kind, as they are found."""
    with ranks.one_voice():
        fabric = own_fabric(settings.device, settings.precision, ranks)
    depth, names = len(probed.model.blocks), probes(settings)
    frozen, tuned = ([name for name in names if name in kind] for kind in (FROZEN, TUNED))
    asked, read = trainings(tuned, settings.probe, depth), layers(settings, depth)
    terms = Terms(
        probed.task,
        probed.image_size,
        list(dict.fromkeys(settings.probe.fractions)),
        [settings.seed + i for i in range(settings.probe.seeds)],
        fabric,
        settings.batch,
        settings.data.workers,
        progress_bar if ranks.first else no_progress_bar,
        ranks,
    )
    for one in probed.contestants:
        if frozen:
            features = features_of(one, read, terms, probed.folder / FEATURES)
            yield probe_features(one, features, frozen, terms)
        for training in asked if one.model is not None else ():
            yield probe_tuned(one, training, terms)


def of_run(settings: ProbeSettings, ranks: Ranks) -> Probed:
    """A run's encoder, on the data it was trained on or on other data; controls beside it."""
    with ranks.one_voice():
        subject = open_run(Path(settings.run))
    trained = subject.trained.settings.data
    own = settings.data.name in (None, trained.name)
    name = settings.data.name or trained.name
    if name is None:
        raise InvalidSetting(f"{settings.run} does not say what it was trained on: give data=NAME data.root=PATH")
    task = open_task(name, settings.data.root or (trained.root if own else None), ranks)
    model = subject.trained.model
    return Probed(
        subject.folder,
        subject.name,
        model,
        contestants(subject.name, model, settings.seed, settings.probe.controls),
        task,
        model.image_size,
        labels_seen(subject) + ([subject.unfinished] if subject.unfinished else []),
    )


def of_scratch(settings: ProbeSettings, ranks: Ranks) -> Probed:
    """A model that has learnt nothing; its folder is runs/scratch-MODEL-PATCH-DATA-SIZE."""
    if settings.data.name is None:
        raise InvalidSetting(f"scratch={settings.scratch} needs data=NAME")
    if outside := [name for name in probes(settings) if name != "finetune"]:
        raise InvalidSetting(f"scratch={settings.scratch} is trained by finetune alone; take {', '.join(outside)} away")
    image_size = config.pixels(settings.data.image_size)
    task = open_task(settings.data.name, settings.data.root, ranks)
    source = task.train.source
    model = create_model(
        settings.scratch, image_size=image_size, patch_size=settings.patch_size, mean=source.mean, std=source.std
    ).untrained(settings.seed)
    size = "x".join(map(str, dict.fromkeys(image_size)))
    name = f"scratch-{settings.scratch}-{settings.patch_size}-{settings.data.name}-{size}".replace("/", "-")
    return Probed(RUNS / name, name, model, [Contestant("scratch", name, model)], task, image_size, [])


def labels_seen(subject: Subject) -> list[str]:
    """A sentence for each network of the objective that may have learnt from labels."""
    return [
        f"Not label-free: the objective's {term} term used a network ({weights['source']}) that may have learnt from "
        "labels of such images."
        for term, weights in (subject.trained.resolved.get("weights") or {}).items()
        if weights["source"] not in UNLABELLED
    ]


def notes(task: Task) -> list[str]:
    """What a reader must know of the data."""
    repeated = f"{task.repeated} of the test images are training images too, to the byte." if task.repeated else None
    return [note for note in (repeated, task.train.source.caveat) if note]
