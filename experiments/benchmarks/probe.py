"""A linear probe on features that are computed once, beside the paper's way: 90 epochs through the encoder.

    python -m experiments.benchmarks.probe runs/A                      # on the run's own data
    python -m experiments.benchmarks.probe runs/A --fraction 0.1       # on a tenth of the labels

Two questions, answered within this one process:

- extraction: images/s through `recon.probes.features.extract`, over those of a bare forward pass of the encoder on the
  same batch in the same precision, the two taking turns; and images/s from the files on, reading and cutting included.
- the two ways to a linear classifier on the class token: seconds, passes of an image through the encoder, and accuracy
  on the same test images, with the interval of their difference.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch

from experiments.benchmarks.step import compare
from recon.evaluation.command import progress
from recon.evaluation.subject import open_run
from recon.probes.accuracy import accuracy, difference
from recon.probes.features import Encoder, crops, extract
from recon.probes.labelled import open_task
from recon.probes.linear import linear_probe
from recon.probes.recipe import paper_linear, small
from recon.probes.subsets import fraction
from recon.probes.tuning import tune
from recon.training.device import make_fabric


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run, or a checkpoint")
    parser.add_argument("--data", help="labelled dataset; the run's own by default")
    parser.add_argument("--root", help="where it is")
    parser.add_argument("--fraction", type=float, default=1.0, help="of the training labels")
    parser.add_argument("--epochs", type=float, default=90, help="of the paper's way")
    parser.add_argument("--base-rate", type=float, default=0.1, help="of the paper's way; 0.1 is the paper's")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    fabric = make_fabric(options.device, "auto")
    subject = open_run(options.run)
    model, trained = subject.trained.model, subject.trained.settings.data
    task = open_task(options.data or trained.name, options.root or trained.root)
    part = task.train.subset(fraction(task.train.labels, options.fraction, 0))
    print(
        f"{subject.name}: {len(part)} training and {len(task.answers)} test images of {task.name}, "
        f"{model.image_size[0]}x{model.image_size[1]}; {fabric.device}, {torch.get_num_threads()} threads"
    )

    encoder = Encoder(model, [len(model.blocks)], fabric)
    batches = list(crops(part.source, part.indices[: options.batch], model.image_size, options.batch, 0)) * 4
    bare = [batch.to(fabric.device).float() / 255 for batch in batches]

    def forward() -> None:
        with torch.no_grad(), fabric.autocast():
            for images in bare:
                model.encode(images)

    ours, floor = compare(lambda: extract(encoder, batches, fabric.device), forward, options.repeats, fabric.device)
    images = sum(map(len, batches))
    print(f"extraction  {images / ours:8.0f} images/s, bare forward {images / floor:.0f}: {floor / ours:.1%} of it")

    began = time.perf_counter()
    found = {}
    for split, source, indices in (("train", part.source, part.indices), ("test", task.test_source, task.test_indices)):
        found[split] = extract(encoder, crops(source, indices, model.image_size, options.batch, 0), fabric.device)
        if split == "train":
            read = time.perf_counter() - began
    name = f"class/{len(model.blocks)}"
    head = linear_probe(found["train"][name], part.labels, len(task.classes), seed=0)
    right = task.answers.correct("features once", head.predict(found["test"][name]))
    seconds = time.perf_counter() - began
    total = len(part) + len(task.answers)
    print(f"from files  {len(part) / read:8.0f} images/s")
    report("features once", seconds, total, right)

    began = time.perf_counter()
    recipe = replace(small(paper_linear(), options.epochs), base_rate=options.base_rate)
    classifier = tune(model, recipe, part, model.image_size, 0, fabric, progress)
    images_of_test = crops(task.test_source, task.test_indices, model.image_size, options.batch, 0)
    paper = task.answers.correct("paper", classifier.predict(images_of_test))
    slower = time.perf_counter() - began
    passes = round(recipe.steps(len(part)) * recipe.batch + len(task.answers))
    report(f"{options.epochs:g} epochs through it", slower, passes, paper)
    gap = difference(right[None], paper[None])
    print(
        f"the paper's way takes {slower / seconds:.0f} times as long and {passes / total:.0f} times the passes; "
        f"accuracy differs by {gap.mean:+.1%} [{gap.low:+.1%}, {gap.high:+.1%}]"
    )


def report(way: str, seconds: float, passes: int, right: torch.Tensor) -> None:
    found = accuracy(right[None])
    print(f"{way:<24}{seconds:8.1f} s {passes:>10,} passes   {found.mean:.1%} [{found.low:.1%}, {found.high:.1%}]")


if __name__ == "__main__":
    main()
