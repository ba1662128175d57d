"""The lock by which one process at a time writes to a folder."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from losses import InvalidSetting


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing to a folder at the same time; InvalidSetting where one already does.

    The lock goes with the process, however it ends.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    LOCKS.add(descriptor)
    try:
        for pause in (0.05, 0.05, None):  # recon.runs asks for the lock for a moment
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if pause is None:
                    held = f"another process writes to {folder}; wait for its end, or choose another"
                    raise InvalidSetting(held) from error
                time.sleep(pause)
            except OSError:  # a file system without locks
                break
        yield
    finally:
        LOCKS.remove(descriptor)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a worker that has just been forked may still hold it
        os.close(descriptor)


LOCKS: set[int] = set()  # file descriptors, which a forked worker must not keep open when this process is killed
os.register_at_fork(after_in_child=lambda: [os.close(LOCKS.pop()) for _ in range(len(LOCKS))])


def is_locked(folder: Path) -> bool:
    """Whether another process has a folder `locked`; False where the file system has no locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError as error:
        return isinstance(error, BlockingIOError)
    finally:
        os.close(descriptor)
