"""What a run leaves on disk while it trains: metrics.jsonl and TensorBoard curves."""

import json
from pathlib import Path
from typing import Self

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from recon.training.run_folder import write_text


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
