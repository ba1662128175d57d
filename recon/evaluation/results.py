"""An evaluation, and its files: evaluation.json is what a reader needs, and evaluation.safetensors holds the numbers of
every image, from which runs are compared."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from recon.evaluation.protocol import Protocol
from recon.result_table import Column, Results, RowInfo, Value, as_json, read_table
from recon.runs import write_bytes, write_text

FORMAT = "recon evaluation 3"
JSON, TENSORS = "evaluation.json", "evaluation.safetensors"


@dataclass(frozen=True)
class Evaluation:
    """A run's rows and those of simple reconstructions, all on the same images and masks.

    Args:
        model: "sha256" of its file, "step" and "steps".
        protocol: with the number of images that the data had. digest: checksum of images and masks.
        measuring: the settings under which it was made. weights: where the networks' weights came from.
        images: names of all images. pictures: of those that are kept to look at.
        tensors: "row/metric" -> (n,) float64, NaN where an image has no value; "row/moments" (n, distances, bands, 4)
            and "row/power" (n, bands), of hidden patches; "row/pictures" (pictures, 3, H, W) uint8, predictions as they
            are; of a row that is the mean of S draws "row/draws" (pictures, S, 3, H, W) uint8 and "row/ranks"
            (n, S + 1); "masks" (pictures, N) bool.
    """

    run: str
    model: dict[str, Any]
    objective: str
    protocol: Protocol
    digest: str
    caveat: str | None
    measuring: dict[str, Any]
    weights: dict[str, dict[str, str]]
    images: list[str]
    pictures: list[str]
    columns: list[Column]
    rows: list[RowInfo]
    results: Results
    tensors: dict[str, Tensor]


def write(folder: Path, evaluation: Evaluation) -> None:
    """Writes both files into a run's folder, the numbers of images first."""
    tensors = {name: tensor.contiguous() for name, tensor in evaluation.tensors.items()}
    write_bytes(folder / TENSORS, save(tensors, metadata=_belongs_to(evaluation.digest, evaluation.model)))
    tables = {"columns": evaluation.columns, "rows": evaluation.rows, "values": evaluation.results}
    head = {f.name: getattr(evaluation, f.name) for f in fields(evaluation) if f.name not in ("results", "tensors")}
    head = {"format": FORMAT} | head | {"protocol": asdict(evaluation.protocol)}
    write_text(folder / JSON, as_json({key: head[key] for key in head if key not in tables}, tables))


def read(folder: Path) -> Evaluation | None:
    """The evaluation in a run's folder; None where there is none that this program can read."""
    try:
        page = json.loads((folder / JSON).read_text())
        if page.pop("format") != FORMAT:
            return None
        with safe_open(folder / TENSORS, framework="pt") as file:
            if file.metadata() != _belongs_to(page["digest"], page["model"]):  # killed between the two files
                return None
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        size = tuple(page["protocol"]["image_size"])
        page["protocol"] = Protocol(**page["protocol"] | {"image_size": size})
        page |= {"columns": read_table(Column, page["columns"]), "rows": read_table(RowInfo, page["rows"])}
        return Evaluation(results=Results(read_table(Value, page.pop("values"))), tensors=tensors, **page)
    except (OSError, ValueError, SafetensorError, TypeError, KeyError):
        return None


def _belongs_to(digest: str, model: dict[str, Any]) -> dict[str, str]:
    """What ties the two files of an evaluation together."""
    return {"digest": digest, "model": model["sha256"]}
