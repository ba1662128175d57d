"""The last part: what objectives make of one model, trained in the minutes that are left, and what comes back of it.

From nothing a masked autoencoder with a refiner learns under mse; then, from its weights, the refiner alone learns each
objective on equally many images (as preset=refiner64 does), and under flow a head that draws completions. Every run is
evaluated on held-out images and drawn as soon as it has ended.
"""

import os
import statistics
import time
from argparse import Namespace
from pathlib import Path

import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save
from torch import Tensor

from experiments.acceptance.findings import Findings
from experiments.acceptance.task import Task
from experiments.benchmarks.step import Bench, read_preset
from experiments.benchmarks.turns import in_turns
from experiments.gallery import gallery
from losses import InvalidSetting
from recon.cli import typed
from recon.comparison.assemble import read_comparison
from recon.comparison.compare_runs import compare
from recon.config import Settings
from recon.data import create_dataset
from recon.study_config import CompareSettings
from recon.training.pretraining import pretrain

OBJECTIVES = {  # and the part that learns it
    "mse": "refiner",
    "adversarial+mse": "refiner",
    "feature_matching+mse": "refiner",
    "perceptual+mse": "refiner",
    "flow": "head",
}
REFINER = 32  # channels
CRITICS = read_preset("refiner64")["losses"]  # the share of each batch that they look at
PROBE = 30  # steps, which tell how long a step takes with its input
BASE, COMPARED, MARGIN = 0.3, 0.25, 0.9  # of the time: the first run's, the comparison's; what is planned of the rest
COLUMNS = {  # of a comparison, and what they are called here; detail is over the truth's
    "masked_psnr": "PSNR dB",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "detail": "detail",
    "seam_ratio": "seams",
    "retention": "retention",
    "coherence": "coherence",
    "kid": "KD-VGG19",
}
LARGEST = 15 * 2**20  # bytes of a file that comes back


def pictures(task: Task, findings: Findings) -> None:
    """Trains, compares, draws; `out` gets reconstructions.png and the weights in half precision."""
    if task.data is None:
        raise InvalidSetting("no images to train on: data=FOLDER")
    began = time.monotonic()
    gpu = task.kind == "cuda"
    side = training_side(task.data, gpu)
    model, batch, workers = ("small", 256, min(14, (os.cpu_count() or 2) - 2)) if gpu else ("nano", 16, 0)
    findings.note(
        f"ViT-{model}/8 at {side} pixels, batches of {batch}; refiner of width {REFINER}, or flow's head, trained "
        "alone from mse's weights"
    )
    os.chdir(task.scratch)  # where runs/ is made
    runs = Path("runs")
    common = [
        "data.name=folder",
        f"data.root={task.data}",
        f"data.image_size={side}",
        f"data.workers={workers}",
        f"model.name={model}",
        "model.patch_size=8",
        f"batch.size={batch}",
        f"device={task.device}",
        "optim.base_lr=1e-3",
        "train.ema=0.998",
        *(f"losses.{name}.images={options['images']}" for name, options in CRITICS.items()),
        *(f"train.{name}=1000000" for name in ("picture_every", "checkpoint_every")),
    ]
    seconds = step_seconds(task, Namespace(model=model, image_size=side, batch=batch))
    for expression, of_step in seconds.items():
        findings.row("speed of a step", objective=expression, **{"images/s": batch / of_step})
    probe_began = time.monotonic()
    refined = f"model.refiner_width={REFINER}"
    trained(runs, "probe", findings, *common, refined, "loss=mse", f"train.steps={PROBE}")
    slower = (time.monotonic() - probe_began) / (PROBE * seconds["from nothing"])  # than a step alone: input, pictures
    first = max(20, int(task.seconds * BASE / (slower * seconds["from nothing"])))
    start = trained(runs, "start", findings, *common, refined, "loss=mse", f"train.steps={first}")
    left = task.seconds * (1 - COMPARED) - (time.monotonic() - began)
    later = max(20, int(MARGIN * left / (slower * sum(seconds[e] for e in OBJECTIVES))))
    done: list[Path] = []
    for expression, part in OBJECTIVES.items():
        more = [f"loss={expression}", f"init={start}", f"train.parts={part}", f"train.steps={later}"]
        more += [refined] if part == "refiner" else []
        done.append(trained(runs, expression.partition("+")[0], findings, *common, *more))
        gallery(done, 8, task.out / "reconstructions.png")
    write_weights(done, task.out)
    settings = CompareSettings(
        runs=[str(run) for run in done], out=str(runs / "comparison"), ratios=[], device=task.device
    )
    settings.images = 512 if gpu else 16
    settings.lpips.weights = str(task.lpips) if task.lpips else None
    settings.features.weights = str(task.features) if task.features else "bundled"
    compare(settings)
    found = read_comparison(runs / "comparison" / "comparison.json")
    for row in found.rows:
        cells = {title: found.results.number(row.key, name) for name, title in COLUMNS.items()}
        findings.row("held-out images", row=row.label, **cells)


