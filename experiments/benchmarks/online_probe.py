"""What train.online_probe=true costs: of a training step, and with every picture.

    python -m experiments.benchmarks.online_probe [MODEL PIXELS BATCH]

Prints processor seconds of a step under mse, of the probe's part in it, and of the held-out accuracies, on random
images, by one thread of a CPU.
"""

import sys
import time
from contextlib import nullcontext

import torch

from losses import build_objective
from recon.model import create_model
from recon.training.online_probe import TEST, TRAIN, LabelledCrops, OnlineProbe
from recon.training.optim import adamw

STEPS, WARM_UP = 10, 4
CLASSES = 10


def main(name: str, pixels: int, batch: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, objective = create_model(name, image_size=pixels), build_objective("mse", image_size=(pixels, pixels))
    optimizer = adamw(model, weight_decay=0.05, betas=[0.9, 0.95])
    train, test = (
        LabelledCrops(torch.randint(256, (n, 3, pixels, pixels), dtype=torch.uint8), torch.arange(n) % CLASSES)
        for n in (TRAIN, TEST)
    )
    probe = OnlineProbe(model, train, test, CLASSES, torch.device("cpu"), nullcontext)
    images, labels, marks = torch.rand(batch, 3, pixels, pixels), torch.arange(batch) % CLASSES, []
    for i in range(WARM_UP + STEPS):
        began = time.process_time()
        reconstruction = model(images, noise=torch.rand(batch, model.patches), decoded=1.0)
        reconstruction.prediction.backward(objective(reconstruction, i).gradient)
        optimizer.step()
        optimizer.zero_grad()
        stepped = time.process_time()
        probe.learn(labels)
        marks.append((stepped - began, time.process_time() - stepped))
    step, part = (sum(seconds) / STEPS for seconds in zip(*marks[WARM_UP:], strict=True))
    began = time.process_time()
    probe.accuracies()
    accuracies = time.process_time() - began
    print(f"{name}, {pixels} pixels, {batch} images: a step {step:.3f} s, of which the probe adds {part / step:.2%}")
    print(f"held-out accuracies {accuracies:.1f} s, as long as {accuracies / step:.0f} steps")


if __name__ == "__main__":
    name, pixels, batch = sys.argv[1:] or ("nano", 64, 64)
    main(name, int(pixels), int(batch))
