"""What a person sees while a run trains."""

import sys
import time
from typing import Self

from tqdm import tqdm

QUIET_SECONDS = 15  # between lines where the output is no terminal


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


def duration(seconds: float) -> str:
    """ "2 h 05 min", "3 min 20 s" or "12 s"."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours} h {m:02d} min" if hours else f"{m} min {s:02d} s" if m else f"{s} s"
