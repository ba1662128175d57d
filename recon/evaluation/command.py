"""What `python -m recon.evaluate` does."""

import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from losses import InvalidSetting
from recon.evaluation import record
from recon.evaluation.evaluation import Evaluation, evaluate
from recon.evaluation.instruments import Networks, networks
from recon.evaluation.settings import EvaluateSettings, Measuring, check
from recon.evaluation.subject import Subject, open_run
from recon.evaluation.table import table, undefined
from recon.training.console import duration
from recon.training.device import make_fabric


def evaluate_run(settings: EvaluateSettings, given: frozenset[str] = frozenset()) -> int:
    """Evaluates a run or a checkpoint of others, writes evaluation.json into its folder and prints a table.

    Raises:
        InvalidSetting: no such run, no readable model, nothing that could be drawn, no data.
    """
    if settings.run is None:
        raise InvalidSetting("give the run to evaluate: run=runs/NAME")
    began = time.monotonic()
    check(settings)
    subject = open_run(Path(settings.run), settings.target)
    if subject.undrawable:
        raise InvalidSetting(subject.undrawable)
    found = evaluated(subject, settings, networks(settings))
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
    return 0


def evaluated(subject: Subject, measuring: Measuring, nets: Networks, before: Evaluation | None = None) -> Evaluation:
    """Evaluates a run on the device of the settings, with a bar; see `evaluate`."""
    check(measuring)
    device = make_fabric(measuring.device, "fp32").device
    if device.type == "mps":  # it has no double precision
        device = torch.device("cpu")
    # Measured in float32, not in the shorter format that CUDA may put in its place.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    return evaluate(subject, measuring, nets, device, progress, before)


def progress(things: Iterable, what: str, count: int) -> Iterator:
    """A bar; where standard error is no terminal, a line now and then."""
    pause = 0.1 if sys.stderr.isatty() else 15
    return iter(tqdm(things, desc=what, total=count, dynamic_ncols=True, leave=False, mininterval=pause, miniters=1))
