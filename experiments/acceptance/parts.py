"""The parts of an acceptance, in order of value; each takes a task and says what it finds."""

import argparse
import os
import statistics
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from experiments.acceptance.findings import Findings
from experiments.acceptance.pictures import CRITICS, pictures
from experiments.acceptance.task import Task
from experiments.benchmarks import input as of_input
from experiments.benchmarks import memory as of_memory
from experiments.benchmarks import metrics as of_metrics
from experiments.benchmarks import step as of_step
from experiments.benchmarks.floor import Product
from experiments.benchmarks.peers import __main__ as of_peers
from experiments.benchmarks.peers import side
from experiments.benchmarks.saved import environment
from experiments.benchmarks.turns import in_turns
from recon.data import create_dataset
from recon.training.device import fast_bfloat16, make_fabric

ROOT = Path(__file__).parents[2]
PACKAGES = ["torchvision", "transformers", "lightly", "scikit-image", "piq", "lpips", "kornia", "triton"]


@dataclass(frozen=True)
class Sizes:
    """What a part measures: the mission's sizes on a GPU, some that take seconds on a CPU."""

    model: str = "base"
    patch_size: int = 16
    image_size: int = 224
    batch: int = 256
    repeats: int = 10
    pairs: int = 256
    side: int = 224
    jpegs: int = 2048


SIZES = {"cuda": Sizes(), "cpu": Sizes("nano", 8, 64, 8, repeats=1, pairs=2, side=176, jpegs=48)}


def machine(task: Task, findings: Findings) -> None:
    """Versions, the card, and what it can do at most: matrix products, and copies within its memory."""
    device = torch.device(task.device)
    found = environment(device, PACKAGES)
    packages = ", ".join(f"{name} {version}" for name, version in found.pop("packages").items())
    for name, value in found.items():
        findings.note(f"{name}: {value}")
    findings.note(packages)
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        findings.note(f"memory {card.total_memory / 2**30:.1f} GiB, {card.multi_processor_count} multiprocessors")
        asked = "--query-gpu=driver_version,clocks.sm,clocks.max.sm,power.limit"
        try:
            found = subprocess.run(["nvidia-smi", asked, "--format=csv,noheader"], capture_output=True, text=True)
            told = found.stdout.strip()
        except OSError:
            told = "nvidia-smi is not there"
        findings.note(f"CUDA {torch.version.cuda}; driver, clock, highest clock, power limit: {told}")
    for precision, low, setting in (("bfloat16", True, "high"), ("TF32", False, "high"), ("float32", False, "highest")):
        if device.type == "cpu" and precision == "TF32":
            continue
        torch.set_float32_matmul_precision(setting)
        product = Product(device, low)
        (seconds,) = in_turns({"product": product}, 10 if task.kind == "cuda" else 1, device).values()
        rates = [product.operations / s / 1e12 for s in seconds]
        findings.row("matrix products", precision=precision, side=product.side, **{"TFLOP/s": rates})
    block = torch.zeros(2**30 if device.type == "cuda" else 2**24, dtype=torch.uint8, device=device)
    (seconds,) = in_turns({"copy": block.clone}, 10, device).values()
    findings.row("copies within memory", MiB=len(block) >> 20, **{"GB/s": [2 * len(block) / s / 1e9 for s in seconds]})


