"""Commands in processes of their own, and two ranks on CPUs, which speak through gloo.

All fork from a server that has imported torch once for the tests of a session, and `torchrun`'s ranks, which begin anew
as a user's do.
"""

import json
import multiprocessing
import os
import runpy
import socket
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

HERE = ("--standalone", "--nproc-per-node=2")
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["recon.training.pretraining", "torchvision", "torch.utils.tensorboard", "hydra"])


def forked(
    place: Path, module: str, *words: str, log: str = "", environment: dict[str, str] | None = None, threads: int = 0
) -> BaseProcess:
    """`python -m recon.MODULE WORDS...` in `place`, as leader of a process group; it writes to out and err there.

    Args:
        module: of recon, or its whole name.
        log: ending of the two files, where several processes share a place.
        threads: of torch; 0: as many as in this process.
    """
    place.mkdir(exist_ok=True)
    arguments = (place, module if "." in module else f"recon.{module}", words, log, environment or {})
    process = SERVER.Process(target=_run, args=(*arguments, threads or torch.get_num_threads()))
    process.start()
    return process


def ranks(place: Path, module: str, *words: str) -> list[BaseProcess]:
    """Two ranks of one run, as torchrun starts them, each with one thread."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1", "GROUP_RANK": "0"}
    group |= {"MASTER_ADDR": "localhost", "MASTER_PORT": f"{port}", "TORCHELASTIC_RUN_ID": "forked"}
    of_rank = [group | {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}"} for rank in range(2)]
    return [forked(place, module, *words, environment=each, threads=1) for each in of_rank]


def wait(*processes: BaseProcess, seconds: float = 300) -> list[int | None]:
    """Exit statuses; after so many seconds, all are killed."""
    for process in processes:
        process.join(seconds)
    statuses = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return statuses


def _run(place: Path, module: str, words: tuple[str, ...], log: str, environment: dict[str, str], threads: int) -> None:
    os.setsid()
    os.chdir(place)
    os.environ.update(environment)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{name}{log}", os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    torch.set_num_threads(threads)
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def torchrun(place: Path, module: str, *words: str, how: tuple[str, ...] = HERE, log: str = "") -> BaseProcess:
    """`torchrun --nproc-per-node=2 -m recon.MODULE WORDS...`: the launcher, whose ranks import everything."""
    started = [*how, "-m", module if "." in module else f"recon.{module}", *words]
    return forked(place, "torch.distributed.run", *started, log=log, environment={"OMP_NUM_THREADS": "1"})


def said(place: Path) -> str:
    return "".join(path.read_text() for kind in ("out", "err") for path in sorted(place.glob(f"{kind}*")))


def last_step(metrics: Path) -> int:
    """The step of the last whole line of a metrics.jsonl; 0 where there is none."""
    lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
    return max([json.loads(line)["step"] for line in lines if line.endswith("\n")], default=0)


def processes_of(launcher: BaseProcess) -> dict[int, int]:
    """Rank -> process id."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    words = {pid: Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in children}
    return {
        int(word.removeprefix(b"RANK=")): int(pid)
        for pid, of in words.items()
        for word in of
        if word.startswith(b"RANK=")
    }
