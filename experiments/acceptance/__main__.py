"""Everything that a GPU has to prove, in one command, the most valuable first.

    python -m experiments.acceptance device=cuda minutes=8 out=FOLDER
    python -m experiments.acceptance device=cuda minutes=8 out=FOLDER data=IMAGENETTE official=MAE
    python -m experiments.acceptance device=cpu minutes=3 out=FOLDER        # the same small: shows that it runs

Versions and card; the tests marked `gpu`; the training step beside the official code and transformers; every objective
over mse; metrics beside scikit-image and piq; input; memory; and in all the time that is left pictures: mse against a
perceptual term and discriminators, equal images, evaluated and compared. Each part has its own process and share of the
minutes: one that fails or takes too long is a line, and the next begins. After each `out` has acceptance.json and
acceptance.md, in the end reconstructions.png and weights too: at most eight files, none above 16 MiB.

It needs no network, and a checkout, for the tests are not in the package. What is missing is missed by its part alone:

- data=FOLDER: images as data=folder takes them (.gpu/imagenette, where that is there): for the pictures.
- official=FOLDER: a checkout of facebookresearch/mae (.gpu/mae): for its rows beside ours.
- lpips=FILE, features=FILE: AlexNet's and VGG19's weights (.gpu/...safetensors), neither of which a term is trained on.
- parts=NAME+NAME: these alone, with all the minutes.
"""

import os

# CUDA that has begun in this process would be lost to those that are forked from it: ask the driver's library instead.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic=true

import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields, replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from experiments.acceptance.findings import Findings, read, report
from experiments.acceptance.parts import PARTS, Part
from experiments.acceptance.task import Task
from losses import InvalidSetting, nearest
from recon.distributed import ALONE
from recon.training.device import resolve_device

CARRIED = Path(".gpu")  # where what a machine without network was given lies
GIVEN = {
    "data": CARRIED / "imagenette",
    "official": CARRIED / "mae",
    "lpips": CARRIED / "alexnet_features.safetensors",
    "features": CARRIED / "vgg19_features_to_conv3_4.safetensors",
}
FORK_REFUSED = "forked subprocess"  # in torch's complaint of a CUDA that had begun before


def main(words: Sequence[str]) -> int:
    """Runs the parts; returns 0, or 1 where one failed or was cut.

    Raises:
        InvalidSetting: a setting that cannot be used, before anything is written.
    """
    task, minutes, parts = understood(words)
    began = time.monotonic()
    page: dict[str, Any] = {"command": " ".join(["python -m experiments.acceptance", *words]), "parts": {}}
    method = "fork"  # everything is imported already: seconds saved, part by part
    shares = sum(part.share for part in parts)
    with tempfile.TemporaryDirectory() as scratch:
        cuts = 0
        for part in parts:
            # A compiler that is killed leaves half a file, which the next part would take for a whole one.
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(scratch) / f"compiled-{cuts}")
            left = 60 * minutes - (time.monotonic() - began)
            allowed = left if part is parts[-1] else min(left, 60 * minutes * part.share / shares)
            its_own = replace(task, scratch=Path(scratch), seconds=allowed)
            found = run(part, its_own, method)
            if FORK_REFUSED in found["ended"] and method == "fork":
                method = "spawn"
                found = run(part, its_own, method)
            page["parts"][part.name] = found
            cuts += found["ended"] != "done"
            print(f"{part.name}: {found['ended']} ({found['seconds']:.0f} s)", flush=True)
            page["seconds"] = time.monotonic() - began
            report(page, task.out)
    print(task.out / "acceptance.md")
    return int(any(found["ended"] != "done" for found in page["parts"].values()))


def run(part: Part, task: Task, method: str) -> dict[str, Any]:
    """One part in its own process: what it found, how long it took and how it ended."""
    file = task.scratch / f"{part.name}.json"
    began = time.monotonic()
    if task.seconds < 1:
        return {"ended": "not begun: no time was left", "seconds": 0.0}
    process = get_context(method).Process(target=work, args=(part.name, task, file))
    process.start()
    try:
        process.join(task.seconds)
        cut = process.is_alive()
    finally:  # also where this process is interrupted; and what a part started is not to disturb the next
        kill(process)
    seconds = time.monotonic() - began
    found = read(file)
    if cut:
        found["ended"] = f"cut after {seconds:.0f} s; what it had found stands here"
    elif "ended" not in found:
        found["ended"] = f"ended without a word, with status {process.exitcode}"
    return found | {"seconds": seconds}


def kill(process: BaseProcess) -> None:
    """Ends a part's process, and all that it has started."""
    with suppress(ProcessLookupError):  # none is left, or it has not come to its own group yet
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def work(name: str, task: Task, file: Path) -> None:
    """What the process of a part does."""
    os.setpgrp()  # whatever it starts ends with it
    socket.setdefaulttimeout(10)  # weights that are not there are not waited for
    findings = Findings(file)
    try:
        torch.zeros(1, device=task.device)  # says at once where CUDA is lost to a forked process
        next(part for part in PARTS if part.name == name).work(task, findings)
        findings.end("done")
    except BaseException as error:  # also what a CUDA that is beyond help raises
        findings.end(f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}", error)
        os._exit(1)
    os._exit(0)  # at once: nothing of the other process is to be cleaned up here


def understood(words: Sequence[str]) -> tuple[Task, float, list[Part]]:
    """The task, the minutes, and the parts to run."""
    keys = [f.name for f in fields(Task) if f.name not in ("scratch", "seconds")] + ["minutes", "parts"]
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in keys:
            raise InvalidSetting(f"'{word}' is no setting{nearest(key, keys)}; write key=value ({', '.join(keys)})")
        given[key] = value
    minutes = _minutes(given.pop("minutes", "8"))
    named = given.pop("parts", None)
    parts = PARTS if named is None else [_part(name) for name in named.split("+")]
    kind, index = resolve_device(given.get("device", "cuda"), ALONE)
    if kind not in ("cuda", "cpu"):
        raise InvalidSetting(f"device={kind}: choose cuda, or cpu for the same small")
    device = f"{kind}:{index}" if index else kind
    places = {key: Path(given[key]) if key in given else place for key, place in GIVEN.items()}
    for key in GIVEN:
        if key in given and not places[key].exists():
            raise InvalidSetting(f"{key}={given[key]} is not there; leave it out, or give what is")
    out = Path(given.get("out", "acceptance"))
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=out):
            pass
    except OSError as error:
        raise InvalidSetting(f"out={out} cannot be written ({error.strerror}); choose another folder") from error
    there = {key: place.resolve() if place.exists() else None for key, place in places.items()}
    return Task(device=device, out=out.resolve(), **there), minutes, list(parts)


def _minutes(value: str) -> float:
    try:
        minutes = float(value)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < 24 * 60:
        raise InvalidSetting(f"minutes={value} must be a number above 0")
    return minutes


def _part(name: str) -> Part:
    found = {part.name: part for part in PARTS}
    if name not in found:
        raise InvalidSetting(f"unknown part '{name}'{nearest(name, found)} (parts: {', '.join(found)})")
    return found[name]


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
    except InvalidSetting as error:
        print(error, file=sys.stderr)
        status = 2
    sys.exit(status)
