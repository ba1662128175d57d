"""A linear probe on features that are computed once, beside the paper's way: 90 epochs through the encoder.

    python -m experiments.benchmarks.probe runs/A                       # on the run's own data
    python -m experiments.benchmarks.probe runs/A --fraction 0.1        # on a tenth of the labels

Two questions, answered within this one process:

- extraction: images/s through `recon.probing.features.extract`, over those of a bare forward pass of the encoder on the
  same batch in the same precision, the two taking turns; and images/s from the files on, reading and cutting included.
- the two ways to a linear classifier on the class token: seconds, passes of training images through the encoder, and
  accuracy on the same test images, with the interval of their difference. Both see the test images once.
"""

import argparse
import time
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor

from experiments.benchmarks.step import compare
from recon.console import progress_bar
from recon.loaded_run import open_run
from recon.model import MaskedAutoencoder
from recon.probing.accuracy import accuracy, difference
from recon.probing.features import encoder_features, extract
from recon.probing.fine_tuning import tune
from recon.probing.labelled import LabelledImages, ProbeTask, central_crops, open_task, stratified_subset
from recon.probing.linear import linear_probe
from recon.probing.recipes import Recipe, paper_linear, small
from recon.training.device import make_fabric


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run, or a checkpoint")
    parser.add_argument("--data", help="labelled dataset; the run's own by default")
    parser.add_argument("--root", help="where it is")
    parser.add_argument("--fraction", type=float, default=1.0, help="of the training labels")
    parser.add_argument("--epochs", type=float, default=90, help="of the paper's way")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    fabric = make_fabric(options.device, "auto")
    run = open_run(options.run)
    model, data = run.model, run.settings.data
    task = open_task(options.data or data.name, options.root or data.root)
    part = task.train.subset(stratified_subset(task.train.labels, options.fraction, 0))
    print(
        f"{run.name}: {len(part)} training and {len(task.test_labels)} test images of {task.name}, "
        f"{model.image_size[0]}x{model.image_size[1]}; {fabric.device}, {torch.get_num_threads()} threads"
    )
    extraction(model, part, fabric, options.batch, options.repeats)
    recipe = small(paper_linear(), options.epochs)
    ours, right = timed(lambda: features_once(model, task, part, fabric, options.batch))
    theirs, paper = timed(lambda: through_the_encoder(model, task, part, recipe, fabric, options.batch))
    passes = len(part), recipe.steps(len(part)) * min(recipe.batch, len(part) // 2 * 2)
    right, paper = task.test_labels.correct("features once", right), task.test_labels.correct("paper", paper)
    report("features once", ours, passes[0], right)
    report(f"{options.epochs:g} epochs through it", theirs, passes[1], paper)
    gap = difference(right[None], paper[None])
    print(
        f"the paper's way: {theirs / ours:.0f} times as long, {passes[1] / passes[0]:.0f} times the passes; "
        f"features once are right by {gap.mean:+.1%} [{gap.low:+.1%}, {gap.high:+.1%}] more often"
    )


def extraction(model: MaskedAutoencoder, part: LabelledImages, fabric: Fabric, batch: int, repeats: int) -> None:
    encoder = encoder_features(model, [len(model.blocks)], fabric)
    batches = list(central_crops(part.source, part.indices[:batch], model.image_size, batch, 0)) * 4
    bare = [few.to(fabric.device).float() / 255 for few in batches]

    def forward() -> None:
        with torch.no_grad(), fabric.autocast():
            for images in bare:
                model.encode(images)

    ours, floor = compare(lambda: extract(encoder, batches, fabric.device), forward, repeats, fabric.device)
    images = sum(map(len, batches))
    print(f"extraction  {images / ours:8.0f} images/s, bare forward {images / floor:.0f}: {floor / ours:.1%} of it")
    files = central_crops(part.source, part.indices, model.image_size, batch, 0)
    seconds, _ = timed(lambda: extract(encoder, files, fabric.device))
    print(f"from files  {len(part) / seconds:8.0f} images/s")


def features_once(
    model: MaskedAutoencoder, task: ProbeTask, part: LabelledImages, fabric: Fabric, batch: int
) -> Tensor:
    """Predictions for the test images, by softmax regression on the class token."""
    encoder, name = encoder_features(model, [len(model.blocks)], fabric), f"class/{len(model.blocks)}"
    train, test = (
        extract(encoder, central_crops(source, indices, model.image_size, batch, 0), fabric.device)[name]
        for source, indices in ((part.source, part.indices), (task.test_source, task.test_indices))
    )
    return linear_probe(train, part.labels, len(task.classes), seed=0).head.predict(test)


def through_the_encoder(
    model: MaskedAutoencoder, task: ProbeTask, part: LabelledImages, recipe: Recipe, fabric: Fabric, batch: int
) -> Tensor:
    """Predictions for the test images, by the paper's recipe."""
    classifier = tune(model, recipe, part, model.image_size, 0, fabric, progress_bar)
    return classifier.predict(central_crops(task.test_source, task.test_indices, model.image_size, batch, 0))


def timed(way) -> tuple[float, Tensor]:
    began = time.perf_counter()
    found = way()
    return time.perf_counter() - began, found


def report(way: str, seconds: float, passes: int, right: Tensor) -> None:
    found = accuracy(right[None])
    print(f"{way:<24}{seconds:8.1f} s {passes:>10,} passes   {found.mean:.1%} [{found.low:.1%}, {found.high:.1%}]")


if __name__ == "__main__":
    main()
