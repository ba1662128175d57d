"""What happens beside the algorithm: logs, pictures, checkpoints, and the end of a run that diverges."""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn
from tqdm import tqdm

from losses.tensor_files import to_bytes
from recon.console import QUIET_SECONDS, duration, one_line
from recon.distributed import ALONE, Ranks
from recon.run_folder import (
    METRICS,
    MODEL,
    PICTURE,
    metric_line,
    metric_lines,
    save_checkpoint,
    write_bytes,
    write_text,
    writing,
)
from recon.training.preview import Preview, describe, held_out_figures, write_picture
from recon.training.state import Run, Schedule
from recon.training.trackers import LOCAL, Tracker, open_trackers, reason_of


class Console:
    """A progress bar with images/s and every term; plain lines now and then where the output is no terminal."""

    def __init__(self, start: int, steps: int):
        self.start, self.steps = start, steps
        self.bar = tqdm(
            total=steps, initial=start, unit="step", dynamic_ncols=True, smoothing=0.05, disable=not sys.stderr.isatty()
        )
        self.marks: list[tuple[int, float]] = []
        self.printed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def print(self, line: str) -> None:
        self.bar.write(line, file=sys.stdout)
        sys.stdout.flush()

    def advance(self, step: int) -> None:
        """One more step is done; it may still be under way on the device."""
        self.bar.update(1)
        now = time.monotonic()
        if step - self.start in (1, 6):  # the first step compiles and allocates
            self.marks.append((step, now))
            if len(self.marks) == 2:
                seconds = (now - self.marks[0][1]) / 5 * (self.steps - step)
                self.print(f"estimated time: {duration(seconds)} for {self.steps - step} more steps")

    def log_metrics(self, step: int, means: dict[str, float], images_per_second: float) -> None:
        shown = {"loss": means.get("loss")} | {
            key.removesuffix("/value"): v for key, v in means.items() if key.endswith("/value")
        }
        written = {key: f"{value:.4g}" for key, value in shown.items() if value is not None}
        for name in [name for name in written if f"{name}/accuracy" in means]:  # how its discriminator fares
            accuracy, share = means[f"{name}/accuracy"], means.get(f"{name}/gradient_share", 0.0)
            written[name] += f" (discriminator right {accuracy:.0%}, {share:.0%} of the gradient)"
        written["images/s"] = f"{images_per_second:.0f}"
        self.bar.set_postfix(written, refresh=False)
        now = time.monotonic()
        if self.bar.disable and now - self.printed > QUIET_SECONDS:
            self.printed = now
            self.print(f"step {step}/{self.steps}  " + "  ".join(f"{key} {value}" for key, value in written.items()))


class RunLog:
    """Appends lines to metrics.jsonl, and hands numbers and pictures to the trackers (see `open_trackers`).

    A resumed run drops the lines after its checkpoint's step: those steps are made again. A tracker of another package
    that fails on the way is left, after a line through `warn`.
    """

    def __init__(
        self,
        folder: Path,
        start: int,
        trackers: tuple[str, ...] = ("tensorboard",),
        settings: dict[str, Any] | None = None,
        warn: Callable[[str], None] = print,
    ):
        self.path, self.warn, self.finished = folder / METRICS, warn, False
        if self.path.exists():
            kept = [line for line in metric_lines(folder) if (line["step"] or 0) <= start]
            write_text(self.path, "".join(map(metric_line, kept)))
        with writing(folder):
            self.file = self.path.open("a")
            self.trackers = open_trackers(trackers, folder, start, settings or {})
        # What TensorBoard's thread cannot write is raised at the next write; the thread need not print it too.
        self.hook = threading.excepthook
        threading.excepthook = lambda args: None if isinstance(args.exc_value, OSError) else self.hook(args)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        threading.excepthook = self.hook
        with writing(self.path), self.file:
            self._for_each(lambda tracker: tracker.close(self.finished))

    def log_metrics(self, step: int, values: dict[str, float]) -> None:
        with writing(self.path):
            self.file.write(metric_line({"step": step, **values}))
            self.file.flush()
            self._for_each(lambda tracker: tracker.log_metrics(step, values))

    def log_picture(self, step: int, grid: Tensor) -> None:
        with writing(self.path.parent):
            self._for_each(lambda tracker: tracker.log_picture(step, grid))

    def _for_each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.trackers.items()):
            try:
                call(tracker)
            except Exception as error:  # each package has errors of its own
                if name in LOCAL:
                    raise
                del self.trackers[name]
                self.warn(f"log={name} is given up: {reason_of(error)}; {METRICS} has all numbers")


LOWER = "lower optim.base_lr or set optim.clip"
SKIPPED_IN_A_ROW = 10  # steps without a finite gradient that end the run


class Diverged(RuntimeError):
    """The weights are not finite, or many steps in a row had no finite gradient; the message says whose fault it is."""


