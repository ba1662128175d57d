"""The processes that torchrun starts for one run: who prints and writes, what they exchange, how errors end all.

A thin layer over torch.distributed. A process that was started alone is rank 0 of 1; nothing here then waits or sends.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, distributed

from losses.options import InvalidSetting
from losses.term import Processes
from recon.console import under_torchrun

if TYPE_CHECKING:
    from recon.data import Batch

T = TypeVar("T")
R = TypeVar("R")

SHARED_ERRORS = (InvalidSetting, OSError, RuntimeError)  # raised on one rank, they are raised on all: see sync_errors
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
TIMEOUT = timedelta(days=7)  # of a collective while another rank still trains a probe


@dataclass(frozen=True)
class Ranks(Processes):
    """This process is number `rank` of `count`, on `nodes` machines with equally many processes each.

    Rank zero alone prints and writes (`is_zero`).
    """

    rank: int = 0
    count: int = 1
    nodes: int = 1

    @property
    def per_node(self) -> int:
        return self.count // self.nodes

    @property
    def is_zero(self) -> bool:
        return self.rank == 0

    def print0(self, text: str) -> None:
        if self.is_zero:
            print(text, flush=True)

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor, in place, by its sum over all ranks, in one collective."""
        if self.count > 1:
            flat = torch.cat([t.reshape(-1) for t in tensors])
            distributed.all_reduce(flat)
            for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                tensor.copy_(total.view(tensor.shape))

    def max(self, number: int) -> int:
        """The largest of all ranks' numbers. It goes from host to host, so no device is waited for."""
        if self.count == 1:
            return number
        found = torch.tensor(number)
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return int(found)

    def any_signal(self, number: int | None) -> int | None:
        """The signal that any rank has received, so that all stop after the same step."""
        return self.max(number or 0) or None

    def all_gather(self, value: T) -> list[T]:
        """Every rank's value, a plain object or tensors on the CPU, in the order of the ranks."""
        found: list[T] = [value] * self.count
        if self.count > 1:
            distributed.all_gather_object(found, value)
        return found

    def broadcast(self, value: Any) -> Any:
        """Rank zero's value."""
        values = [value if self.is_zero else None]
        if self.count > 1:
            distributed.broadcast_object_list(values)
        return values[0]

    def on_rank_zero(self, function: Callable[[], T]) -> T:
        """Calls `function` on rank zero alone; what it returns, or the error that it raises, reaches all ranks."""
        with self.sync_errors():
            value = function() if self.is_zero else None
        return self.broadcast(value)

    def rank_zero_first(self, function: Callable[[], T]) -> T:
        """Calls `function` on rank zero, and when that is done on the others, which find what it downloaded."""
        results: list[T] = []
        for turn in (self.is_zero, not self.is_zero):
            with self.sync_errors():
                results += [function()] if turn else []
        return results[0]

    def own_part(self, things: Sequence[T]) -> Sequence[T]:
        """This rank's part of them: numbers rank, rank + count, ..."""
        return things[self.rank :: self.count]

    def gather_rows(self, own: Tensor, batch: int) -> Tensor:
        """Rows (m, D) on the CPU, made of this rank's batches (`own_part`) -> those of all ranks in order, (n, D).

        `batch`: rows of every batch but the last of all.
        """
        return own if self.count == 1 else torch.cat(interleave([part.split(batch) for part in self.all_gather(own)]))

    def parallel_map(self, function: Callable[[T], R], things: Iterable[T]) -> list[R]:
        """`[function(thing) for thing in things]`, where each thing is done by one rank; every rank has all results.

        Each rank iterates over all things and does its own part, so results equal one process's to the bit. An error on
        one rank is raised on all. `function` must wait for no other rank; what it returns is sent whole, also the rest
        of a tensor behind a view.
        """
        with self.sync_errors():
            own = [function(thing) for number, thing in enumerate(things) if number % self.count == self.rank]
        return interleave(self.all_gather(own))

    @contextmanager
    def sync_errors(self) -> Iterator[None]:
        """Within it, one of `SHARED_ERRORS` that is raised on one rank is raised on all, so that none goes on alone."""
        error = None
        try:
            yield
        except SHARED_ERRORS as raised:
            if self.count == 1 or is_peer_failure(raised):
                raise
            error = raised
        if self.max(error is not None):
            raise next(each for each in self.all_gather(error) if each is not None) from error

    def sync_batches(self, batches: "Generator[Batch, None, None]") -> "Generator[Batch, None, None]":
        """The batches; all ranks know the files that one of them could not read, and raise the error of one."""
        with closing(batches):
            while self.count > 1:
                batch, error = None, None
                try:
                    batch = next(batches)
                except InvalidSetting as raised:
                    error = raised
                lines = batch.unreadable if batch else []
                if self.max(bool(error or lines)):
                    found = self.all_gather((error, lines))
                    for error, _ in found:
                        if error is not None:
                            raise error
                    lines = [line for _, own in found for line in own]
                assert batch is not None
                yield replace(batch, unreadable=lines)
            yield from batches

    @contextmanager
    def exit_together(self, message: str) -> Iterator[None]:
        """Within it, where one rank is gone or all are asked to end, one rank says so with `message`, and all exit
        with status 1. A process alone ends as it always does."""
        if self.count == 1:
            yield
            return
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            yield
        except BaseException as error:
            # torchrun also terminates ranks that are about to report the failure, or to leave with the others.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if not isinstance(error, KeyboardInterrupt) and not is_peer_failure(error):
                raise
            if first_to_report("ended"):
                print(f"ended: another process is gone, or all were asked to end; {message}", flush=True)
            sys.exit(1)
        signal.signal(signal.SIGTERM, before)

    def leave(self) -> None:
        """Waits for the others: torchrun ends all as soon as one has exited with an error, whatever they still do."""
        if self.count > 1:
            self.max(0)
            distributed.destroy_process_group()


