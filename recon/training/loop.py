"""The training loop: one page that reads as the algorithm."""

import signal
from collections.abc import Iterator
from types import FrameType
from typing import Self

import torch
from lightning_fabric import Fabric

from losses.finite import gradient_norm, step_unless
from recon.data import Batch
from recon.distributed import ALONE, Ranks
from recon.training.device import Upload
from recon.training.optim import set_learning_rate
from recon.training.preview import Preview
from recon.training.sharding import full
from recon.training.state import Rhythm, Run
from recon.training.train_logger import Watch


class Interrupt:
    """`with Interrupt() as stop:` sets `stop.signal` to the number of the first SIGTERM or SIGINT.

    `patient` is deaf to a second one, and to any after an error: torchrun passes on what a process may have heard
    already, asks those to end that are about to say why, and kills in the end.
    """

    signal: int | None = None

    def __init__(self, patient: bool = False):
        self.patient = patient

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self.patient and (self.signal or error):
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or number
        if self.patient:
            return
        for each, handler in self._before.items():
            signal.signal(each, handler)


def train(
    run: Run, fabric: Fabric, batches: Iterator[Batch], rhythm: Rhythm, preview: Preview, ranks: Ranks = ALONE
) -> int | None:
    """Trains to the end, or until a signal asks to stop, and saves; returns the signal, or None.

    Each of the `ranks` has its part of every batch in `batches`; all of them take the same steps.

    Raises:
        Diverged: many steps in a row had no finite gradient.
        InvalidSetting: too many files cannot be read.
            After both the last checkpoint stands.
    """
    model, _ = fabric.setup(run.model, run.optimizer)
    parameters = [p for p in run.model.parameters() if p.requires_grad]
    upload = Upload(fabric.device)
    with Interrupt(patient=ranks.count > 1) as stop, Watch(run, rhythm, ranks.is_zero) as watch:
        if run.step == 0:
            watch.save()  # a run can be resumed from its first moment
        while (signal := ranks.any_signal(stop.signal)) is None and run.step < rhythm.steps:
            set_learning_rate(run.optimizer, rhythm.learning_rate(run.step))
            results = []
            for last in [False] * (rhythm.accumulate - 1) + [True]:
                batch = next(batches)
                watch.unreadable(batch.unreadable)
                images, noise = upload(batch)
                with fabric.no_backward_sync(model, enabled=not last):
                    reconstruction = model(images, noise=noise, decoded=rhythm.decoded)
                    result = run.objective(reconstruction, run.step)
                    gradient = result.gradient / rhythm.accumulate
                    fabric.backward(reconstruction.prediction, gradient=gradient, model=model)
                results.append(result)
            norm = full(gradient_norm(parameters))
            if rhythm.clip is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, rhythm.clip, norm)
            good = norm.isfinite() & torch.stack([result.value for result in results]).isfinite().all()
            step_unless(run.optimizer, ~good)
            if run.average is not None:
                run.average.update(run.model, run.step, good)
            run.optimizer.zero_grad()
            run.objective.update(run.step)
            run.tally.record(results, run.objective, norm, good)
            run.step += 1
            watch.step(model, preview, images=len(images) * rhythm.accumulate * ranks.count)
        if signal is not None:
            watch.save()
    return signal