def tests(task: Task, findings: Findings) -> None:
    """The tests marked `gpu`."""
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    if not files:
        findings.note("no tests here: they come with a checkout")
        return
    outcomes = Outcomes(findings, task.kind == "cuda")
    os.chdir(ROOT)
    told = ["-o", "addopts=-q --import-mode=importlib"]  # without workers, which may not be installed
    told += ["-m", "gpu", "--device", task.device, "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    status = pytest.main([*told, *files], plugins=[outcomes])
    findings.note(", ".join(f"{count} {outcome}" for outcome, count in outcomes.count.items()))
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {status!r}")


class Outcomes:
    """Tells the findings how each test ended; `all_run`: on this device none may be skipped."""

    def __init__(self, findings: Findings, all_run: bool):
        self.findings, self.all_run = findings, all_run
        self.count = {"passed": 0, "failed": 0, "skipped": 0}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        crash = getattr(report.longrepr, "reprcrash", None)
        said = " ".join((crash.message if crash else report.longreprtext).split())
        self.findings.row(
            "tests",
            test=report.nodeid.partition("tests/")[2],
            outcome=report.outcome,
            seconds=round(report.duration, 1),
            said=said[:300] if report.outcome == "failed" else None,
        )
        self._count(report.outcome)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.findings.note(f"{report.nodeid} cannot be read: {report.longreprtext.strip().splitlines()[-1][:200]}")
            self._count("failed")

    def _count(self, outcome: str) -> None:
        self.count[outcome] += 1
        self.findings.goal("tests that failed", 0, self.count["failed"], lower=True)
        if self.all_run:
            self.findings.goal("tests that were skipped", 0, self.count["skipped"], lower=True)


def step(task: Task, findings: Findings) -> None:
    """The training step beside the official code and transformers, uncompiled, compiled, and as a CUDA graph."""
    device, sizes = torch.device(task.device), SIZES[task.kind]
    low = fast_bfloat16(device.type)
    findings.note(_of(sizes) + f", norm_mse, {'bfloat16' if low else 'float32'}")
    work = side.Task(sizes.model, sizes.image_size, sizes.patch_size, sizes.batch, device, low)
    sides, missing = of_peers.all_sides(work, task.official)
    for line in missing if task.official else [*missing, "no checkout of facebookresearch/mae: official=FOLDER"]:
        findings.note(f"left out: {line}")
    ours: list[dict[str, Any]] = []
    pair = [one for one in sides if one.name in ("ours", "official")]
    modes = ["default", "reduce-overhead"] if device.type == "cuda" else ["default"]
    for beside, mode in ((sides, None), *((pair, mode) for mode in modes)):
        *rows, product = of_peers.measured(beside, [mode] if mode else [], sizes.repeats)
        for row in rows:
            cells = {key: row[key] for key in ("side", "loss", "step_gflop", "images_per_second", "ratio", "of_floor")}
            findings.row(f"steps, taking turns: {mode or 'not compiled'}", **cells)
        findings.note(f"matrix product in these turns: {product['flop_per_second'] / 1e12:.1f} TFLOP/s")
        ours += [row for row in rows if row["side"].startswith("ours")]
        if device.type == "cuda":
            if task.official:
                findings.goal("step over the official code's", 2.0, max(row["ratio"] for row in ours))
            findings.goal("share of the matrix product's rate", 0.45, max(row["of_floor"] for row in ours))
            findings.goal("images/s of ViT-B/16 at 224 pixels", 5000, max(row["images_per_second"] for row in ours))


def objectives(task: Task, findings: Findings) -> None:
    """Every objective's step over that of mse; with every image looked at, and with the presets' share."""
    sizes = SIZES[task.kind]
    findings.note(_of(sizes))
    critics = ("perceptual", "adversarial", "feature_matching")
    for images in ("all", "some")[: None if task.kind == "cuda" else 1]:
        terms = {} if images == "all" else CRITICS
        names = [*critics, *(("norm_mse", "l1", "ssim") if images == "all" else ())]
        loss = [name if name == "norm_mse" else f"{name}+mse" for name in names]
        options = _options(task, sizes, loss=loss, repeats=max(1, sizes.repeats // 2))
        for row in of_step.measured(options, {"terms": terms}):
            median = statistics.median(row["over_mse"])
            findings.row(f"critics look at {images} images", **{k: v for k, v in row.items() if k != "shares"})
            asked = {"perceptual+mse": 1.6, "adversarial+mse": 1.5}.get(row["objective"])
            if asked and images == "all" and task.kind == "cuda":
                findings.goal(f"step of {row['objective']} over that of mse", asked, median, lower=True)


def metrics(task: Task, findings: Findings) -> None:
    """Metrics beside scikit-image's, scipy's, piq's and lpips'."""
    sizes = SIZES[task.kind]
    make_fabric(task.device, "fp32")
    torch.set_float32_matmul_precision("highest")  # as evaluation has it
    torch.backends.cudnn.allow_tf32 = False
    truths = of_metrics.photographs(sizes.pairs, sizes.side)
    images = of_metrics.degraded(truths)
    beside = min(32, sizes.pairs)
    findings.note(
        f"{sizes.pairs} pairs at {sizes.side} pixels; scikit-image and scipy on a CPU's core, by {beside} pairs"
    )
    with torch.inference_mode():
        for row in of_metrics.compared(images, truths, task.device, str(task.lpips or "none"), beside):
            faster = row["reference_seconds"] / row["seconds"]
            findings.row("beside others", **row, faster=faster)
            if task.kind == "cuda" and row["metric"] == "all, together":
                findings.goal("all metrics that others have, over theirs", 10, faster)
        rows = list(of_metrics.alone(images, truths, task.device))
    findings.note(f"all on patches of 16 pixels: {sizes.pairs / sum(row['seconds'] for row in rows):.0f} images/s")


def data(task: Task, findings: Findings) -> None:
    """How fast JPEGs and packed images reach the model."""
    sizes = SIZES[task.kind]
    workers = max(0, min(14, (os.cpu_count() or 1) - 2))
    sizes = replace(sizes, batch=sizes.batch // 2)  # three loaders read ahead at once
    findings.note(f"{_of(sizes)}, mse, {workers} workers on {os.cpu_count()} cores, JPEGs of 320 x 256 pixels")
    images = task.scratch / "jpegs"
    write_jpegs(images / "train" / "photographs", sizes.jpegs)
    some = {"stored_side": 256, "workers": workers, "repeats": 1, "steps": 8 if task.kind == "cuda" else 1}
    options = _options(task, sizes, **some)
    source = create_dataset("folder", "train", images)
    rows = of_input.measured(options, source, task.scratch / "images.pack")
    packing = next(rows)
    findings.note(f"packed by one core: {packing['packed_per_second']:.0f} images/s, {packing['kib']:.0f} KiB each")
    for row in rows:
        findings.row("input", **row | {"over_synthetic": statistics.median(row["over_synthetic"])})


def write_jpegs(folder: Path, count: int) -> None:
    """Crops of scikit-image's photographs as files."""
    folder.mkdir(parents=True)
    sources = [np.asarray(getattr(skimage.data, name)()) for name in ("astronaut", "chelsea", "coffee", "rocket")]

    def write(i: int) -> None:
        source, draw = sources[i % len(sources)], np.random.default_rng(i)
        top, left = (
            int(draw.integers(0, have - need + 1)) for have, need in zip(source.shape, (256, 320), strict=False)
        )
        Image.fromarray(source[top : top + 256, left : left + 320]).save(folder / f"{i:05}.jpg", quality=90)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(count)))


def memory(task: Task, findings: Findings) -> None:
    """What a step keeps and takes at most per image, and on a GPU the largest batch that fits."""
    sizes = SIZES[task.kind]
    few, many = (32, 64) if task.kind == "cuda" else (2, 4)
    bench = of_step.Bench("norm_mse", _options(task, sizes, batch=many))
    rows = list(of_memory.measured(bench, [few, many], 2))
    for row in rows:
        findings.row("memory", **row)
    everything = of_memory.all_of(bench.device)
    for checkpointing in ("no", "yes"):
        pair = [row for row in rows if row["checkpointing"] == checkpointing]
        line = of_memory.growth(*pair, everything)
        if task.kind == "cuda":
            bench.model.gradient_checkpointing = checkpointing == "yes"
            line["largest_batch"] = of_memory.largest_that_fits(bench, line["largest_batch"])
        findings.row(f"largest batch in {everything / 2**30:.1f} GiB", **line)


def _options(task: Task, sizes: Sizes, **more: Any) -> argparse.Namespace:
    """What the benchmarks' own commands would have parsed."""
    make_fabric(task.device, "auto")  # for the device's settings, which training has too
    names = ("model", "patch_size", "image_size", "batch", "repeats")
    known = {"device": task.device, "compile": False} | {name: getattr(sizes, name) for name in names}
    return argparse.Namespace(**known | more)


def _of(sizes: Sizes) -> str:
    return f"ViT-{sizes.model}/{sizes.patch_size} at {sizes.image_size} pixels, batch {sizes.batch}"


@dataclass(frozen=True)
class Part:
    """`share`: of all minutes that it may take; what it leaves is the pictures'."""

    name: str
    share: float
    work: Callable[[Task, Findings], None]


PARTS = [
    Part("machine", 0.03, machine),
    Part("tests", 0.19, tests),
    Part("step", 0.22, step),
    Part("objectives", 0.11, objectives),
    Part("metrics", 0.06, metrics),
    Part("input", 0.08, data),
    Part("memory", 0.05, memory),
    Part("pictures", 0.26, pictures),
]
