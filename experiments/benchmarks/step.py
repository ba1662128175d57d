"""One training step per objective, beside a plain loop with the summed loss and one `backward()`.

    python -m experiments.benchmarks.step                      # the default run's sizes
    python -m experiments.benchmarks.step --model base --image-size 224 --patch-size 16 --batch 64 --device cuda
    python -m experiments.benchmarks.step --preset demo        # its model, batch, and options of its critics

Three questions, each answered as a ratio within this one process, the two sides taking turns:

- over mse: our step over our step under `mse`, the median of the turns and in brackets the lowest and highest; the
  images/s of both in these turns stand before it. Rows are taken one after the other: compare their ratios alone.
- machinery: our step over the plain loop's, on the same terms. What one gradient at the prediction, the norms, the
  cosines and the log cost. Where a discriminator trains, both sides train it.
- critic: the perceptual term (value and gradient) over the least it could cost: a forward of the target, a forward
  of the prediction, and a gradient to its input, given the gradients at the taps; with --compile both are compiled.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from experiments.benchmarks.saved import save, take_out
from experiments.benchmarks.turns import compare, in_turns
from losses import Objective, PixelHead, Reconstruction, build_objective, head_of
from losses.term import gradient_norm, step_unless
from recon.model import create_model
from recon.training.device import fast_bfloat16, make_fabric
from recon.training.optim import adamw, set_learning_rate
from recon.training.state import MetricAccumulator

PRESETS = Path(__file__).parents[2] / "recon" / "preset"
EXPRESSIONS = ["mse", "norm_mse", "l1", "perceptual+mse", "adversarial+mse", "10%perceptual+80%adversarial+mse"]
EXPRESSIONS += ["low_pass", "fourier", "gradient+mse", "pca", "tokens", "hog", "features"]
RANDOM = {name: {"weights": "random"} for name in ("perceptual", "features")}


class Bench:
    """A model, an objective and one batch; every method is one way to take a training step.

    Args:
        terms: options by term; the values of VGG19's weights cost nothing, so they are random if not said.
        parts: of the model, that are trained.
        **changes: arguments of `MaskedAutoencoder`.
    """

    def __init__(
        self,
        expression: str,
        options: argparse.Namespace,
        terms: dict[str, dict[str, Any]] | None = None,
        parts: str = "all",
        **changes: Any,
    ):
        torch.manual_seed(0)
        terms = terms or {}
        self.device = torch.device(options.device)
        self.low = fast_bfloat16(self.device.type)
        size = (options.image_size, options.image_size)
        self.objective: Objective = build_objective(
            expression,
            image_size=size,
            critic_dtype=torch.bfloat16 if self.low else torch.float32,
            compiled=options.compile,
            **terms | {name: own | terms.get(name, {}) for name, own in RANDOM.items()},
        ).to(self.device)
        self.model = create_model(
            options.model, image_size=size, patch_size=options.patch_size, head=self.objective.head, **changes
        ).to(self.device)
        if parts != "all":
            self.model.train_only(parts)
        if options.compile:
            self.model.predict = torch.compile(self.model.predict)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = adamw(self.model, weight_decay=0.05, betas=(0.9, 0.95))
        set_learning_rate(self.optimizer, 1e-4)
        self.images = torch.rand(options.batch, 3, *size, device=self.device)
        self.noise = torch.rand(options.batch, self.model.patches, device=self.device)
        self.metrics = MetricAccumulator(self.device)
        self.step = 0  # of ours
        self.decoded: float | None = 1.0  # as training does: hidden patches alone
        self.parts: dict[str, float] = {}

    def forward(self) -> Reconstruction:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.low):
            return self.model(self.images, noise=self.noise, decoded=self.decoded)

    def ours(self) -> None:
        with self._part("forward"):
            r = self.forward()
        with self._part("objective"):
            result = self.objective(r, self.step)
        with self._part("backward"):
            r.prediction.backward(result.gradient)
        with self._part("optimiser"):
            norm = gradient_norm(self.parameters)
            step_unless(self.optimizer, ~norm.isfinite())
            self.optimizer.zero_grad()
        with self._part("critic's update"):
            self.objective.update(self.step)
        with self._part("metrics"):
            self.metrics.record([result], self.objective, norm, norm.isfinite())
        self.step += 1

    def plain(self) -> None:
        """What a loop without this library does: the weighted sum, one backward, one step."""
        r = self.forward()
        self._summed(r).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._train_critics(r)

    def _summed(self, r: Reconstruction) -> torch.Tensor:
        wide = r.at(r.prediction.float(), "hidden")
        loss = sum((t.weight if not t.share else 0.1) * self.objective.terms[t.name].value(wide) for t in self.terms)
        own = wide.head_loss
        return loss if own is None else loss + own

    def _train_critics(self, r: Reconstruction) -> None:
        detached = r.at(r.prediction.detach().float(), "hidden")
        for term in self.objective.terms.values():
            term.learn(detached)
            term.update(0)

    @property
    def terms(self) -> tuple:
        return self.objective.expression.terms

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        if self.device.type == "cpu":  # elsewhere the host's clock says nothing of the device
            self.parts[name] = self.parts.get(name, 0.0) + time.perf_counter() - began


def critic_floor(bench: Bench) -> tuple[Callable[[], None], Callable[[], None]]:
    """The perceptual term with its gradient, and the least that must be done for it."""
    term = bench.objective.terms["perceptual"]
    r = bench.forward()
    leaf = r.prediction.detach().float().requires_grad_()
    dtype = term.context.dtype
    net = torch.compile(term.net, dynamic=False) if term.context.compiled else term.net
    true = term.sampled(r, r.image, term.stride)
    predicted = term.sampled(r, r.composite.detach(), term.stride).clone().requires_grad_()

    def cast() -> torch.autocast:
        return torch.autocast(bench.device.type, dtype, enabled=dtype != torch.float32)

    with cast():
        gradients = [torch.randn_like(tap) for tap in net(predicted)]

    def ours() -> None:
        torch.autograd.grad(term.value(r.at(leaf, "hidden")), leaf)

    def floor() -> None:
        with cast():
            with torch.no_grad():
                net(true)
            torch.autograd.grad(net(predicted), predicted, gradients)

    return ours, floor


def read_preset(name: str) -> dict[str, Any]:
    """What a file of recon/preset says."""
    return yaml.safe_load((PRESETS / f"{name}.yaml").read_text())


def take_preset(options: argparse.Namespace) -> dict[str, Any]:
    """Takes over the sizes of recon/preset; returns what else of it a `Bench` wants."""
    preset = read_preset(options.preset)
    model, train = preset["model"], preset["train"]
    options.model, options.patch_size = model["name"], model["patch_size"]
    options.image_size, options.batch = preset["data"]["image_size"], preset["batch"]["size"]
    refiner, parts = model.get("refiner_width", 0), train.get("parts", "all")
    return {"terms": preset.get("losses", {}), "parts": parts, "refiner_width": refiner}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--patch-size", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--preset", choices=("demo", "refiner64"), help="its sizes and critics' settings instead")
    parser.add_argument("--loss", nargs="+")
    take_out(parser)
    options = parser.parse_args()
    of_preset = take_preset(options) if options.preset else {}
    pixels_alone = of_preset.get("refiner_width", 0) > 0  # a refiner corrects plain pixels alone
    options.loss = options.loss or [e for e in EXPRESSIONS if not (pixels_alone and type(head_of(e)) is not PixelHead)]
    make_fabric(options.device, "auto")  # for the device's settings, which training has too
    preset = f"preset {options.preset}: " if options.preset else ""
    print(f"{preset}{options.model}/{options.patch_size} at {options.image_size} pixels, batch {options.batch}")
    print(
        f"{options.device}, {torch.get_num_threads()} threads, torch {torch.__version__}, compile {options.compile}\n"
    )
    columns = f"{'objective':<34}{'images/s':>9}{'mse':>8}{'over mse':>10}{'':<16}{'machinery':>10}{'critic':>8}"
    print(f"{columns}   share of the step")
    rows = []
    for row in measured(options, of_preset):
        print(line(row), flush=True)
        rows.append(row)
    save(options.out, "experiments.benchmarks.step", torch.device(options.device), rows)


def measured(options: argparse.Namespace, of_preset: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each expression of `options.loss`; `of_preset`: further arguments of every `Bench`."""
    mse = Bench("mse", options, **of_preset)
    mse.ours()  # compilation is no part of a step
    for expression in options.loss:
        bench = Bench(expression, options, **of_preset)
        bench.ours()
        bench.plain()
        bench.parts.clear()
        ours, plain = compare(bench.ours, bench.plain, options.repeats, bench.device)
        turns = in_turns({"ours": bench.ours, "mse": mse.ours}, options.repeats, bench.device)
        speeds = [options.batch / statistics.median(seconds) for seconds in turns.values()]
        over = [own / beside for own, beside in zip(*turns.values(), strict=True)]
        row = {"objective": expression, "images_per_second": speeds[0], "mse_images_per_second": speeds[1]}
        row |= {"over_mse": over, "machinery": ours / plain}
        if "perceptual" in bench.objective.terms:
            term, floor = compare(*critic_floor(bench), options.repeats, bench.device)
            row["critic"] = term / floor
        total = sum(bench.parts.values()) or 1
        row["shares"] = {name: part / total for name, part in bench.parts.items()}
        yield row
        del bench  # before the next one is made


def line(row: dict[str, Any]) -> str:
    over, speeds = row["over_mse"], (row["images_per_second"], row["mse_images_per_second"])
    figures = f"{speeds[0]:9.1f}{speeds[1]:8.1f}{statistics.median(over):9.2f}x"
    critic = f"{row['critic']:.2f}x" if "critic" in row else ""
    figures += f"{f' ({min(over):.2f} .. {max(over):.2f})':<16}{row['machinery']:9.3f}x{critic:>8}"
    shares = ", ".join(f"{name} {part:.0%}" for name, part in row["shares"].items() if part >= 0.005)
    return f"{row['objective']:<34}{figures}   {shares}"


if __name__ == "__main__":
    main()
