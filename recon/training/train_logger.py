"""What happens beside the algorithm: logs, pictures, checkpoints, and the decision to give up."""

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
from recon.runs import write_text
from recon.training import checkpoint
from recon.training.preview import Preview, draw, figures, in_words
from recon.training.state import Rhythm, Run


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

    def say(self, line: str) -> None:
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
                self.say(f"estimated time: {duration(seconds)} for {self.steps - step} more steps")

    def numbers(self, step: int, means: dict[str, float], images_per_second: float) -> None:
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
            self.say(f"step {step}/{self.steps}  " + "  ".join(f"{key} {value}" for key, value in written.items()))


class RunLog:
    """Appends lines to metrics.jsonl and curves to tensorboard/.

    A resumed run drops the lines after its checkpoint's step: those steps are made again.
    """

    def __init__(self, folder: Path, start: int):
        path = folder / "metrics.jsonl"
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if _step(line) <= start]
            write_text(path, "".join(f"{line}\n" for line in lines))
        self.file = path.open("a")
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.board.close()

    def numbers(self, step: int, values: dict[str, float]) -> None:
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        for key, value in values.items():
            self.board.add_scalar(key, value, step)

    def picture(self, step: int, grid: Tensor) -> None:
        self.board.add_image("reconstructions", grid, step)


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # the half line of a killed process
        return float("inf")


SKIPPED_IN_A_ROW = 10  # steps without a finite gradient that end the run


class Diverged(RuntimeError):
    """Many steps in a row had no finite gradient; the message names the term at fault."""


class Watch:
    """Follows a run; waits for the device only where its `Rhythm` says that something is due.

    Where several processes train, one `speaks`: it prints and writes. The others take part in what needs all
    of the model, and give up when it does.
    """

    def __init__(self, run: Run, rhythm: Rhythm, speaks: bool = True):
        self.run, self.rhythm, self.speaks = run, rhythm, speaks
        self.open = ExitStack()
        if speaks:
            self.log = self.open.enter_context(RunLog(run.folder, run.step))
            self.console = self.open.enter_context(Console(run.step, rhythm.steps))
        self.images, self.since = 0, time.monotonic()
        self.warned: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.open.close()

    def step(self, model: nn.Module, preview: Preview, images: int) -> None:
        """After each optimiser step, which took `images` images."""
        step, rhythm = self.run.step, self.rhythm
        last = step == rhythm.steps
        self.images += images
        if self.speaks:
            self.console.advance(step)
        looking = last or step % rhythm.picture_every == 0
        seen = self.picture(model, preview) if looking else {}
        if looking or step % rhythm.log_every == 0:
            self.numbers(seen)
        due = step % rhythm.checkpoint_every == 0
        if last or (due and not self.run.tally.in_a_row()):  # inside a streak the last good one stands
            self.save()

    def numbers(self, seen: dict[str, float]) -> None:
        """One line of the log, with what was `seen` of the held-out images."""
        means = self.run.tally.means()  # waits for the device
        if self.speaks:
            self._write(means, seen)
        self.give_up()
        if self.speaks:
            skipped = self.run.tally.skipped().items()
            self._warn([f"skipped {count} steps: no finite loss and gradient from {name}" for name, count in skipped])
            self._warn([line for term in self.run.objective.terms.values() if (line := term.warning())])

    def _write(self, means: dict[str, float], seen: dict[str, float]) -> None:
        now = time.monotonic()
        speed = self.images / (now - self.since)
        self.images, self.since = 0, now
        extra = {"learning_rate": self.rhythm.learning_rate(self.run.step - 1), "images_per_second": speed}
        extra |= {f"skipped/{name}": count for name, count in self.run.tally.skipped().items()}
        self.log.numbers(self.run.step, means | extra | seen)
        self.console.numbers(self.run.step, means, speed)

    def picture(self, model: nn.Module, preview: Preview) -> dict[str, float]:
        """reconstructions.png, and the masked PSNR of the same held-out images throughout."""
        began = time.monotonic()
        run = self.run
        with run.average.applied(run.model) if run.average else nullcontext():
            reconstructions = preview.reconstruct(model)  # in all processes: no one has all of a sharded model
            samples = preview.draws(run.model, reconstructions)
        if not self.speaks:
            return {}
        run.seen = figures(reconstructions)
        caption = f"{run.objective.expression}   step {run.step}/{self.rhythm.steps}   {in_words(run.seen)}"
        grid = draw(reconstructions, caption, run.folder / "reconstructions.png", run.before, samples)
        self.log.picture(run.step, grid)
        self.since += time.monotonic() - began  # not training time
        return {f"held_out/{name}": value for name, value in run.seen.items()}

    def save(self) -> None:
        """The checkpoint, and the model alone; not once the run has diverged, so that the last good one stands."""
        self.give_up()
        state = self.run.state()
        if not self.speaks:
            return
        checkpoint.save(self.run.folder, state)
        temporary = self.run.folder / "model.safetensors.tmp"
        weights = {key: value.contiguous() for key, value in (state["model"] | state["average"]).items()}
        # Not save_file, whose files nobody but their owner may read.
        temporary.write_bytes(save(weights, metadata={"step": str(self.run.step)}))
        temporary.replace(self.run.folder / "model.safetensors")

    def give_up(self) -> None:
        """Raises Diverged where nothing finite has come for long; waits for the device."""
        if self.run.tally.in_a_row() >= SKIPPED_IN_A_ROW:
            by = ", ".join(f"{name} {count}" for name, count in self.run.tally.skipped().items())
            raise Diverged(
                f"{self.run.tally.in_a_row()} steps in a row had no finite loss and gradient (skipped, by the term "
                f"at fault: {by}); the last good checkpoint is intact; lower optim.base_lr or set optim.clip"
            )

    def unreadable(self, lines: list[str]) -> None:
        for line in self.run.note_unreadable(lines) if lines else ():
            if self.speaks:
                self.console.say(f"skipped an unreadable file: {line}")

    def _warn(self, lines: list[str]) -> None:
        """Says each warning when it first comes up; counts in it may change."""
        for line in lines:
            kind = "".join(c for c in line if not c.isdigit())
            if kind not in self.warned:
                self.warned.add(kind)
                self.console.say(f"warning: {line}")