def training_side(data: Path, gpu: bool) -> int:
    """Pixels that the images have: 128, 96 or 64, of a shorter side that leaves something to crop."""
    source = create_dataset("folder", "train", data)
    shorter = statistics.median(min(source.read(i)[0].size) for i in range(0, len(source), max(1, len(source) // 16)))
    return next((side for side in (128, 96) if gpu and shorter >= 1.1 * side), 64)


def step_seconds(task: Task, sizes: Namespace) -> dict[str, float]:
    """Seconds of a step under each objective, the refiner trained alone; and of mse from nothing."""
    options = Namespace(**vars(sizes), patch_size=8, device=task.device, compile=False)
    works = {"from nothing": Bench("mse", options, refiner_width=REFINER)}
    for expression, part in OBJECTIVES.items():
        width = REFINER if part == "refiner" else 0
        works[expression] = Bench(expression, options, CRITICS, parts=part, refiner_width=width)
    found = in_turns({name: bench.ours for name, bench in works.items()}, 4, torch.device(task.device))
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def trained(runs: Path, name: str, findings: Findings, *words: str) -> Path:
    """A run to its end; returns its folder."""
    given = frozenset(word.partition("=")[0] for word in words)
    settings = typed(OmegaConf.merge(OmegaConf.structured(Settings), OmegaConf.from_dotlist(list(words))), given)
    settings.name = name
    began = time.monotonic()
    if status := pretrain(settings, given):
        raise RuntimeError(f"{name} ended with status {status}")
    steps, seconds = settings.train.steps, time.monotonic() - began
    said = f"{steps} steps of {settings.loss}, {steps * settings.batch.size:,} images"
    findings.note(f"{name}: {said} in {seconds:.0f} s")
    return runs / name


def write_weights(runs: list[Path], out: Path) -> None:
    """weights-K.safetensors, in half precision: under RUN/NAME, or once, under all/NAME, where every run shares it.

    `weights` puts them together again.
    """
    models = {run.name: load_file(run / "model.safetensors") for run in runs}
    tensors: dict[str, Tensor] = {}
    for name in dict.fromkeys(name for model in models.values() for name in model):
        held = {run: model[name] for run, model in models.items() if name in model}
        first = next(iter(held.values()))
        if len(held) == len(models) and all(torch.equal(first, tensor) for tensor in held.values()):
            tensors[f"all/{name}"] = first
        else:
            tensors |= {f"{run}/{name}": tensor for run, tensor in held.items()}
    pieces: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        half = tensor.half().contiguous()
        if size and size + half.nbytes > LARGEST:
            pieces.append({})
            size = 0
        pieces[-1][name] = half
        size += half.nbytes
    for number, piece in enumerate(pieces, start=1):
        (out / f"weights-{number}.safetensors").write_bytes(save(piece))


def weights(out: Path) -> dict[str, dict[str, Tensor]]:
    """Each run's tensors from the files of `write_weights`."""
    found = {k: v for file in sorted(out.glob("weights-*.safetensors")) for k, v in load_file(file).items()}
    split = [(*key.partition("/")[::2], tensor) for key, tensor in found.items()]
    common = {name: tensor for run, name, tensor in split if run == "all"}
    runs = {run for run, *_ in split if run != "all"}
    return {run: common | {name: tensor for of, name, tensor in split if of == run} for run in runs}
