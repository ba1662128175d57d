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
from recon.training.device import own_fabric
from recon.training.ranks import ALONE, PATIENCE, Ranks, join


def evaluate_run(settings: EvaluateSettings, given: frozenset[str] = frozenset()) -> int:
    """Evaluates a run or a checkpoint of others, writes evaluation.json into its folder and prints a table.

    Under torchrun each process measures its part of the images, and the first alone prints and writes.

    Raises:
        InvalidSetting: no such run, no readable model, nothing that could be drawn, no data.
    """
    if settings.run is None:
        raise InvalidSetting("give the run to evaluate: run=runs/NAME")
    began = time.monotonic()
    check(settings)
    ranks = join(PATIENCE)
    with ranks.ending_together("nothing was written; evaluate again"):
        with ranks.one_voice():
            subject = open_run(Path(settings.run), settings.target)
            if subject.undrawable:
                raise InvalidSetting(subject.undrawable)
            if settings.render and not subject.trained.model.head.renderings:
                raise InvalidSetting(
                    f"render={settings.render}: {subject.name} has one answer to each image; leave render out"
                )
        nets = ranks.in_turn(lambda: networks(settings))  # what is missing is fetched once
        found = evaluated(subject, settings, nets, ranks=ranks)
        ranks.by_first(lambda: tell(subject, settings, found, began))
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
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Evaluates a run on the device of the settings, with a bar; see `evaluate`."""
    check(measuring)
    with ranks.one_voice():
        device = own_fabric(measuring.device, "fp32", ranks).device
    if device.type == "mps":  # it has no double precision
        device = torch.device("cpu")
    # Measured in float32, not in the shorter format that CUDA may put in its place.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    return evaluate(subject, measuring, nets, device, progress if ranks.first else silent, before, ranks)


def progress(things: Iterable, what: str, count: int) -> Iterator:
    """A bar; where standard error is no terminal, a line now and then."""
    pause = 0.1 if sys.stderr.isatty() else 15
    return iter(tqdm(things, desc=what, total=count, dynamic_ncols=True, leave=False, mininterval=pause, miniters=1))


def silent(things: Iterable, what: str, count: int) -> Iterator:
    """No bar: of several processes one shows how far all have come."""
    return iter(things)
