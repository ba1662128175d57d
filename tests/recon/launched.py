"""Commands under torchrun: two real processes on CPUs, which speak through gloo."""

import os
import subprocess
import sys
from pathlib import Path


def torchrun(place: Path, command: str, *words: str) -> subprocess.Popen[bytes]:
    """`torchrun --nproc-per-node=2 -m recon.COMMAND ...` in `place`; what it says is in `place`/out and err."""
    place.mkdir(exist_ok=True)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    with (place / "out").open("w") as out, (place / "err").open("w") as err:
        return subprocess.Popen(
            [*launcher, "-m", f"recon.{command}", *words],
            cwd=place,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=out,
            stderr=err,
        )


def said(place: Path) -> str:
    return (place / "out").read_text() + (place / "err").read_text()


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
