"""What happens beside the algorithm: logs, pictures, checkpoints, and the decision to give up."""

import time
from contextlib import ExitStack, nullcontext
from typing import Self

from safetensors.torch import save
from torch import nn

from recon.training import checkpoint
from recon.training.console import Console
from recon.training.log import RunLog
from recon.training.preview import Preview, draw, figures, in_words
from recon.training.run import Rhythm, Run

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