def interleave(parts: Sequence[Sequence[T]]) -> list[T]:
    """The first of every part, then the second, and so on: the inverse of `Ranks.own_part`."""
    return [part[k] for k in range(max(map(len, parts))) for part in parts if k < len(part)]


ALONE = Ranks()


def join(timeout: timedelta | None = None) -> Ranks:
    """This process among those that torchrun started; `ALONE` where it was started otherwise.

    `timeout`: of a collective; by default that of torch's backends, 10 to 30 minutes.
    """
    if not distributed.is_available() or not under_torchrun() or os.environ["WORLD_SIZE"] == "1":
        return ALONE
    if not distributed.is_initialized():
        if sys.platform == "linux":  # where torchrun is killed its ranks are told by SIGTERM, and stop
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        # Hosts speak through gloo also where gradients pass through NCCL: agreeing must not wait for the device.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=timeout)
    return Ranks(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "GROUP_WORLD_SIZE")))


def require_one_process(command: str) -> None:
    """Raises InvalidSetting where torchrun started several processes for a command that runs in one."""
    if under_torchrun() and os.environ["WORLD_SIZE"] != "1":
        raise InvalidSetting(
            f"recon.{command} runs in one process: start it without torchrun, as python -m recon.{command}"
        )


def first_to_report(event: str) -> bool:
    """Whether no other rank has asked this before: which rank reports an `event` where rank zero may be gone."""
    if not distributed.is_initialized():
        return True
    try:
        return distributed.distributed_c10d._get_default_store().add(f"recon/{event}", 1) == 1
    except RuntimeError:  # the store was on the rank that is gone
        return True


def is_peer_failure(error: BaseException) -> bool:
    """Whether the error says that another rank is gone."""
    told = isinstance(error, distributed.DistError) or "gloo" in str(error) or "NCCL" in str(error)
    return isinstance(error, RuntimeError) and told
