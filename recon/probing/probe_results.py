"""The results of a probing: probe.json for readers, probe.safetensors for paired differences."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from losses import InvalidSetting, tensor_files
from recon.data.source import one_line
from recon.probing.accuracy import Estimate, accuracy, measure
from recon.result_table import from_plain, read_json, with_checksum
from recon.run_folder import write_bytes, write_text

FORMAT = "recon probe 2"
EARLIER = "recon probe 1"  # called encoders contestants
JSON, TENSORS = "probe.json", "probe.safetensors"
MAX_IMAGES = 25_600  # of a measure without labels, as in the RankMe paper, section 3
FEATURE_NAMES = {"mean": "mean of the patch tokens", "class": "class token"}


@dataclass(frozen=True)
class ProbeResult:
    """How often one probe of one encoder was right on the test images, or a measure of its features without labels.

    Args:
        encoder: key of the `ProbedEncoder`.
        probe: linear, knn, paper_linear, attentive, efficient, partial or finetune; or rankme, alpha_req.
        variant: what else tells it apart: "k=20", "blocks=2, 100 epochs".
        feature: what a frozen probe read: "mean/12" (mean patch token after block 12), "class/12", "pixels"; else "".
        fraction: of the training labels; 0 for a measure without labels.
        per_image: (S, n) bool, whether the probe of each seed was right on each test image; of a measure float32
            (1, n), the part of each training image in it (`recon.probing.label_free`).
        chosen: per seed, what was chosen on held-back training images, or the recipe of the training.
    """

    encoder: str
    probe: str
    variant: str
    feature: str
    fraction: float
    per_image: Tensor
    chosen: list[dict[str, Any]] = field(default_factory=list)

    @property
    def question(self) -> str:
        """What was asked, the same for every encoder."""
        share = f"{self.fraction:g}" if self.fraction else ""
        return "/".join(filter(None, (self.probe, self.variant, self.feature, share)))

    @property
    def name(self) -> str:
        """Unique within one probing."""
        return f"{self.encoder}/{self.question}"

    @property
    def kind(self) -> str:
        """The kind of feature that was read: "mean", "class" or "pixels"; "" where the whole encoder was trained."""
        return self.feature.partition("/")[0]

    @property
    def layer(self) -> int:
        """The block whose output was read; 0 where the whole encoder was trained, and for pixels."""
        return int(self.feature.partition("/")[2] or 0)

    @property
    def title(self) -> str:
        """The question without the share of the labels, in words: "linear, class token of block 12"."""
        feature = f"{FEATURE_NAMES[self.kind]} of block {self.layer}" if self.layer else self.kind
        return ", ".join(filter(None, (self.probe, self.variant, feature)))

    @cached_property
    def estimate(self) -> Estimate:
        """Mean accuracy over seeds and test images, or the measure, with its interval."""
        return accuracy(self.per_image) if self.fraction else measure(self.per_image)


@dataclass(frozen=True)
class EncoderInfo:
    """What probe.json tells of a `ProbedEncoder`."""

    label: str
    checksum: str


@dataclass(frozen=True)
class DataInfo:
    """The images that were probed. `train`, `test`: how many; `image_size`: [H, W]."""

    name: str
    digest: str
    train: int
    test: int
    classes: list[str]
    image_size: list[int]


@dataclass(frozen=True)
class ProbeRecord:
    """A probing, as probe.json and probe.safetensors hold it: of a `run`, or the model from scratch of that name;
    `encoders` by key, `settings` of the command, `caveats` for the reader, a sentence each, and `results` by name."""

    run: str
    encoders: dict[str, EncoderInfo]
    data: DataInfo
    seeds: list[int]
    settings: dict[str, Any]
    caveats: list[str]
    results: dict[str, ProbeResult] = field(default_factory=dict)

    @property
    def checksum(self) -> str:
        """Of the run's encoder; a model from scratch, drawn anew for each seed, has none."""
        return self.encoders["run"].checksum if "run" in self.encoders else "scratch"

    @property
    def images(self) -> tuple[str, list[int]]:
        """Digest of the images and labels that were probed, and the size they were cut to."""
        return self.data.digest, self.data.image_size

    @property
    def conditions(self) -> dict[str, Any]:
        """What two probings must have in common to be kept in one file."""
        return {
            "data": self.data.digest,
            "image size": self.data.image_size,
            "seeds": self.seeds,
            "precision": self.settings["precision"],
        }

    def with_results(self, results: list[ProbeResult]) -> "ProbeRecord":
        """This record with further results, which replace those of the same name."""
        return replace(self, results=self.results | {result.name: result for result in results})


