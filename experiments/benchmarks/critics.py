"""What critics cost, and what is saved and lost if they run at fewer steps, on fewer images, or on a window.

    python -m experiments.benchmarks.critics                                 # nano/4 at 32 pixels, embedded photographs
    python -m experiments.benchmarks.critics --run runs/A --images IMAGENETTE  # a trained model, at its sizes
    python -m experiments.benchmarks.critics --model base --image-size 224 --patch-size 16 --batch 64 --device cuda \\
        --compile --images IMAGENETTE

Each row is `mse` and one critic with one choice of settings.

- images/s: of whole training steps, the mean over several if they do not all cost the same.
- over mse: the time of such steps over that of as many steps of `mse`, measured in turns; a ratio of medians.
- operations: the same ratio of multiplications and additions, counted (see `operations`).
- direction: cosine between the critic's gradient with these settings and that of the critic that reads everything, both
  over four batches (every=4 reads one of them) at sixteen shifts of its grid. At the *prediction*, where nothing is
  averaged: a critic that reads a fraction f of the images cannot exceed the root of f. And at the model's *weights*.
  *One*: of one sample, the mean of sixteen. *Mean*: of the gradients' means over the sixteen. What it lacks to 1 is
  bias, which more steps do not average out, plus the noise that remains in sixteen samples: `images` and `every` have
  no bias, so their rows show this noise.

The row "another shift" compares the critic that reads everything with itself at another shift of its grid: how random a
single step's direction is anyway. The discriminator is the run's own if it had one, else untrained. Penalties change
the discriminator alone, so their rows have no direction.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.benchmarks.operations import of_model, of_objective
from experiments.benchmarks.step import Bench
from experiments.benchmarks.turns import compare
from losses import Objective, Reconstruction, build_objective
from losses.term import Term
from recon.data import create_dataset, held_out_images
from recon.loaded_run import load_run
from recon.model import MaskedAutoencoder, create_model
from recon.run_folder import CHECKPOINT, read_checkpoint
from recon.training.device import fast_bfloat16, make_fabric

BATCHES = 4
WIDTHS = (9, 10, 12, 17, 7, 14, 7)
DRAWS = 16  # four by four shifts


@dataclass(frozen=True)
class Choice:
    """A critic and its options; `shifted`: its direction is compared with its own at another shift."""

    label: str
    term: str
    options: dict[str, Any] = field(default_factory=dict)
    shifted: bool = False

    @property
    def steps(self) -> int:
        """Steps after which the cost repeats."""
        return max(self.options.get("every", 1), self.options.get("penalty_every", 1))


def choices(size: int) -> Iterator[Choice]:
    for term in ("perceptual", "adversarial"):
        yield Choice(f"{term}: all", term)
        yield Choice("  another shift", term, shifted=True)
        cheaper: list[dict[str, Any]] = [
            {"crop": size * 3 // 4},
            {"crop": size // 2},
            {"images": 0.5},
            {"images": 0.25},
        ]
        for options in [*cheaper, {"every": 2}, {"every": 4}, {"crop": size // 2, "every": 2}]:
            yield Choice("  " + " ".join(f"{key}={value}" for key, value in options.items()), term, options)
    for k in (1, 4, 16):
        options = {"gan_loss": "relativistic", "penalty_every": k}
        yield Choice(f"  relativistic penalty_every={k}", "adversarial", options)


class Directions:
    """Four batches through one model, and the critics' gradients there."""

    def __init__(self, model: MaskedAutoencoder, images: Tensor, noise: Tensor, options: argparse.Namespace):
        self.device, self.options = torch.device(options.device), options
        self.model = model.to(self.device)
        self.weights = [p for p in self.model.parameters() if p.requires_grad]
        self.reconstructions = []
        for part, its_noise in zip(images.chunk(BATCHES), noise.chunk(BATCHES), strict=True):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=fast_bfloat16(self.device.type)):
                self.reconstructions.append(self.model(part.to(self.device), noise=its_noise.to(self.device)))
        self.whole: dict[str, list[tuple[Tensor, ...]]] = {}  # by critic: its gradients when it reads everything

    def cosines(self, choice: Choice) -> list[float]:
        """Cosines: at the prediction one and mean, at the weights one and mean."""
        if choice.term not in self.whole:
            term = self._term(Choice("", choice.term))
            self.whole[choice.term] = [self._gradients(term, draw) for draw in range(DRAWS)]
        whole, term = self.whole[choice.term], self._term(choice)
        ones, mean = torch.zeros(2), (0, 0)
        for draw in range(DRAWS):
            found = whole[draw - 5] if choice.shifted else self._gradients(term, draw)
            ones += torch.tensor([F.cosine_similarity(a, b, dim=0) for a, b in zip(found, whole[draw], strict=True)])
            mean = [total + gradient for total, gradient in zip(mean, found, strict=True)]
        of_all = [sum(gradients) for gradients in zip(*whole, strict=True)]
        means = [float(F.cosine_similarity(a, b, dim=0)) for a, b in zip(mean, of_all, strict=True)]
        return [figure for pair in zip((ones / DRAWS).tolist(), means, strict=True) for figure in pair]

    def _gradients(self, term: Term, draw: int) -> tuple[Tensor, ...]:
        """Gradients at the predictions, batch after batch, and at the weights; in float32."""
        at_prediction, at_weights = [], torch.zeros((), device=self.device)
        for batch, r in enumerate(self.reconstructions):
            gradient = torch.zeros_like(r.prediction, dtype=torch.float32)
            if (batch + draw) % term.every == 0:
                gradient = term.every * self._at_prediction(term, _placed(r, batch, draw))
                given = gradient.to(r.prediction.dtype)
                found = torch.autograd.grad(
                    r.prediction, self.weights, given, retain_graph=True, allow_unused=True, materialize_grads=True
                )
                at_weights = at_weights + torch.cat([g.flatten().float() for g in found])
            at_prediction.append(gradient.flatten())
        return torch.cat(at_prediction), at_weights

    def _at_prediction(self, term: Term, r: Reconstruction) -> Tensor:
        leaf = r.prediction.detach().float().requires_grad_()
        return torch.autograd.grad(term.value(r.at(leaf, "hidden")), leaf)[0]

    def _term(self, choice: Choice) -> Term:
        return _objective(choice, self.model.image_size, self.options).to(self.device).terms[choice.term]


