"""How fast images reach the model: from JPEGs, from a packed file, by other readers, and augmented on the device.

    python -m experiments.benchmarks.input --images IMAGENETTE                     # nano/8 at 64 pixels, on the CPU
    python -m experiments.benchmarks.input --images IMAGENETTE --model base --patch-size 16 --image-size 224 \\
        --stored-side 256 --batch 256 --workers 14 --device cuda

Packs some of the training images to a temporary folder first, and writes their JPEGs to WebDataset shards. The row
`webdataset` reads and decodes these shards by webdataset's own pipeline; `datasets` reads the rows of the packed file
by Hugging Face's library. Crops and masks are made the same way for all; a package that is missing is left out. Then,
the ways taking turns within this one process:

- per core: images/s that one core makes ready for the device, without workers, by the time that this process had on
  any core, whatever else the machine does; and how many the device then takes, on a CPU by the same clock.
- trained: images/s of training steps (mse) with that input, workers reading ahead; and over *synthetic*, the same steps
  on one batch again and again, which no input can beat. In brackets the lowest and highest ratio of the repeats.
"""

import argparse
import io
import statistics
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import count, repeat
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from experiments.benchmarks.saved import save, take_out
from experiments.benchmarks.step import Bench
from recon.data import Batch, Source, StreamedSource, create_dataset, training_batches
from recon.data.packed import open_table, pack
from recon.model.masking import strategy
from recon.training.device import Upload, make_fabric

Clock = Callable[[], float]
LOAD = Path("/proc/loadavg")


class Some(Source):
    """Images that are spread evenly over a source."""

    def __init__(self, source: Source, images: int) -> None:
        super().__init__(source.classes, source.mean, source.std)
        self.source = source
        self.indices = [i * len(source) // images for i in range(min(images, len(source)))]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> tuple[Image.Image, int]:
        return self.source.read(self.indices[index])

    def name_of(self, index: int) -> str:
        return self.source.name_of(self.indices[index])

    def content(self, index: int) -> bytes:
        return self.source.content(self.indices[index])


class DatasetsRows(Source):
    """The rows of a packed file, read by Hugging Face's `datasets`, which maps the same Arrow columns."""

    def __init__(self, file: Path) -> None:
        import datasets
        from datasets.table import InMemoryTable

        super().__init__()
        self.rows = datasets.Dataset(InMemoryTable(open_table(file)[0].drop_columns(["name"])))  # bytes

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> tuple[Image.Image, int]:
        row = self.rows[index]
        return Image.frombytes("RGB", (row["width"], row["height"]), row["pixels"]), row["label"]

    def name_of(self, index: int) -> str:
        return str(index)


class WebDatasetPipeline(StreamedSource):
    """Shards of JPEGs, pass after pass in their own order, read, shared among the workers and decoded by webdataset."""

    def __init__(self, file: Path, jpegs: Source, shards: int) -> None:
        super().__init__()
        self.name, self.shards = "webdataset", [f"{file}-{n}.tar" for n in range(shards)]
        for n, shard in enumerate(self.shards):
            with tarfile.open(shard, "w") as tar:
                for i in range(n, len(jpegs), shards):
                    entry = tarfile.TarInfo(f"{i:06}.jpg")
                    entry.size = len(content := jpegs.content(i))
                    tar.addfile(entry, io.BytesIO(content))

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        import webdataset

        for sample in webdataset.WebDataset(self.shards, shardshuffle=False).decode("pilrgb"):
            yield sample["jpg"], -1

    def training_samples(self, reader: int, readers: int, seed: int, start: int) -> Iterator[Callable]:
        for _ in count():
            yield from (partial(tuple, sample) for sample in self)


def timed(work: Callable[[], object], times: int, device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Seconds that `times` calls take, the device's work included."""
    began = clock()
    for _ in range(times):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of images, as data=folder takes it")
    parser.add_argument("--subset", type=int, default=2000, help="images that are used")
    parser.add_argument("--stored-side", type=int, default=160, help="shorter side of the packed images")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--patch-size", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12, help="per way and repeat")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true")
    take_out(parser)
    options = parser.parse_args()
    make_fabric(options.device, "auto")  # for the device's settings, which training has too
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Path(folder) / "images.pack")


