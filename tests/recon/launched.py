"""Commands under torchrun: two real processes on CPUs, which speak through gloo."""

import os
import subprocess
import sys
from pathlib import Path

HERE = ("--standalone", "--nproc-per-node=2")


def torchrun(
    place: Path, module: str, *words: str, how: tuple[str, ...] = HERE, log: str = ""
) -> subprocess.Popen[bytes]:
    """`torchrun --nproc-per-node=2 -m MODULE ...` in `place`; what it says is in `place`/out and err.

    Args:
        module: of recon, or its whole name.
        how: flags of the launcher.
        log: ending of the two files, where several launchers share a place.
    """
    place.mkdir(exist_ok=True)
    launcher = [sys.executable, "-m", "torch.distributed.run", *how]
    with (place / f"out{log}").open("w") as out, (place / f"err{log}").open("w") as err:
        return subprocess.Popen(
            [*launcher, "-m", module if "." in module else f"recon.{module}", *words],
            cwd=place,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=out,
            stderr=err,
        )


def said(place: Path) -> str:
    return "".join(path.read_text() for kind in ("out", "err") for path in sorted(place.glob(f"{kind}*")))


def processes_of(launcher: subprocess.Popen[bytes]) -> dict[int, int]:
    """Rank -> process id."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    words = {pid: Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in children}
    return {
        int(word.removeprefix(b"RANK=")): int(pid)
        for pid, of in words.items()
        for word in of
        if word.startswith(b"RANK=")
    }
