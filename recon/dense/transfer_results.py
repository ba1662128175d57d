"""The results of transfers to a task: a page of JSON for readers, a file of tensors for paired differences."""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from losses import InvalidSetting, tensor_files
from recon.data.source import one_line
from recon.probing.accuracy import Estimate, measure
from recon.probing.probe_results import EncoderInfo
from recon.result_table import from_plain, read_json, with_checksum
from recon.run_folder import write_bytes, write_text

FORMAT = "recon transfer 1"


def file_of(folder: Path, task: str, ending: str) -> Path:
    """Of the results of a task in a run's folder: transfer.detection.json, .safetensors and .png, and so on."""
    return folder / f"transfer.{task}.{ending}"


@dataclass(frozen=True)
class TransferResult:
    """One score of one trained head on one encoder.

    Args:
        encoder: "run", or "untrained" for the control.
        task: detection or segmentation. head: mask_rcnn, upernet, linear or knn.
        variant: what else tells it apart: "fine-tuned, 3 epochs", "frozen, 3 epochs"; "" of knn.
        score: box_ap, box_ap50, mask_ap, mask_ap50; miou, pixel_accuracy.
        seed: of the head and the views.
        parts: (n,) float32, what each held-out image adds, or each group of images; see `recon.dense.scoring`.
    """

    encoder: str
    task: str
    head: str
    variant: str
    score: str
    seed: int
    parts: Tensor

    @property
    def question(self) -> str:
        """What was asked, the same for every encoder and seed."""
        return "/".join(filter(None, (self.task, self.head, self.variant, self.score)))

    @property
    def name(self) -> str:
        """Unique within a record."""
        return f"{self.encoder}/{self.question}/{self.seed}"


@dataclass(frozen=True)
class SceneInfo:
    """The scenes. `train`, `test`: how many; `digest`: of the held-out ones; `image_size`: pixels, as the model sees
    them."""

    name: str
    digest: str
    train: int
    test: int
    classes: list[str]
    image_size: int


@dataclass(frozen=True)
class TransferRecord:
    """All transfers of a run to one task on one data set: `encoders` by key, `settings` of the last command, `caveats`
    for the reader, a sentence each, `recipes` by head and variant, and `results` by name."""

    run: str
    encoders: dict[str, EncoderInfo]
    data: SceneInfo
    settings: dict[str, Any]
    caveats: list[str] = field(default_factory=list)
    recipes: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: dict[str, TransferResult] = field(default_factory=dict)

    @property
    def task(self) -> str:
        return self.settings["task"]

    @property
    def conditions(self) -> dict[str, Any]:
        """What two transfers must have in common to be kept in one file."""
        return {"encoder": self.encoders["run"].checksum, "data": self.data.digest, "size": self.data.image_size}

    def with_results(self, results: list[TransferResult], recipe: dict[str, Any]) -> "TransferRecord":
        """This record with further results, which replace those of the same name, and how they were trained."""
        recipes = self.recipes | ({f"{results[0].head}, {results[0].variant}": recipe} if recipe else {})
        return replace(self, recipes=recipes, results=self.results | {result.name: result for result in results})

    def questions(self) -> list[str]:
        return list(dict.fromkeys(result.question for result in self.results.values()))

    def ways(self) -> list[tuple[str, str]]:
        """Head and variant of all that was done."""
        return list(dict.fromkeys((result.head, result.variant) for result in self.results.values()))

    def parts(self, encoder: str, question: str) -> Tensor | None:
        """(S, n) of all seeds; None where the encoder has not been asked."""
        same = [r.parts for r in self.results.values() if (r.encoder, r.question) == (encoder, question)]
        return torch.stack(same) if same else None

    def estimate(self, encoder: str, question: str) -> Estimate | None:
        """The score over seeds and held-out images, with its interval."""
        found = self.parts(encoder, question)
        return None if found is None else measure(found)


def joined(record: TransferRecord, before: TransferRecord | None) -> TransferRecord:
    """The new record with the earlier one's results, unless the encoder has changed since.

    Raises InvalidSetting where those were measured on other scenes or at another size.
    """
    if before is None or before.conditions["encoder"] != record.conditions["encoder"]:
        return record
    if before.conditions != record.conditions:
        raise InvalidSetting(
            f"{before.run} has been transferred to {before.data.name} at {before.data.image_size} pixels; "
            "again=true replaces that"
        )
    encoders = before.encoders | record.encoders
    return replace(record, encoders=encoders, recipes=before.recipes, results=before.results)


def write(folder: Path, record: TransferRecord) -> None:
    """Writes both files into a run's folder, the tensors first."""
    page = {"format": FORMAT} | asdict(replace(record, results={}))
    page["results"] = [_plain(result) for result in record.results.values()]
    page["estimates"] = [
        {"encoder": encoder, "question": question} | asdict(found)
        for question in record.questions()
        for encoder in record.encoders
        if (found := record.estimate(encoder, question))
    ]
    tensors = {name: result.parts.float() for name, result in record.results.items()}
    write_bytes(file_of(folder, record.task, "safetensors"), tensor_files.to_bytes(tensors, tie(record)))
    write_text(file_of(folder, record.task, "json"), with_checksum(json.dumps(page, indent=1, allow_nan=False)))


def _plain(result: TransferResult) -> dict[str, Any]:
    return {"name": result.name} | {f.name: getattr(result, f.name) for f in fields(result) if f.name != "parts"}


def read(folder: Path, task: str) -> TransferRecord | None:
    """The transfers to a task in a run's folder; None where there are none, or a process was killed between the files.

    Raises:
        InvalidSetting: one of the files has changed since it was written, or is of a later version.
    """
    path, tensors = (file_of(folder, task, ending) for ending in ("json", "safetensors"))
    if not path.is_file() or not tensors.is_file():
        return None
    try:
        page = read_json(path)
        if (version := page.pop("format")) != FORMAT:
            raise ValueError(f"unknown format {version}")
        entries, _ = page.pop("results"), page.pop("estimates")
        record = from_plain(TransferRecord, page)
        path = tensors
        stored = tensor_files.from_bytes(path.read_bytes())
        if stored.metadata != tie(record):
            return None
        for entry in entries:
            name = entry.pop("name")
            record.results[name] = from_plain(TransferResult, entry | {"parts": stored.content[name]})
        return record
    except (OSError, ValueError, SafetensorError, TypeError, KeyError, AttributeError) as error:
        raise InvalidSetting(f"{path} cannot be read ({one_line(error)}); again=true begins anew") from error


def tie(record: TransferRecord) -> dict[str, str]:
    """Metadata of tensors and pictures that says which page they belong to."""
    return {"conditions": json.dumps(record.conditions, sort_keys=True)}
