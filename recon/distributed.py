"""The processes that torchrun started for one run: which is the first, who does what, and how all decide the same.

A process alone is the first of one; nothing here then waits, sends or changes anything.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, distributed

from losses import InvalidSetting
from losses.processes import Processes

if TYPE_CHECKING:
    from recon.data import Batch

T = TypeVar("T")
R = TypeVar("R")

TOLD = (InvalidSetting, OSError, RuntimeError)  # what one process meets and all must hear of: a file, a full device
PATIENCE = timedelta(days=7)  # with one that still trains a probe, when the others have done their part


@dataclass(frozen=True)
class Ranks(Processes):
    """This process's place among those of the run: `rank` of `count`, on `nodes` machines with equally many each."""

    rank: int = 0
    count: int = 1
    nodes: int = 1

    @property
    def per_machine(self) -> int:
        """How many of the processes each machine has."""
        return self.count // self.nodes

    @property
    def first(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.rank == 0

    def say(self, text: str) -> None:
        """Prints, once for all."""
        if self.first:
            print(text, flush=True)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        if self.count > 1:
            flat = torch.cat([t.reshape(-1) for t in tensors])
            distributed.all_reduce(flat)
            for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                tensor.copy_(total.view(tensor.shape))

    def largest(self, number: int) -> int:
        """Over all processes. Passes between their hosts: no device is waited for."""
        if self.count == 1:
            return number
        found = torch.tensor(number)
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return int(found)

    def any_signal(self, number: int | None) -> int | None:
        """The signal that any of the processes has heard, so that all stop after the same step."""
        return self.largest(number or 0) or None

    def mine(self, things: Sequence[T]) -> Sequence[T]:
        """This process's part of them: those of numbers rank, rank + count, ..."""
        return things[self.rank :: self.count]

    def rows(self, own: Tensor, batch: int) -> Tensor:
        """Rows (m, D) on the CPU, made of this process's batches (`mine`) -> those of all, in order,
        known to all: (n, D).

        `batch`: rows of every batch but the last of all.
        """
        return own if self.count == 1 else torch.cat(in_turns([part.split(batch) for part in self._all(own)]))

    def shared(self, things: Iterable[T], work: Callable[[T], R]) -> list[R]:
        """`work` done on every thing, by one process each; all results, in order, known to all.

        Each process goes through all things and does its own part, on which the others have no influence: what comes
        back is what one process would have made, to the bit. An error of one is raised in all. `work` is done alone,
        so it must wait for no other process; what it returns travels whole, the rest of a tensor behind a view too.
        """
        with self.one_voice():
            own = [work(thing) for number, thing in enumerate(things) if number % self.count == self.rank]
        return own if self.count == 1 else in_turns(self._all(own))

    def from_first(self, value: T) -> T:
        """The first process's `value`."""
        if self.count == 1:
            return value
        told = [value if self.first else None]
        distributed.broadcast_object_list(told)
        return told[0]

    def by_first(self, function: Callable[[], T]) -> T:
        """What `function` returns, called in the first process alone; where it raises an error, all do."""
        with self.one_voice():
            value = function() if self.first else None
        return self.from_first(value)

    @contextmanager
    def one_voice(self) -> Iterator[None]:
        """Within, what is an error (`TOLD`) for one process is the same error for all: none goes on alone."""
        if self.count == 1:
            yield
            return
        error = None
        try:
            yield
        except TOLD as raised:
            if is_loss(raised):
                raise
            error = raised
        if self.largest(error is not None):
            raise next(each for each in self._all(error) if each is not None) from error

    @contextmanager
    def ending_together(self, left: str) -> Iterator[None]:
        """Within, none outlives another: where one is gone or all are asked to end, one of them says so, and
        what is `left`.

        The exit status is then 1. A process alone ends as it always does.
        """
        if self.count == 1:
            yield
            return
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            yield
        except BaseException as error:
            # torchrun asks those to end that are about to say why, or to leave with the others.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if not isinstance(error, KeyboardInterrupt) and not is_loss(error):
                raise
            if first_to_say("ended"):
                print(f"ended: another process is gone, or all were asked to end; {left}", flush=True)
            sys.exit(1)
        signal.signal(signal.SIGTERM, before)

    def in_turn(self, function: Callable[[], T]) -> T:
        """Calls `function` in the first process, and when it is done in the others."""
        for turn in (self.first, not self.first):
            with self.one_voice():
                if turn:
                    result = function()
        return result

    def together(self, batches: "Iterator[Batch]") -> "Iterator[Batch]":
        """The batches; files that one process could not read are known to all, and so is an error."""
        try:
            while self.count > 1:
                batch, error = None, None
                try:
                    batch = next(batches)
                except InvalidSetting as raised:
                    error = raised
                if self.largest(bool(error or batch.unreadable)):
                    told = self._all(error or batch.unreadable)
                    if errors := [each for each in told if isinstance(each, InvalidSetting)]:
                        raise errors[0]
                    batch = replace(batch, unreadable=[line for lines in told for line in lines])
                yield batch
            yield from batches
        finally:
            batches.close()

    def leave(self) -> None:
        """Waits for the others: torchrun ends all as soon as one has left with an error, whatever they still do."""
        if self.count > 1:
            self.largest(0)
            distributed.destroy_process_group()

    def _all(self, value: T) -> list[T]:
        found: list[T] = [None] * self.count
        distributed.all_gather_object(found, value)
        return found


def in_turns(parts: Sequence[Sequence[T]]) -> list[T]:
    """The first of every part, then the second, and so on: the whole, of which each process had every count-th."""
    return [part[k] for k in range(max(map(len, parts))) for part in parts if k < len(part)]


ALONE = Ranks()


def join(patience: timedelta | None = None) -> Ranks:
    """This process's place among those that torchrun started; alone where it was started otherwise.

    `patience`: how long one may wait for another; by default that of torch's backends, 10 to 30 minutes.
    """
    if not distributed.is_available() or not launched_together() or os.environ["WORLD_SIZE"] == "1":
        return ALONE
    if not distributed.is_initialized():
        # Hosts speak through gloo also where gradients pass through NCCL: agreeing must not wait for the device.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=patience)
    return Ranks(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "GROUP_WORLD_SIZE")))


def refuse_several_processes(command: str) -> None:
    """Raises InvalidSetting where torchrun started several processes for a command that one process does."""
    if launched_together() and os.environ["WORLD_SIZE"] != "1":
        raise InvalidSetting(
            f"recon.{command} runs in one process: start it without torchrun, as python -m recon.{command}"
        )


def launched_together() -> bool:
    """Whether torchrun started this process."""
    return distributed.is_torchelastic_launched()


def first_of_all() -> bool:
    """Whether this process may speak, also before it has joined the others."""
    return os.environ.get("RANK", "0") == "0" or not launched_together()


def first_to_say(what: str) -> bool:
    """Whether no other process has asked this before: who says `what` where the first one may be gone."""
    if not distributed.is_initialized():
        return True
    try:
        return distributed.distributed_c10d._get_default_store().add(f"recon/{what}", 1) == 1
    except RuntimeError:  # the store was with the one that is gone
        return True


def is_loss(error: BaseException) -> bool:
    """Whether the error says that another process is gone."""
    if not isinstance(error, RuntimeError):
        return False
    return isinstance(error, distributed.DistError) or "gloo" in str(error) or "NCCL" in str(error)
