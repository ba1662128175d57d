"""metrics.jsonl of a resumed run, and what a person reads."""

import json

import pytest

from recon.console import duration
from recon.training.train_logger import RunLog


def steps_of(folder) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_lines_are_there_as_soon_as_they_are_written(tmp_path):
    with RunLog(tmp_path, 0) as log:
        log.log_metrics(1, {"loss": 0.5})
        assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 0.5}\n'


@pytest.mark.parametrize("torn", ["", '{"step": 5, "lo', "[5]\n", "nonsense\n", '{"loss": 1}\n'])
def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path, torn):
    with RunLog(tmp_path, 0) as log:
        for step in (1, 2, 3, 4):
            log.log_metrics(step, {"loss": step / 2})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    with RunLog(tmp_path, 2) as log:
        assert steps_of(tmp_path) == [1, 2]
        log.log_metrics(3, {"loss": 9.0})
    assert steps_of(tmp_path) == [1, 2, 3]
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "tensorboard"}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "0 s"),
        (12, "12 s"),
        (59.7, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
        (3599.9, "1 h 00 min"),
    ],
)
def test_durations_are_said_in_two_units_at_most(seconds, said):
    assert duration(seconds) == said
