"""The training loop: one page that reads as the algorithm."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Self

import torch
from lightning_fabric import Fabric

from losses.term import gradient_norm, step_unless
from recon.data import Batch
from recon.distributed import ALONE, Ranks
from recon.training.device import Upload, full_tensor
from recon.training.optim import set_learning_rate
from recon.training.preview import Preview
from recon.training.state import Run, Schedule
from recon.training.train_logger import TrainLogger

STOP_TIMEOUT = 25  # seconds; torchrun kills after 30


class StopSignal:
    """`with StopSignal() as stop:` sets `stop.signal` to the number of the first SIGTERM or SIGINT; a second one acts
    as it would without this.

    Under torchrun, `ignore_repeats`: it passes on a signal that the process may have received already, terminates
    processes that are about to report an error, and kills in the end. There a second signal does nothing. Where the
    other ranks do not agree to stop, because one hangs, this one waits for `STOP_TIMEOUT` seconds, or three steps, and
    exits.
    """

    signal: int | None = None

    def __init__(self, ignore_repeats: bool = False):
        self.ignore_repeats = ignore_repeats
        self.agreed = threading.Event()
        self.step_began, self.step_seconds = time.monotonic(), 0.0

    def step(self) -> None:
        """Takes note that a step begins."""
        now = time.monotonic()
        self.step_began, self.step_seconds = now, now - self.step_began

    def __enter__(self) -> Self:
        if self.ignore_repeats:
            reading, self._writing = os.pipe()
            os.set_blocking(self._writing, False)
            signal.set_wakeup_fd(self._writing)
            threading.Thread(target=self._watch, args=(reading,), daemon=True).start()
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _watch(self, reading: int) -> None:
        """In a thread: while the main one waits for another rank, no handler runs there."""
        # It reads until the block ends, or a further signal would be written to a pipe that nobody reads.
        with open(reading, "rb", buffering=0) as heard:
            while number := heard.read(1):
                asked = number[0] in (signal.SIGTERM, signal.SIGINT)
                if asked and not self.agreed.wait(max(STOP_TIMEOUT, 3 * self.step_seconds)):
                    if os.environ.get("RANK", "0") in ("0", "1"):  # of which one at least does not hang
                        print("ended: another process does not answer; the last checkpoint stands", flush=True)
                    os._exit(128 + number[0])

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.agreed.set()
        if self.ignore_repeats:
            signal.set_wakeup_fd(-1)
            os.close(self._writing)
        if self.ignore_repeats and (self.signal or error):
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or number
        if self.ignore_repeats:
            return
        for each, handler in self._before.items():
            signal.signal(each, handler)


def train(
    run: Run, fabric: Fabric, batches: Iterator[Batch], schedule: Schedule, preview: Preview, ranks: Ranks = ALONE
) -> int | None:
    """Trains to the end, or until a signal asks to stop, and saves; returns the signal, or None.

    Each rank has its part of every batch in `batches`; all of them take the same steps. Raises Diverged where many
    steps in a row had no finite gradient, and InvalidSetting where too many files cannot be read; the last checkpoint
    stands.
    """
    model, _ = fabric.setup(run.model, run.optimizer)
    parameters = [p for p in run.model.parameters() if p.requires_grad]
    upload = Upload(fabric.device)
    with StopSignal(ignore_repeats=ranks.count > 1) as stop, TrainLogger(run, schedule, preview, ranks) as logger:
        if run.step == 0:
            logger.save(model)  # so that a run can be resumed at any time
        while (signal := ranks.any_signal(stop.signal)) is None and run.step < schedule.steps:
            stop.step()
            set_learning_rate(run.optimizer, schedule.learning_rate(run.step))
            results = []
            for last in [False] * (schedule.accumulate - 1) + [True]:
                batch = next(batches)
                logger.note_unreadable(batch.unreadable)
                images, noise = upload(batch)
                with fabric.no_backward_sync(model, enabled=not last):
                    reconstruction = model(images, noise=noise, decoded=schedule.decoded)
                    result = run.objective(reconstruction, run.step)
                    gradient = result.gradient / schedule.accumulate
                    fabric.backward(reconstruction.prediction, gradient=gradient, model=model)
                if run.online_probe is not None and ranks.is_zero:
                    run.online_probe.learn(batch.labels)
                results.append(result)
            norm = full_tensor(gradient_norm(parameters))
            if schedule.clip is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, schedule.clip, norm)
            finite = norm.isfinite() & torch.stack([result.value for result in results]).isfinite().all()
            step_unless(run.optimizer, ~finite)
            if run.average is not None:
                run.average.update(run.model, run.step, finite)
            run.optimizer.zero_grad()
            run.objective.update(run.step)
            run.metrics.record(results, run.objective, norm, finite)
            run.step += 1
            logger.after_step(model, images=len(images) * schedule.accumulate * ranks.count)
        stop.agreed.set()
        if signal is not None:
            logger.save(model)
    return signal