def measure(options: argparse.Namespace, file: Path) -> None:
    jpegs = Some(create_dataset("folder", "train", options.images), options.subset)
    device = torch.device(options.device)
    print(f"{options.model}/{options.patch_size} at {options.image_size} pixels, batch {options.batch}, {device},")
    print(f"{torch.get_num_threads()} threads, {options.workers} workers, torch {torch.__version__}; load {load()}")
    packing, *rows = measured(options, jpegs, file)
    print(f"{len(jpegs)} images of {options.images.name}, packed at {options.stored_side} pixels by one core: ", end="")
    print(f"{packing['packed_per_second']:.0f} images/s, {packing['kib']:.0f} KiB each\n")
    print(f"{'input':<16}{'per core':>10}{'on device':>12}{'trained':>10}{'over synthetic':>16}")
    for row in rows:
        made = row["ready_per_core"], row["made_on_device"]
        before = f"{made[0]:10.0f}{made[1]:12.0f}" if made[0] else f"{'':22}"
        ratios = row["over_synthetic"]
        spread = f"{statistics.median(ratios):15.1%} ({min(ratios):.0%} .. {max(ratios):.0%})"
        print(f"{row['input']:<16}{before}{row['images_per_second']:10.0f}{spread}")
    print(f"\nimages/s; load afterwards {load()}")
    save(options.out, "experiments.benchmarks.input", device, rows)


def measured(options: argparse.Namespace, jpegs: Source, file: Path) -> Iterator[dict[str, Any]]:
    """What packing to `file` took, then a row for each kind of input."""
    bench = Bench("mse", options)
    packing = partial(pack, {"train": jpegs}, "folder", file, options.stored_side, workers=0)
    seconds = timed(lambda: deque(packing(), 0), 1, bench.device, time.process_time)
    packed = create_dataset("packed", "train", file)
    yield {"packed_per_second": len(jpegs) / seconds, "kib": file.stat().st_size / len(jpegs) / 1024}
    inputs: list[tuple[str, Source | StreamedSource, bool]] = [("JPEG folder", jpegs, False)]
    if find_spec("webdataset"):
        inputs.append(("webdataset", WebDatasetPipeline(file, jpegs, max(1, options.workers)), False))
    if find_spec("datasets"):
        inputs.append(("datasets", DatasetsRows(file), False))
    ways: dict[str, Callable[[int], Iterator[Batch]]] = {
        name: partial(
            training_batches,
            source,
            image_size=(options.image_size,) * 2,
            batch=options.batch,
            start=0,
            seed=0,
            masking=partial(strategy("random"), bench.model.grid, 0.75),
            on_device=on_device,
        )
        for name, source, on_device in [*inputs, ("packed", packed, False), ("packed, device", packed, True)]
    }
    ready, made = per_core(ways, options, bench.device)
    trained = end_to_end(ways, bench, options)
    for name, speeds in trained.items():
        ratios = [mine / best for mine, best in zip(speeds, trained["synthetic"], strict=True)]
        row = {"input": name, "images_per_second": statistics.median(speeds), "over_synthetic": ratios}
        yield row | {"ready_per_core": ready.get(name), "made_on_device": made.get(name)}


def per_core(ways: dict, options: argparse.Namespace, device: torch.device) -> tuple[dict, dict]:
    """Median images/s that one core makes ready, and that the device makes of them."""
    ready, made = ({name: [] for name in ways} for _ in range(2))
    with_each = {name: way(workers=0) for name, way in ways.items()}
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    for i in range(options.repeats + 1):
        for name, batches in with_each.items():
            seconds = timed(lambda batches=batches: next(batches), 3, device, time.process_time)
            batch = next(batches)
            afterwards = timed(lambda batch=batch: batch.images_on(device), 3, device, clock)
            if i:  # the first warms up
                ready[name].append(3 * options.batch / seconds)
                made[name].append(3 * options.batch / afterwards)
    return tuple({name: statistics.median(speeds) for name, speeds in each.items()} for each in (ready, made))


def end_to_end(ways: dict, bench: Bench, options: argparse.Namespace) -> dict[str, list[float]]:
    """Images/s of training steps, per input and repeat."""
    ahead = 2 * options.workers + 1  # batches that wait when a turn begins
    upload = Upload(bench.device)
    speeds: dict[str, list[float]] = {"synthetic": []} | {name: [] for name in ways}

    def step(batches: Iterator[Batch]) -> None:
        bench.images, bench.noise = upload(next(batches))
        bench.ours()

    with_each = {name: way(workers=options.workers) for name, way in ways.items()}
    with_each["synthetic"] = repeat(next(ways["packed"](workers=0)))
    for i in range(options.repeats + 1):
        for name in list(speeds)[:: 1 if i % 2 else -1]:
            work = partial(step, with_each[name])
            timed(work, ahead, bench.device)
            seconds = timed(work, options.steps, bench.device)
            if i:
                speeds[name].append(options.steps * options.batch / seconds)
    for name in ways:
        with_each[name].close()
    return speeds


def load() -> str:
    return LOAD.read_text().split()[0] if LOAD.exists() else "unknown"


if __name__ == "__main__":
    main()