def _placed(r: Reconstruction, batch: int, draw: int) -> Reconstruction:
    """The reconstruction with the random numbers of sample `draw`: each of 16 shifts once, each of 2 x 2 windows four
    times."""
    # The offset by batch makes the shifts independent of the draws at which `every` reads a batch.
    a, b = (draw + draw // 4 + batch) % 4, (draw // 4 + batch) % 4
    window = (a + b // 2) % 2, (b + a // 2) % 2
    sampling = (draw + 0.5) / DRAWS, *((place + 0.5) / 2 for place in window)
    shift = (a + 0.5) / 4, (b + 0.5) / 4
    return Reconstruction(r.prediction, r.image, r.mask, r.head, r.mean, r.std, shift=shift, sampling=sampling)


def _objective(choice: Choice, size: tuple[int, int], options: argparse.Namespace) -> Objective:
    """`mse` and the critic, uncompiled, with the discriminator of the run if it had one."""
    torch.manual_seed(0)
    low = fast_bfloat16(torch.device(options.device).type)
    own = {"weights": options.weights} if choice.term == "perceptual" else {"width": options.width}
    objective = build_objective(
        f"mse+{choice.term}",
        image_size=size,
        critic_dtype=torch.bfloat16 if low else torch.float32,
        **{choice.term: own | choice.options},
    )
    if options.run and choice.term == "adversarial":
        saved = read_checkpoint(Path(options.run) / CHECKPOINT)["objective"]
        objective.load_state({name: state for name, state in saved.items() if name == choice.term})
    return objective


def timed(choice: Choice, options: argparse.Namespace, mse: Bench) -> tuple[float, float]:
    """Seconds per step with the choice, and the ratio to `mse`'s."""
    own = {"width": options.width} if choice.term == "adversarial" else {}
    bench = Bench(f"mse+{choice.term}", options, {choice.term: own | choice.options})
    bench.model, bench.parameters, bench.optimizer = mse.model, mse.parameters, mse.optimizer  # compiled once

    def steps(of: Bench) -> None:
        for _ in range(choice.steps):
            of.ours()

    steps(bench)  # compiles, which is not measured
    ours, plain = compare(lambda: steps(bench), lambda: steps(mse), options.repeats, bench.device)
    return ours / choice.steps, ours / plain


def row(choice: Choice, options: argparse.Namespace, mse: Bench, step: float, directions: Directions) -> list[str]:
    cells = ["", "", ""]
    if not choice.shifted:
        seconds, over = timed(choice, options, mse)
        counted = of_objective(_objective(choice, directions.model.image_size, options), mse.model, choice.steps)
        cells = [f"{options.batch / seconds:.0f}", f"{over:.2f}x", f"{1 + counted / step:.2f}x"]
    figures = ["", "", "", ""]
    if "penalty_every" not in choice.options:
        figures = [f"{cosine:.3f}" for cosine in directions.cosines(choice)]
    return [choice.label, *cells, *figures]


def line(cells: list[str]) -> str:
    return f"{cells[0]:<32}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells[1:], WIDTHS, strict=True))


def main() -> None:
    options = arguments()
    make_fabric(options.device, "auto")  # for the device's settings, which training has too
    torch._dynamo.config.recompile_limit = 64  # every row compiles its own critic
    torch.manual_seed(0)
    size = (options.image_size, options.image_size)
    model = create_model(options.model, image_size=size, patch_size=options.patch_size)
    if options.run:
        trained = load_run(Path(options.run))
        model, options.width = trained.model, trained.settings.losses.adversarial.width
        options.model, options.patch_size = trained.settings.model.name, model.patch_size
        options.image_size = max(model.image_size)
    source = create_dataset("folder" if options.images else "photos", "val", options.images)
    masking = partial(model.mask_strategy, model.grid, model.mask_ratio)
    images, noise, _ = held_out_images(source, model.image_size, BATCHES * options.batch, 0, masking)
    print(
        f"{options.model}/{options.patch_size} at {options.image_size} pixels, batch {options.batch}\n"
        f"{options.device}, {torch.get_num_threads()} threads, torch {torch.__version__}, compile {options.compile}\n"
        f"directions on {len(images)} images, {'of ' + options.run if options.run else 'untrained'}\n"
    )
    mse, directions = Bench("mse", options), Directions(model, images, noise, options)
    mse.ours()
    step = of_model(model)
    heads = ["", "images/s", "over mse", "operations", "prediction: one", "mean", "weights: one", "mean"]
    print(line(heads))
    for choice in choices(options.image_size):
        print(line(row(choice, options, mse, step, directions)), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--patch-size", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--run", help="a run's folder; otherwise the model is untrained")
    parser.add_argument("--images", help="a folder of images; otherwise the embedded photographs")
    parser.add_argument("--weights", default="bundled", help="as losses.perceptual.weights")
    parser.add_argument("--width", type=int, default=64, help="as losses.adversarial.width")
    return parser.parse_args()


if __name__ == "__main__":
    main()
