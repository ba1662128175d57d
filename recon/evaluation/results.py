"""evaluation.json, what a reader needs; evaluation.safetensors, every image's numbers, from which runs are compared."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from recon.evaluation.evaluator import Evaluation
from recon.evaluation.measures import Measured
from recon.evaluation.protocol import Protocol
from recon.loaded_run import Subject
from recon.metrics import GROUPS, MetricInfo
from recon.metrics.intervals import mean_interval, statistic_interval
from recon.metrics.recovery import RECOVERY, Recovery, summary
from recon.metrics.spectrum import band_frequency
from recon.metrics.uncertainty import blend, coverage, plane
from recon.runs import write_text
from recon.study_config import Measuring

FORMAT = "recon evaluation 2"
JSON, TENSORS = "evaluation.json", "evaluation.safetensors"

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """An evaluation as it lies on disk. `page`: evaluation.json. `tensors`: "row/metric" -> (n,), "row/moments" and
    "row/pictures" as in `Measured`, "masks"."""

    page: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def protocol(self) -> Protocol:
        found = {key: self.page["protocol"][key] for key in Protocol.__dataclass_fields__}
        return Protocol(**found | {"image_size": tuple(found["image_size"])})


def write(subject: Subject, measuring: Measuring, evaluation: Evaluation) -> Record:
    """Writes both files into the run's folder, the numbers first; what is read back later is what is returned."""
    page = as_page(subject, measuring, evaluation)
    tensors: dict[str, Tensor] = {"masks": evaluation.seen.masks}
    for key, measured in evaluation.seen.measured.items():
        tensors |= {f"{key}/{name}": values.contiguous() for name, values in measured.values.items()}
        tensors[f"{key}/pictures"] = measured.pictures
        if measured.distribution is not None:
            tensors |= {f"{key}/ranks": measured.distribution.ranks, f"{key}/draws": measured.distribution.pictures}
        if measured.moments is not None:
            tensors |= {f"{key}/moments": measured.moments, f"{key}/power": measured.power}
    temporary = subject.folder / f"{TENSORS}.tmp"
    temporary.write_bytes(save(tensors, metadata=_belongs_to(page)))
    temporary.replace(subject.folder / TENSORS)
    write_text(subject.folder / JSON, json.dumps(page, indent=1, allow_nan=False) + "\n")
    return Record(page, tensors)


