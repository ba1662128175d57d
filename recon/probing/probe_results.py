"""probe.json, what a reader needs; probe.safetensors, which test images were told right, for paired differences."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from losses import InvalidSetting
from recon.probing.accuracy import accuracy
from recon.probing.context import Contestant
from recon.probing.labelled import Task
from recon.runs import write_text
from recon.study_config import ProbeSettings


@dataclass(frozen=True)
class Result:
    """One probe of one contestant.

    Args:
        contestant: key of who was probed.
        probe: linear, knn, attentive, partial, finetune.
        variant: what else tells it apart: "k=20", "blocks=2".
        feature: what a frozen probe read: "mean/12" (patch tokens behind block 12), "class/12", "pixels"; otherwise "".
        fraction: of the training labels.
        correct: (S, n) bool, seeds by test images.
        chosen: per seed, what was chosen on held-back training images, or how it was trained.
    """

    contestant: str
    probe: str
    variant: str
    feature: str
    fraction: float
    correct: Tensor
    chosen: list[dict[str, Any]] = field(default_factory=list)

    @property
    def question(self) -> str:
        """What was asked, whoever answered: the same for every contestant's counterpart."""
        return "/".join(filter(None, (self.probe, self.variant, self.feature, f"{self.fraction:g}")))

    @property
    def name(self) -> str:
        """Unique within one probing."""
        return f"{self.contestant}/{self.question}"


FORMAT = "recon probe 1"
JSON, TENSORS = "probe.json", "probe.safetensors"


@dataclass(frozen=True)
class Record:
    """A probing as it lies on disk. `page`: probe.json. `correct`: result's name -> (S, n) bool."""

    page: dict[str, Any]
    correct: dict[str, Tensor]

    @property
    def task(self) -> tuple[str, list[int]]:
        """Digest of the images and labels that were probed, and the size they were cut to."""
        return self.page["data"]["digest"], self.page["data"]["image_size"]


def page_of(
    title: str,
    contestants: list[Contestant],
    task: Task,
    image_size: tuple[int, int],
    settings: ProbeSettings,
    caveats: list[str],
) -> dict[str, Any]:
    """probe.json without its results."""
    return {
        "format": FORMAT,
        "run": title,
        "contestants": {c.key: {"label": c.label, "encoder": c.checksum} for c in contestants},
        "data": {
            "name": task.name,
            "digest": task.digest,
            "train": len(task.train),
            "test": len(task.answers),
            "classes": task.classes,
            "image_size": list(image_size),
        },
        "seeds": [settings.seed + i for i in range(settings.probe.seeds)],
        "settings": asdict(settings),
        "caveats": caveats,
    }


def usable(before: Record | None, page: dict[str, Any], again: bool) -> Record | None:
    """The earlier probing that new results join; None where there is none, or its encoder has changed since.

    Raises:
        InvalidSetting: it was made under other terms, and is not to be replaced (`again`).
    """
    if before is None or again or _encoder(before.page) != _encoder(page):
        return None
    then, now = _terms(before.page), _terms(page)
    if differing := [key for key in now if then[key] != now[key]]:
        raise InvalidSetting(
            f"{before.page['run']} has been probed with other {' and '.join(differing)}; again=true replaces that"
        )
    return before


def with_results(page: dict[str, Any], results: list[Result], before: Record | None) -> Record:
    """The page with its results, and those of `before`."""
    entries, correct = {}, {}
    if before is not None:
        entries = {entry["name"]: entry for entry in before.page["results"]}
        correct = dict(before.correct)
        page = page | {"contestants": before.page["contestants"] | page["contestants"]}
    for result in results:
        correct[result.name] = result.correct
        entries[result.name] = {
            "name": result.name,
            "contestant": result.contestant,
            "question": result.question,
            "probe": result.probe,
            "variant": result.variant,
            "feature": result.feature,
            "fraction": result.fraction,
            **numbers(result),
            "chosen": result.chosen,
        }
    return Record(page | {"results": list(entries.values())}, correct)


def numbers(result: Result) -> dict[str, Any]:
    """Accuracy, its 95% interval, and that of each seed."""
    found = accuracy(result.correct).as_dict()
    return {"value": found.pop("mean"), **found}


def write(folder: Path, record: Record) -> None:
    """Writes both files, the tensors first."""
    temporary = folder / f"{TENSORS}.tmp"
    tensors = {name: right.to(torch.uint8) for name, right in record.correct.items()}
    temporary.write_bytes(save(tensors, metadata=_belongs_to(record.page)))
    temporary.replace(folder / TENSORS)
    write_text(folder / JSON, json.dumps(record.page, indent=1, allow_nan=False) + "\n")


def read(folder: Path) -> Record | None:
    """The probing in a run's folder; None where there is none that can be read."""
    try:
        page = json.loads((folder / JSON).read_text())
        with safe_open(folder / TENSORS, framework="pt") as file:
            if page["format"] != FORMAT or file.metadata() != _belongs_to(page):  # killed between the two files
                return None
            return Record(page, {entry["name"]: file.get_tensor(entry["name"]).bool() for entry in page["results"]})
    except (OSError, ValueError, SafetensorError, TypeError, KeyError):
        return None


def _belongs_to(page: dict[str, Any]) -> dict[str, str]:
    """What ties the two files of a probing together."""
    return {"terms": json.dumps({"encoder": _encoder(page), **_terms(page)}, sort_keys=True)}


def _encoder(page: dict[str, Any]) -> str:
    """Checksum of what was probed; a model from scratch has none that lasts."""
    return page["contestants"].get("run", {"encoder": "scratch"})["encoder"]


def _terms(page: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for two probings to stand in one file."""
    return {
        "data": page["data"]["digest"],
        "image size": page["data"]["image_size"],
        "seeds": page["seeds"],
        "precision": page["settings"]["precision"],
    }
