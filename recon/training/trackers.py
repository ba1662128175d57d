"""Where curves and pictures of a run go beside metrics.jsonl: each tracker is another program's, behind three calls.

Nothing here sends anything but numbers, pictures, the run's name and its settings; what a package adds of itself, such
as the name of the machine, is set where the package is configured.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor

from losses import InvalidSetting
from recon.console import one_line
from recon.run_folder import TENSORBOARD, metric_lines, readable, write_text

PROJECT = "recon"  # where the package's own variable names no other
TRACKED = "tracking.json"  # in a run's folder: what each package calls the run
UNNAMEABLE = re.compile(r"[^A-Za-z0-9_\-. :/]")  # in the name of a curve of MLflow: cosine/perceptual~mse
PRIVATE = ("data.root",)  # settings that may be an address with a password in it


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run. `start`: the step from which it trains; `id`: what the tracker calls it, where
    it has tracked it before; `settings`: by key."""

    folder: Path
    start: int
    settings: dict[str, Any]
    id: str | None = None


class Tracker(Protocol):
    id: str  # what the tracker calls the run

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None: ...

    def log_picture(self, step: int, grid: Tensor) -> None:
        """(3, H, W) in [0, 1]."""
        ...

    def close(self, finished: bool) -> None:
        """`finished`: whether the run has made all of its steps."""
        ...


class TensorBoard:
    """Curves and pictures in tensorboard/; a resumed run hides the steps that it makes again."""

    id = TENSORBOARD

    def __init__(self, run: TrackedRun):
        self.logger = TensorBoardLogger(run.folder, name="", version=TENSORBOARD, purge_step=run.start + 1)
        self.board = self.logger.experiment

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.logger.log_metrics(values, step)

    def log_picture(self, step: int, grid: Tensor) -> None:
        self.board.add_image("reconstructions", grid, step)

    def close(self, finished: bool) -> None:
        self.board.close()


class Csv:
    """The lines of metrics.jsonl as csv/metrics.csv, with a column for each name; without pictures."""

    id = "csv"

    def __init__(self, run: TrackedRun):
        (run.folder / self.id / "metrics.csv").unlink(missing_ok=True)  # it is written again from metrics.jsonl
        self.logger = CSVLogger(run.folder, name="", version=self.id, flush_logs_every_n_steps=1)
        for line in metric_lines(run.folder):
            self.logger.experiment.log_metrics(line, int(line["step"] or 0))
        self.logger.save()

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.logger.log_metrics(dict(values), step)

    def log_picture(self, step: int, grid: Tensor) -> None: ...

    def close(self, finished: bool) -> None:
        self.logger.finalize("success")


class Wandb:
    """Weights & Biases, on its server or, with WANDB_MODE=offline, in the run's folder."""

    def __init__(self, run: TrackedRun):
        wandb: Any = import_module("wandb")  # not everybody has it, and the type checker need not
        self.id = run.id or secrets.token_hex(4)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=self.id,
            name=run.folder.name,
            resume="allow",
            dir=os.environ.get("WANDB_DIR", str(run.folder)),
            config=run.settings,
            allow_val_change=True,  # settings that may change on resuming
        )
        self.image = wandb.Image
        # Not wandb's own step: it refuses those that a killed run had logged and that are made again.
        self.run.define_metric("*", step_metric="step")

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({"step": step, **values})

    def log_picture(self, step: int, grid: Tensor) -> None:
        self.run.log({"step": step, "reconstructions": self.image(pixels(grid))})

    def close(self, finished: bool) -> None:
        self.run.finish(exit_code=0 if finished else 1)


class Mlflow:
    """MLflow, on the server or in the files that MLFLOW_TRACKING_URI names; by default mlflow.db."""

    def __init__(self, run: TrackedRun):
        mlflow: Any = import_module("mlflow")
        self.client, self.metric = mlflow.MlflowClient(), mlflow.entities.Metric
        if run.id is not None:
            self.id = run.id
            self.client.update_run(self.id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self.client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self.client.create_experiment(name)
        self.id = self.client.create_run(number, run_name=run.folder.name).info.run_id
        parameters = [mlflow.entities.Param(key, str(value)) for key, value in run.settings.items()]
        for first in range(0, len(parameters), 100):  # as many as it takes at once
            self.client.log_batch(self.id, params=parameters[first : first + 100])

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        now = round(1000 * time.time())
        known = {UNNAMEABLE.sub("-", key): value for key, value in values.items()}
        self.client.log_batch(self.id, metrics=[self.metric(key, value, now, step) for key, value in known.items()])

    def log_picture(self, step: int, grid: Tensor) -> None:
        self.client.log_image(self.id, pixels(grid), key="reconstructions", step=step)

    def close(self, finished: bool) -> None:
        self.client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


class Trackio:
    """Trackio, in its own folder (TRACKIO_DIR) or in the Hugging Face Space that TRACKIO_SPACE_ID names."""

    def __init__(self, run: TrackedRun):
        trackio: Any = import_module("trackio")
        # It knows a run by its name, so that another run of that name must not be gone on with.
        self.id = run.id or f"{run.folder.name}-{secrets.token_hex(2)}"
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        self.run = trackio.init(project, self.id, config=run.settings, resume="allow", embed=False)
        self.image = trackio.Image

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step)

    def log_picture(self, step: int, grid: Tensor) -> None:
        self.run.log({"reconstructions": self.image(pixels(grid))}, step)

    def close(self, finished: bool) -> None:
        self.run.finish()


LOCAL: dict[str, Callable[[TrackedRun], Tracker]] = {"tensorboard": TensorBoard, "csv": Csv}
TRACKERS: dict[str, Callable[[TrackedRun], Tracker]] = LOCAL | {"wandb": Wandb, "mlflow": Mlflow, "trackio": Trackio}


def open_trackers(names: tuple[str, ...], folder: Path, start: int, settings: dict[str, Any]) -> dict[str, Tracker]:
    """The trackers of these names, by name. A run that goes on from step `start` goes on in each of them.

    Raises:
        InvalidSetting: a package cannot begin, for want of a login or a connection; or tracking.json is damaged.
    """
    path = folder / TRACKED
    ids: dict[str, str] = {}
    if start and path.is_file():
        with readable(path):
            ids = {name: str(known) for name, known in json.loads(path.read_text()).items()}
    told = {key: value for key, value in settings.items() if key not in PRIVATE}
    found: dict[str, Tracker] = {}
    try:
        for name in names:
            run = TrackedRun(folder, start, told, ids.get(name))
            found[name] = TRACKERS[name](run) if name in LOCAL else begun(name, run)
    except BaseException:
        for tracker in found.values():
            tracker.close(False)
        raise
    if remote := {name: tracker.id for name, tracker in found.items() if name not in LOCAL}:
        write_text(path, json.dumps(ids | remote) + "\n")
    return found


def begun(name: str, run: TrackedRun) -> Tracker:
    """A tracker of another package; whatever keeps it from beginning becomes an InvalidSetting."""
    try:
        return TRACKERS[name](run)
    except Exception as error:  # each package has errors of its own
        raise InvalidSetting(f"log={name} cannot begin: {reason_of(error)}; set it up, or leave it out") from error


def reason_of(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return one_line(lines[0])[:300] if lines else type(error).__name__


def pixels(grid: Tensor) -> Any:
    """(3, H, W) in [0, 1] -> (H, W, 3) of 8 bits, as NumPy's."""
    return (grid.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