def read(folder: Path) -> Record | None:
    """The evaluation in a run's folder; None where there is none that can be read."""
    try:
        page = json.loads((folder / JSON).read_text())
        with safe_open(folder / TENSORS, framework="pt") as file:
            if page["format"] != FORMAT or file.metadata() != _belongs_to(page):  # killed between the two files
                return None
            return Record(page, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    except (OSError, ValueError, SafetensorError, TypeError, KeyError):
        return None


def _belongs_to(page: dict[str, Any]) -> dict[str, str]:
    """What ties the two files of an evaluation together."""
    return {"digest": page["protocol"]["digest"], "model": page["model"]["sha256"]}


def as_page(subject: Subject, measuring: Measuring, evaluation: Evaluation) -> dict[str, Any]:
    trained = subject.trained
    protocol = asdict(evaluation.protocol) | {
        "images": len(evaluation.seen.names),
        "digest": evaluation.seen.digest,
        "caveat": evaluation.caveat,
    }
    groups = {name: group for group, names in GROUPS.items() for name in names}
    return {
        "format": FORMAT,
        "run": subject.name,
        "model": {"sha256": trained.sha256, "step": trained.step, "steps": trained.resolved["steps"]},
        "objective": trained.resolved["objective"],
        "protocol": protocol,
        "measuring": asdict(measuring) | {"run": None},
        "weights": evaluation.provenance,
        "images": evaluation.seen.names,
        "pictures": evaluation.seen.shown,
        "metrics": [{"group": groups[name], **info_values(info)} for name, info in evaluation.metrics.items()],
        "rows": {
            row.key: {
                "label": row.label,
                "kind": row.kind,
                "rendering": row.rendering,
                "note": row.note,
                "values": {
                    name: figures(name, evaluation.seen.measured[row.key], evaluation.protocol.patch_size)
                    for name in evaluation.metrics
                },
                **textures(evaluation.seen.measured[row.key], evaluation.protocol.patch_size),
                **spread_out(evaluation.seen.measured[row.key], evaluation.protocol.patch_size),
                "by_ratio": by_ratio(evaluation.seen.by_ratio.get(row.key, {})),
            }
            for row in evaluation.rows
        },
    }


def info_values(info: MetricInfo) -> dict[str, Any]:
    names = {"description": "what"} | {n: n for n in ("name", "unit", "low", "high", "better", "reference", "paired")}
    return {key: plain(getattr(info, name)) for name, key in names.items()}


def figures(name: str, measured: Measured, patch_size: int) -> Numbers:
    """A cell of the table: value, interval, number of images behind it, and the reason where there is no value."""
    if name in measured.reasons:
        return no_value(f"not defined: {measured.reasons[name]}")
    if name in {metric.name for metric in RECOVERY}:
        value, low, high, images = statistic_interval(measured.moments.sum(1), lambda sums: summary(sums)[name])
    elif name == "luma_w2":  # of the set alone; no image has a part in it
        images = len(measured.values["masked_mse"])
        value, low, high = plane_of(measured, patch_size)[1], math.nan, math.nan
    elif name in measured.values:
        value, low, high, images = mean_interval(measured.values[name])
    else:
        return no_value("not defined here")
    if not math.isfinite(value):
        return no_value("not defined: no image has a value" if math.isnan(value) else "infinite")
    return {"value": plain(value), "low": plain(low), "high": plain(high), "n": images, "reason": None}


def no_value(reason: str) -> Numbers:
    return {"value": None, "low": None, "high": None, "n": 0, "reason": reason}


def textures(measured: Measured, patch_size: int) -> dict[str, Any]:
    """What the plots show of the bands: recovery, its change with the distance, and the power spectrum."""
    if measured.moments is None:
        return {"bands": None, "by_distance": None, "spectrum": None}
    moments = measured.moments[measured.moments.flatten(1).isfinite().all(1)].sum(0)  # (distances, bands, 4)
    there = [d for d in range(len(moments)) if moments[d, 0, 0] > 0]
    each = [summary(moments[d]) for d in there]
    frequency = band_frequency(patch_size).tolist()
    recovery = Recovery(moments.sum(0))
    power = measured.power[measured.power.isfinite().all(1)].mean(0)
    named = ("retention", "coherence", "error", "gain")
    bands = {"frequency": frequency} | {name: plain(getattr(recovery, name).tolist()) for name in named}
    if measured.exact_retention is not None:
        bands["exact_retention"] = plain(measured.exact_retention.tolist())
    return {
        "bands": bands,
        "by_distance": {
            "distance": [d + 1 for d in there],
            "mse": [plain(squared_error(moments[d])) for d in there],
            "retention": [plain(s["retention"].item()) for s in each],
            "coherence": [plain(s["coherence"].item()) for s in each],
        },
        "spectrum": {"frequency": frequency[1:], "power": plain(power[1:].tolist())},
    }


def spread_out(measured: Measured, patch_size: int) -> dict[str, Any]:
    """Where the row lies between perception and distortion, in luminance per pixel; and what its draws tell.

    calibration: the shares of truths above 0, ..., S of S draws, and how many lie within central intervals. blend: the
    way from the mean (alpha 0) to a draw (1).
    """
    mse, w2 = plane_of(measured, patch_size)
    found: dict[str, Any] = {"plane": {"mse": plain(mse), "w2": plain(w2)}}
    if measured.distribution is None:
        return found | {"calibration": None, "blend": None}
    counts = measured.distribution.ranks
    counts = counts[counts.isfinite().all(1)].sum(0)
    expected, within = coverage(counts)
    alphas = [i / 20 for i in range(21)]
    d, share = kept_of(patch_size)
    mses, w2s = blend(measured.distribution.luma, d, alphas)
    return found | {
        "calibration": {
            "draws": len(counts) - 1,
            "ranks": plain((counts / counts.sum()).tolist()),
            "expected": plain(expected.tolist()),
            "coverage": plain(within.tolist()),
        },
        "blend": {
            "alpha": alphas,
            "mse": plain([share * mse for mse in mses]),
            "w2": plain([math.sqrt(share) * w2 for w2 in w2s]),
        },
    }


def plane_of(measured: Measured, patch_size: int) -> tuple[float, float]:
    """Squared error and distance to the truth of the luminance of hidden patches, per pixel."""
    d, share = kept_of(patch_size)
    mse, w2 = plane(measured.luma, d)
    return share * mse, math.sqrt(share) * w2


def kept_of(patch_size: int) -> tuple[int, float]:
    """How many values `luma_moments` keeps of a patch, and what share of all: what the others add is left out."""
    d = min(8, patch_size) ** 2
    return d, d / patch_size**2


def squared_error(moments: Tensor) -> float:
    """Mean squared error of a pixel from the summed moments (bands, 4): the DCT keeps squares."""
    count, true, predicted, both = moments.unbind(-1)
    return ((true + predicted - 2 * both).sum() / count.sum()).item()


def by_ratio(points: dict[float, dict[str, float]]) -> dict[str, list[float]] | None:
    if not points:
        return None
    names = next(iter(points.values()))
    return {"ratio": list(points)} | {name: [plain(point[name]) for point in points.values()] for name in names}


def plain(value: Any) -> Any:
    """Numbers as JSON knows them: no NaN, no infinity; and no more digits than they carry."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value
