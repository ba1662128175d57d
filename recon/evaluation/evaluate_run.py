"""What `python -m recon.evaluate` does, and the table that it prints."""

import shlex
import time
from collections.abc import Iterable
from pathlib import Path

from losses import InvalidSetting
from recon.console import aligned, duration, with_interval
from recon.distributed import require_one_process
from recon.evaluation.evaluation_pass import evaluate
from recon.evaluation.results import JSON, Evaluation, write
from recon.evaluation.suite import load_suite
from recon.loaded_run import open_run
from recon.result_table import Column, Results, RowInfo
from recon.study_config import EvaluateSettings, check_measuring

# Names and headings of the printed columns; those of which no row has a value are left out.
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


def table(rows: Iterable[RowInfo], results: Results) -> str:
    """Formats rows with half the width of each interval behind the value.

    "detail" is the squared gradient (tenengrad) over the truth's.
    """
    rows = list(rows)
    columns = {name: title for name, title in COLUMNS.items() if has_values(rows, results, name)}
    detail = results.number("truth", "tenengrad")
    units = {"tenengrad": detail}
    lines = [[row.label, *(_cell(results, row.key, name, units.get(name, 1)) for name in columns)] for row in rows]
    return aligned([["", *columns.values()], *lines])


def undefined(rows: Iterable[RowInfo], columns: Iterable[Column], results: Results) -> list[str]:
    """One line for each column without a value in any row, with the reason."""
    rows = list(rows)
    empty = [column.name for column in columns if not has_values(rows, results, column.name)]
    return [f"{name}: {results.get('truth', name).reason}" for name in empty]


def has_values(rows: Iterable[RowInfo], results: Results, metric: str) -> bool:
    return any(results.number(row.key, metric) is not None for row in rows)


def _cell(results: Results, row: str, metric: str, unit: float | None) -> str:
    found = results.get(row, metric)
    if found.value is None or not unit:
        return "-"
    low, high = (end / unit for end in found.interval) if found.interval else (None, None)
    return with_interval(found.value / unit, low, high)


def evaluate_run(settings: EvaluateSettings, given: frozenset[str] = frozenset()) -> int:
    """Evaluates a run or another code's checkpoint, writes evaluation.json into its folder and prints a table.

    Raises:
        InvalidSetting: no such run, no readable model, nothing that could be drawn, no data, or several processes.
    """
    require_one_process("evaluate")
    if settings.run is None:
        raise InvalidSetting("give the run to evaluate: run=runs/NAME")
    began = time.monotonic()
    check_measuring(settings)
    run = open_run(Path(settings.run), settings.target)
    if run.undrawable:
        raise InvalidSetting(run.undrawable)
    if settings.render and not run.model.head.renderings:
        raise InvalidSetting(f"render={settings.render}: {run.name} has one answer to each image; leave render out")
    found = evaluate(run, settings, load_suite(settings))
    run.make_folder()
    write(run.folder, found)
    print(described(found))
    print(f"all numbers  {run.folder / JSON}   ({duration(time.monotonic() - began)})")
    print(f"next         python -m recon.compare {shlex.quote(settings.run)} ANOTHER_RUN")
    return 0


def described(found: Evaluation) -> str:
    """An evaluation as text: its table, what was measured, and why columns are missing."""
    p = found.protocol
    height, width = p.image_size
    lines = [
        table(found.rows, found.results),
        f"\n{p.images} held-out images of {p.data}, {height}x{width} pixels, patches of {p.patch_size}, "
        f"{p.ratio:.0%} hidden ({p.masking}); ± half of the 95% interval over images",
        *([found.caveat] if found.caveat else []),
        *undefined(found.rows, found.columns, found.results),
    ]
    return "\n".join(lines)
