"""What `python -m recon.evaluate` does."""

import shlex
import time
from pathlib import Path
from typing import Any

import torch

from losses import InvalidSetting
from recon.console import aligned, duration, progress_bar, with_interval
from recon.distributed import require_one_process
from recon.evaluation import results as record
from recon.evaluation.evaluator import Evaluation, evaluate
from recon.evaluation.suite import Networks, networks
from recon.loaded_run import Subject, open_run
from recon.study_config import EvaluateSettings, Measuring, check_measuring
from recon.training.device import make_fabric

# Name and heading of the printed columns; those that the data or the machine do not have are left out.
COLUMNS = {
    "masked_psnr": "PSNR dB",
    "excess_mse": "excess MSE",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "tenengrad": "detail",  # over the truth's
    "blur_effect": "blur",
    "seam_ratio": "seams",
    "retention": "retention",
    "coherence": "coherence",
    "invented": "invented",
    "kid": "KID",
    "crps": "CRPS",
    "bits_per_dim": "bits/dim",
    "linear_mean": "linear",  # of probes, in a comparison
    "knn_20_mean": "20-NN",
}


def table(page: dict[str, Any]) -> str:
    """Rows of an evaluation with half the width of each interval behind the value.

    "detail" is the squared gradient (tenengrad) over the truth's.
    """
    columns = {name: title for name, title in COLUMNS.items() if _defined(page, name)}
    lines = [["", *columns.values()]]
    detail = page["rows"]["truth"]["values"]["tenengrad"]["value"]
    lines += [
        [row["label"], *(_cell(row["values"][name], detail if name == "tenengrad" else 1) for name in columns)]
        for row in page["rows"].values()
    ]
    return aligned(lines)


def undefined(page: dict[str, Any]) -> list[str]:
    """One line for each metric that no row has, with the reason."""
    truth = page["rows"]["truth"]["values"]
    return [
        f"{metric['name']}: {truth[metric['name']]['reason']}"
        for metric in page["metrics"]
        if not _defined(page, metric["name"])
    ]


def _defined(page: dict[str, Any], name: str) -> bool:
    return any(row["values"].get(name, {}).get("value") is not None for row in page["rows"].values())


def _cell(figures: dict[str, Any], unit: float) -> str:
    if figures["value"] is None or not unit:
        return "-"
    value, low, high = (figures[key] and figures[key] / unit for key in ("value", "low", "high"))
    return with_interval(value, low, high)


def evaluate_run(settings: EvaluateSettings, given: frozenset[str] = frozenset()) -> int:
    """Evaluates a run or a checkpoint of others, writes evaluation.json into its folder and prints a table.

    Raises:
        InvalidSetting: no such run, no readable model, nothing that could be drawn, no data, or several processes.
    """
    require_one_process("evaluate")
    if settings.run is None:
        raise InvalidSetting("give the run to evaluate: run=runs/NAME")
    began = time.monotonic()
    check_measuring(settings)
    subject = open_run(Path(settings.run), settings.target)
    if subject.undrawable:
        raise InvalidSetting(subject.undrawable)
    if settings.render and not subject.trained.model.head.renderings:
        raise InvalidSetting(f"render={settings.render}: {subject.name} has one answer to each image; leave render out")
    tell(subject, settings, evaluated(subject, settings, networks(settings)), began)
    return 0


def tell(subject: Subject, settings: EvaluateSettings, found: Evaluation, began: float) -> None:
    """Writes what was found, and prints it."""
    subject.make_folder()
    page = record.write(subject, settings, found).page
    print(table(page))
    p = page["protocol"]
    print(
        f"\n{p['images']} held-out images of {p['data']}, {p['image_size'][0]}x{p['image_size'][1]} pixels, patches of "
        f"{p['patch_size']}, {p['ratio']:.0%} hidden ({p['masking']}); ± half of the 95% interval over images"
    )
    for line in [*([p["caveat"]] if p["caveat"] else []), *undefined(page)]:
        print(line)
    print(f"all numbers  {subject.folder / record.JSON}   ({duration(time.monotonic() - began)})")
    print(f"next         python -m recon.compare {shlex.quote(settings.run)} ANOTHER_RUN")


def evaluated(
    subject: Subject,
    measuring: Measuring,
    nets: Networks,
    before: Evaluation | None = None,
) -> Evaluation:
    """Evaluates a run on the device of the settings, with a bar; see `evaluate`."""
    check_measuring(measuring)
    device = make_fabric(measuring.device, "fp32").device
    if device.type == "mps":  # it has no double precision
        device = torch.device("cpu")
    # Measured in float32, not in the shorter format that CUDA may put in its place.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    return evaluate(subject, measuring, nets, device, progress_bar, before)
