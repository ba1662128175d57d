"""What happens beside the algorithm: logs, pictures, checkpoints, and the end of a run that diverges."""

import json
import sys
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Self

from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from recon.console import QUIET_SECONDS, duration
from recon.runs import METRICS, MODEL, PICTURE, TENSORBOARD, save_checkpoint, write_bytes, write_text
from recon.training.preview import Preview, describe, held_out_figures, write_picture
from recon.training.state import Run, Schedule


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


class FileLog:
    """Appends lines to metrics.jsonl and curves to tensorboard/.

    A resumed run drops the lines after its checkpoint's step: those steps are made again.
    """

    def __init__(self, folder: Path, start: int):
        path = folder / METRICS
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if _step(line) <= start]
            write_text(path, "".join(f"{line}\n" for line in lines))
        self.file = path.open("a")
        self.board = SummaryWriter(str(folder / TENSORBOARD), purge_step=start + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.board.close()

    def log_metrics(self, step: int, values: dict[str, float]) -> None:
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        for key, value in values.items():
            self.board.add_scalar(key, value, step)

    def log_picture(self, step: int, grid: Tensor) -> None:
        self.board.add_image("reconstructions", grid, step)


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # the half line of a killed process
        return float("inf")


SKIPPED_IN_A_ROW = 10  # steps without a finite gradient that end the run


class Diverged(RuntimeError):
    """Many steps in a row had no finite gradient; the message names the term at fault."""


class TrainLogger:
    """Logs, pictures and saves a run when its `Schedule` says so; waits for the device only then.

    Of several ranks the one with `writes` prints and writes. The others take part in what needs the whole model, and
    end with it when the run diverges.
    """

    def __init__(self, run: Run, schedule: Schedule, writes: bool = True):
        self.run, self.schedule, self.writes = run, schedule, writes
        self.open = ExitStack()
        if writes:
            self.log = self.open.enter_context(FileLog(run.folder, run.step))
            self.console = self.open.enter_context(Console(run.step, schedule.steps))
        self.images, self.since = 0, time.monotonic()
        self.warned: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.open.close()

    def after_step(self, model: nn.Module, preview: Preview, images: int) -> None:
        """Does what is due after an optimiser step on `images` images."""
        step, schedule = self.run.step, self.schedule
        last = step == schedule.steps
        self.images += images
        if self.writes:
            self.console.advance(step)
        picture_due = last or step % schedule.picture_every == 0
        figures = self.log_picture(model, preview) if picture_due else {}
        if picture_due or step % schedule.log_every == 0:
            self.log_metrics(figures)
        due = step % schedule.checkpoint_every == 0
        if last or (due and not self.run.metrics.skipped_in_a_row()):  # or the last good checkpoint would be replaced
            self.save()

    def log_metrics(self, figures: dict[str, float]) -> None:
        """One line of the log, with the `figures` of the held-out images."""
        means = self.run.metrics.means()  # waits for the device
        if self.writes:
            self._write(means, figures)
        self.raise_if_diverged()
        if self.writes:
            skipped = self.run.metrics.skipped().items()
            self._warn([f"skipped {count} steps: no finite loss and gradient from {name}" for name, count in skipped])
            self._warn([line for term in self.run.objective.terms.values() if (line := term.warning())])

    def _write(self, means: dict[str, float], figures: dict[str, float]) -> None:
        now = time.monotonic()
        speed = self.images / (now - self.since)
        self.images, self.since = 0, now
        extra = {"learning_rate": self.schedule.learning_rate(self.run.step - 1), "images_per_second": speed}
        extra |= {f"skipped/{name}": count for name, count in self.run.metrics.skipped().items()}
        self.log.log_metrics(self.run.step, means | extra | figures)
        self.console.log_metrics(self.run.step, means, speed)

    def log_picture(self, model: nn.Module, preview: Preview) -> dict[str, float]:
        """Writes reconstructions.png; returns the figures of the held-out images, which are the same at every call."""
        began = time.monotonic()
        run = self.run
        with run.average.applied(run.model) if run.average else nullcontext():
            reconstructions = preview.reconstruct(model)  # on all ranks: none has the whole of a sharded model
            samples = preview.draws(run.model, reconstructions)
        if not self.writes:
            return {}
        run.held_out = held_out_figures(reconstructions)
        caption = f"{run.objective.expression}   step {run.step}/{self.schedule.steps}   {describe(run.held_out)}"
        grid = write_picture(reconstructions, caption, run.folder / PICTURE, run.earlier, samples)
        self.log.log_picture(run.step, grid)
        self.since += time.monotonic() - began  # not training time
        return {f"held_out/{name}": value for name, value in run.held_out.items()}

    def save(self) -> None:
        """Writes the checkpoint, and the model alone; not once the run has diverged, to keep the last good one."""
        self.raise_if_diverged()
        state = self.run.state()
        if not self.writes:
            return
        save_checkpoint(self.run.folder, state)
        weights = {key: value.contiguous() for key, value in (state["model"] | state["average"]).items()}
        write_bytes(self.run.folder / MODEL, save(weights, metadata={"step": str(self.run.step)}))

    def raise_if_diverged(self) -> None:
        """Raises Diverged after SKIPPED_IN_A_ROW steps without a finite gradient; waits for the device."""
        if self.run.metrics.skipped_in_a_row() >= SKIPPED_IN_A_ROW:
            skipped = self.run.metrics.skipped()
            by = ", ".join(f"{name} {count}" for name, count in skipped.items())
            terms = self.run.objective.expression.terms
            wild = [term.name for term in terms if term.name in skipped and term.weight > 1e6]
            remedy = (
                f"lower the weight of {' and '.join(wild)} in loss="
                if wild
                else "lower optim.base_lr or set optim.clip"
            )
            raise Diverged(
                f"{self.run.metrics.skipped_in_a_row()} steps in a row had no finite loss and gradient (skipped, by "
                f"the term at fault: {by}); the last good checkpoint is intact; {remedy}"
            )

    def note_unreadable(self, lines: list[str]) -> None:
        for line in self.run.note_unreadable(lines) if lines else ():
            if self.writes:
                self.console.print(f"skipped an unreadable file: {line}")

    def _warn(self, lines: list[str]) -> None:
        """Prints each warning once, also when the counts in it change."""
        for line in lines:
            kind = "".join(c for c in line if not c.isdigit())
            if kind not in self.warned:
                self.warned.add(kind)
                self.console.print(f"warning: {line}")
