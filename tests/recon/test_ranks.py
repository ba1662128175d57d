"""What processes share: three of them as threads, which hear each other through a barrier instead of gloo."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import distributed

from losses import InvalidSetting
from recon import distributed as processes
from recon.comparison.compare_runs import compare
from recon.distributed import ALONE, Ranks, first_to_report
from recon.evaluation.evaluate_run import evaluate_run
from recon.study_config import CompareSettings, EvaluateSettings

COUNT = 3


@dataclass
class Table:
    """Where each lays what it says, and takes what the others said."""

    said: list[Any] = field(default_factory=lambda: [None] * COUNT)
    barrier: Barrier = field(default_factory=lambda: Barrier(COUNT, timeout=20))


@dataclass(frozen=True)
class Threads(Ranks):
    table: Table = field(default_factory=Table)

    def all_gather(self, value):
        self.table.said[self.rank] = value
        self.table.barrier.wait()
        found = list(self.table.said)
        self.table.barrier.wait()
        return found

    def max(self, number):
        return max(self.all_gather(number))

    def broadcast(self, value):
        return self.all_gather(value)[0]


def by_all(function: Callable[[Ranks], Any]) -> list[Any]:
    """What each of the processes returns or raises."""
    table = Table()

    def outcome(rank: int) -> Any:
        try:
            return function(Threads(rank, COUNT, 1, table))
        except Exception as error:
            return error

    with ThreadPoolExecutor(COUNT) as threads:
        return list(threads.map(outcome, range(COUNT)))


@pytest.mark.parametrize("things", range(8))
def test_shared_work_is_done_once_and_known_to_all_in_order(things):
    done = []
    found = by_all(lambda ranks: ranks.parallel_map(lambda k: done.append(k) or k**2, iter(range(things))))
    assert (
        found == [[k**2 for k in range(things)]] * COUNT == [ALONE.parallel_map(lambda k: k**2, range(things))] * COUNT
    )
    assert sorted(done) == list(range(things))


@pytest.mark.parametrize("images", [1, 4, 5, 11, 12, 13, 24, 26])
def test_rows_made_of_every_third_batch_come_back_in_order(images):
    whole = torch.arange(2.0 * images).reshape(images, 2)

    def rows(ranks: Ranks) -> torch.Tensor:
        own = ranks.own_part(whole.split(4))
        return ranks.gather_rows(torch.cat(own) if own else torch.empty(0), 4)

    assert all(torch.equal(found, whole) for found in by_all(rows))
    assert torch.equal(rows(ALONE), whole)


@pytest.mark.parametrize("kind", [InvalidSetting, OSError, RuntimeError])
def test_an_error_of_one_is_raised_in_all(kind):
    def failing(k: int) -> int:
        if k == 4:
            raise kind("the fifth cannot be done")
        return k

    found = by_all(lambda ranks: ranks.parallel_map(failing, range(10)))
    assert [(type(error), str(error)) for error in found] == [(kind, "the fifth cannot be done")] * COUNT


def test_what_any_may_say_one_says():
    assert first_to_report("a") and first_to_report("a")  # a process alone
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        assert [first_to_report(what) for what in ("a", "b", "a", "b")] == [True, True, False, False]
    finally:
        distributed.destroy_process_group()


def test_what_the_first_alone_does_all_know_or_all_raise():
    done = []
    assert by_all(lambda ranks: ranks.on_rank_zero(lambda: done.append(ranks.rank) or "made")) == ["made"] * COUNT
    assert done == [0]

    def refused() -> None:
        raise InvalidSetting("no")

    assert [str(error) for error in by_all(lambda ranks: ranks.on_rank_zero(refused))] == ["no"] * COUNT


@pytest.mark.parametrize(
    ("command", "name", "settings"),
    [
        (evaluate_run, "evaluate", EvaluateSettings(run="runs/a")),
        (compare, "compare", CompareSettings(runs=["runs/a"])),
    ],
)
def test_measuring_runs_in_one_process_and_says_so_under_torchrun(monkeypatch, command, name, settings):
    monkeypatch.setattr(processes, "under_torchrun", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        InvalidSetting, match=f"runs in one process: start it without torchrun, as python -m recon.{name}$"
    ):
        command(settings)