def joined(record: ProbeRecord, before: ProbeRecord | None) -> ProbeRecord:
    """The new record with the results of the earlier probing, unless its encoder has changed since.

    Raises InvalidSetting where the earlier probing was made under other conditions.
    """
    if before is None or before.checksum != record.checksum:
        return record
    if differing := [key for key, value in record.conditions.items() if before.conditions[key] != value]:
        what = " and ".join(differing)
        raise InvalidSetting(f"{before.run} has been probed with other {what}; again=true replaces that")
    return replace(record, encoders=before.encoders | record.encoders, results=before.results)


def joined_seeds(results: Iterable[ProbeResult]) -> list[ProbeResult]:
    """Results of single seeds with the same name as one result."""
    by_name: dict[str, list[ProbeResult]] = {}
    for result in results:
        by_name.setdefault(result.name, []).append(result)
    return [
        replace(
            same[0], per_image=torch.cat([each.per_image for each in same]), chosen=[each.chosen[0] for each in same]
        )
        for same in by_name.values()
    ]


def write(folder: Path, record: ProbeRecord) -> None:
    """Writes both files into a run's folder, the tensors first."""
    page = {"format": FORMAT} | asdict(replace(record, results={}))
    page["results"] = [_entry(result) for result in record.results.values()]
    stored = {True: torch.uint8, False: torch.float32}
    tensors = {n: result.per_image.to(stored[result.fraction > 0]) for n, result in record.results.items()}
    write_bytes(folder / TENSORS, tensor_files.to_bytes(tensors, _tie(record)))
    write_text(folder / JSON, with_checksum(json.dumps(page, indent=1, allow_nan=False)))


def _entry(result: ProbeResult) -> dict[str, Any]:
    """A result as probe.json lists it, with its estimate and without its tensor."""
    numbers = asdict(result.estimate)
    plain = {f.name: getattr(result, f.name) for f in fields(result) if f.name != "per_image"}
    return {"name": result.name, "question": result.question, **plain, "value": numbers.pop("mean"), **numbers}


def read(folder: Path) -> ProbeRecord | None:
    """The probing in a run's folder; None where there is none, or one that was killed between its two files.

    Raises:
        InvalidSetting: one of the files has changed since it was written, or is of a later version.
    """
    path = folder / JSON
    if not path.is_file():
        return None
    try:
        page = _renamed(read_json(path))
        entries = page.pop("results")
        names = [f.name for f in fields(ProbeResult) if f.name != "per_image"]
        record = from_plain(ProbeRecord, page)
        path = folder / TENSORS
        if not path.is_file():
            return None
        stored = tensor_files.from_bytes(path.read_bytes())
        if stored.metadata != _tie(record):
            return None
        path = folder / JSON
        for entry in entries:
            plain = {name: entry[name] for name in names}
            per_image, shape = stored.content[entry["name"]], (1, min(record.data.train, MAX_IMAGES))
            if plain["fraction"]:
                per_image, shape = per_image.bool(), (len(record.seeds), record.data.test)
            if per_image.shape != shape:
                raise ValueError(f"{entry['name']} has other seeds or images")
            record.results[entry["name"]] = from_plain(ProbeResult, plain | {"per_image": per_image})
        return record
    except (OSError, ValueError, SafetensorError, TypeError, KeyError, AttributeError) as error:
        raise InvalidSetting(f"{path} cannot be read ({one_line(error)}); again=true probes anew") from error


def _renamed(page: dict[str, Any]) -> dict[str, Any]:
    """probe.json in today's words, without its format. Raises ValueError for an unknown format."""
    version = page.pop("format")
    if version == EARLIER:
        encoders = page.pop("contestants")
        page["encoders"] = {key: {"label": e["label"], "checksum": e["encoder"]} for key, e in encoders.items()}
        page["results"] = [entry | {"encoder": entry["contestant"]} for entry in page["results"]]
    elif version != FORMAT:
        raise ValueError(f"unknown format {version}")
    return page


def _tie(record: ProbeRecord) -> dict[str, str]:
    """Metadata of probe.safetensors that says which probe.json it belongs to."""
    # The key that probings have always had.
    return {"terms": json.dumps({"encoder": record.checksum, **record.conditions}, sort_keys=True)}
