"""`python -m recon.transfer` on few scenes, watched:  torchrun ... -m tests.recon.dense.watched WORDS...

In the folder where it runs rank N leaves model.N.pt, its model where the last training ended or was stopped, and
written.N, a line for each time it wrote below runs/. Rank zero leaves step, the last step that began. By rank zero's
clock it is time for a checkpoint more often than by rank one's.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from recon.cli import run
from recon.dense import leaves, training, transfer_run
from recon.transfer import COMMAND, transfer

SAVES = 0.2  # seconds between checkpoints, by rank zero's clock
SECONDS = 0.02  # that a step takes at least, so that a signal can hit it
WRITES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}


def fit(model, recipe, views, folder, facts, fabric, ranks, workers, progress) -> int | None:
    """`recon.dense.training.fit`, which says how far it is and keeps the model."""

    def told(steps, *words):
        for step in progress(steps, *words):
            if ranks.is_zero:
                Path("step").write_text(f"{step}")
            time.sleep(SECONDS)
            yield step

    signal = training.fit(model, recipe, views, folder, facts, fabric, ranks, workers, told)
    torch.save(model.state_dict(), f"model.{ranks.rank}.pt")
    return signal


def watch_writes(path: str) -> None:
    file = open(path, "a", buffering=1)  # noqa: SIM115 - until this process ends

    def note(event: str, about: tuple[Any, ...]) -> None:
        writes = event in WRITES or (event == "open" and about[2] & (os.O_WRONLY | os.O_RDWR))
        if writes and "runs" in str(about[0]).split("/"):
            file.write(f"{event} {about[0]}\n")

    sys.addaudithook(note)


if __name__ == "__main__":
    leaves.SCENES = {"train": 32, "val": 6}
    transfer_run.fit = fit
    rank = int(os.environ.get("RANK", "0"))
    training.CHECKPOINT_SECONDS = SAVES * (1 + rank)
    watch_writes(f"written.{rank}")
    run(transfer, COMMAND)