class TrainLogger:
    """Logs, pictures and saves a run when its `Schedule` says so; waits for the device only then.

    Of several `ranks` rank zero prints and writes. The others take part in what needs the whole model, and end with it
    when the run diverges or cannot be written.
    """

    def __init__(self, run: Run, schedule: Schedule, preview: Preview, ranks: Ranks = ALONE):
        self.run, self.schedule, self.preview, self.ranks = run, schedule, preview, ranks
        self.open = ExitStack()
        with ranks.sync_errors():
            if ranks.is_zero:
                self.console = self.open.enter_context(Console(run.step, schedule.steps))
                log = RunLog(run.folder, run.step, schedule.log, run.settings, self.console.print)
                self.log = self.open.enter_context(log)
        self.images, self.since = 0, time.monotonic()
        self.warned: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.open.close()

    def after_step(self, model: nn.Module, images: int) -> None:
        """Does what is due after an optimiser step on `images` images."""
        step, schedule = self.run.step, self.schedule
        last = step == schedule.steps
        self.images += images
        if self.ranks.is_zero:
            self.console.advance(step)
        if last:
            self.raise_if_blown_up(model)
        picture_due = last or step % schedule.picture_every == 0
        figures = self.log_picture(model) if picture_due else {}
        if picture_due or step % schedule.log_every == 0:
            self.log_metrics(figures)
        due = step % schedule.checkpoint_every == 0
        if last or (due and not self.run.metrics.skipped_in_a_row()):  # or the last good checkpoint would be replaced
            self.save(model)
        if last and self.ranks.is_zero:
            self.log.finished = True

    def log_metrics(self, figures: dict[str, float]) -> None:
        """One line of the log, with the `figures` of the held-out images."""
        means = self.run.metrics.means()  # waits for the device
        if self.run.online_probe is not None:
            means |= self.run.online_probe.means()
        skipped = self.run.metrics.skipped()
        with self.ranks.sync_errors():
            if self.ranks.is_zero:
                now = time.monotonic()
                speed = self.images / (now - self.since)
                self.images, self.since = 0, now
                rate = self.schedule.learning_rate(self.run.step - 1)
                extra = {"learning_rate": rate, "images_per_second": speed}
                extra |= {f"skipped/{name}": count for name, count in skipped.items()}
                self.log.log_metrics(self.run.step, means | extra | figures)
                self.console.log_metrics(self.run.step, means, speed)
        self.raise_if_diverged()
        if self.ranks.is_zero:
            self._warn([f"skipped {n} steps: no finite loss and gradient from {name}" for name, n in skipped.items()])
            self._warn([line for term in self.run.objective.terms.values() if (line := term.warning())])

    def log_picture(self, model: nn.Module) -> dict[str, float]:
        """Writes reconstructions.png, where predictions have pixels; returns the figures of the held-out images, which
        are the same at every call."""
        began = time.monotonic()
        run = self.run
        reconstructions, samples = [], {}
        with run.average.applied(run.model) if run.average else nullcontext():
            if run.model.head.has_pixels:
                reconstructions = self.preview.reconstruct(model)  # on all ranks: none has the whole of a sharded model
                samples = self.preview.draws(run.model, reconstructions)
            accuracies = run.online_probe.accuracies() if run.online_probe else {}
        with self.ranks.sync_errors():
            if self.ranks.is_zero and reconstructions:
                run.held_out = held_out_figures(reconstructions)
                progress = f"step {run.step}/{self.schedule.steps}"
                caption = f"{run.objective.expression}   {progress}   {describe(run.held_out)}"
                with writing(run.folder / PICTURE):
                    grid = write_picture(reconstructions, caption, run.folder / PICTURE, run.earlier, samples)
                self.log.log_picture(run.step, grid)
        self.since += time.monotonic() - began  # not training time
        return {f"held_out/{name}": value for name, value in run.held_out.items()} | accuracies

    def save(self, model: nn.Module) -> None:
        """Writes the checkpoint, and the model alone; not once the run has diverged, to keep the last good one."""
        self.raise_if_diverged()
        self.raise_if_blown_up(model)
        state = self.run.state()
        with self.ranks.sync_errors():
            if self.ranks.is_zero:
                save_checkpoint(self.run.folder, state)
                weights = state["model"] | state["average"]
                write_bytes(self.run.folder / MODEL, to_bytes(weights, {"step": str(self.run.step)}))

    def raise_if_diverged(self) -> None:
        """Raises Diverged after SKIPPED_IN_A_ROW steps without a finite gradient; waits for the device."""
        if (row := self.run.metrics.skipped_in_a_row()) >= SKIPPED_IN_A_ROW:
            skipped = self.run.metrics.skipped()
            by = ", ".join(f"{name} {count}" for name, count in skipped.items())
            terms = self.run.objective.expression.terms
            wild = [term.name for term in terms if term.name in skipped and term.weight > 1e6]
            remedy = f"lower the weight of {' and '.join(wild)} in loss=" if wild else LOWER
            raise Diverged(
                f"{row} steps in a row had no finite loss and gradient (skipped, by the term at fault: {by}); the last "
                f"good checkpoint is intact; {remedy}"
            )

    def raise_if_blown_up(self, model: nn.Module) -> None:
        """Raises Diverged where weights, or what the model makes of the first held-out images, are not finite.

        A step with a finite gradient may have been so long that the next one has none.
        """
        finite = self.run.is_finite()
        if self.run.step:
            finite &= bool(self.preview.first(model).prediction.float().square().mean().isfinite())
        if self.ranks.max(not finite):
            raise Diverged(f"the weights are too large, or not finite; the last good checkpoint is intact; {LOWER}")

    def note_unreadable(self, lines: list[str]) -> None:
        for line in self.run.note_unreadable(lines) if lines else ():
            if self.ranks.is_zero:
                self.console.print(f"skipped an unreadable file: {one_line(line)}")

    def _warn(self, lines: list[str]) -> None:
        """Prints each warning once, also when the counts in it change."""
        for line in lines:
            kind = "".join(c for c in line if not c.isdigit())
            if kind not in self.warned:
                self.warned.add(kind)
                self.console.print(f"warning: {line}")
