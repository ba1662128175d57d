"""Why objectives blur, on one page: where several answers are right, which one does each objective give?

python -m experiments.averaging --out averaging.png

A line enters from the left; in the hidden patch it goes on upwards or downwards, or upwards, straight or downwards,
each equally likely, and nothing visible tells which. A small network learns to fill the patch under the project's own
objectives. Squared error is least at the mean of the answers: all of them, faint. Absolute error is least at each
pixel's median: of three lines that part, most pixels are on one at most, so there the median has none; between two
answers every value is equally good, and chance decides. The adversarial term alone asks for an image like those that
there are: one of the answers, nearly. Less than a minute on one CPU core.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from losses import Reconstruction, build_objective

PATCH = 8  # an image is two patches side by side, the left one visible
SLOPES = {"two": (-1.0, 1.0), "three": (-1.0, 0.0, 1.0)}
STEEPNESS = 0.45  # rows per column
OBJECTIVES = ("mse", "l1", "adversarial")
CRITIC = {
    "gan_loss": "relativistic",
    "width": 16,
    "lr": 4e-3,
    "penalty": 0.1,
    "generator_start": 0.0,
    "generator_full": 0.0,
}
STEPS = {"mse": 500, "l1": 500, "adversarial": 2000}
BATCH = 16
SCENES = 200  # that are looked at afterwards
CAPTION = (
    "The patch right of the red line is hidden, every answer equally likely. Distances are root mean squares over\n"
    f"hidden pixels, and means over {SCENES} scenes. Of two answers the median is every value in between, all equally\n"
    "good to l1; of three it is unique, and has no line where the three have parted."
)


def scenes(count: int, slopes: tuple[float, ...], generator: torch.Generator) -> Tensor:
    """Lines that differ in height, colour and ground, with every answer: (count, answers, 3, PATCH, 2 * PATCH)."""
    u = torch.rand(3, count, 1, 1, 1, generator=generator)
    height, ground, line = 3 + u[0], 0.3 * u[1], 1 - 0.3 * u[2]
    row, column = torch.arange(PATCH).view(-1, 1), torch.arange(2 * PATCH)
    bend = STEEPNESS * (column - PATCH + 0.5).clamp(min=0)
    centre = height + torch.tensor(slopes).view(-1, 1, 1) * bend
    on_line = (1.5 - (row - centre).abs()).clamp(0, 1)
    return (ground + (line - ground) * on_line).unsqueeze(2).expand(-1, -1, 3, -1, -1)


class Filler(nn.Sequential):
    """A perceptron from the visible patch to the hidden one, both grey."""

    def __init__(self) -> None:
        pixels, width = PATCH**2, 256
        super().__init__(
            nn.Linear(pixels, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, pixels)
        )

    def reconstruct(self, images: Tensor) -> Reconstruction:
        hidden = self(images[:, 0, :, :PATCH].flatten(1) * 2 - 1).repeat_interleave(3, dim=1)
        mask = torch.tensor([[False, True]]).expand(len(images), -1)
        prediction = torch.stack([torch.zeros_like(hidden), hidden], 1)
        return Reconstruction(prediction, images, mask, mean=(0.5,) * 3, std=(0.5,) * 3)


def train(expression: str, slopes: tuple[float, ...], steps: int) -> Filler:
    """A network that has seen, at each step, new scenes with one answer each."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network = Filler()
    objective = build_objective(expression, image_size=(PATCH, 2 * PATCH), steps=steps, adversarial=CRITIC)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.0, 0.9))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, step / 50) * (1 - step / steps))
    for step in range(steps):
        answers = scenes(BATCH, slopes, generator)
        chosen = torch.randint(len(slopes), (BATCH,), generator=generator)
        reconstruction = network.reconstruct(answers[torch.arange(BATCH), chosen])
        result = objective(reconstruction, step)
        optimizer.zero_grad()
        reconstruction.prediction.backward(result.gradient)
        optimizer.step()
        objective.update(step)
        schedule.step()
    return network


@torch.no_grad()
def fill(network: Filler, answers: Tensor) -> Tensor:
    """The network's answer to each of `scenes`: (count, 3, PATCH, 2 * PATCH)."""
    return network.reconstruct(answers[:, 0]).composite


def distances(filled: Tensor, answers: Tensor) -> dict[str, float]:
    """From what was filled in to the mean, the median and the nearest of the answers.

    Root mean square over the hidden pixels, then mean over scenes. The median of two answers is all between them.
    """
    low, high = answers.amin(1), answers.amax(1)
    median = filled.clamp(low, high) if answers.shape[1] == 2 else answers.median(1).values

    def to(goal: Tensor) -> Tensor:
        return (filled - goal)[..., PATCH:].square().mean((-3, -2, -1)).sqrt()

    nearest = torch.stack([to(answer) for answer in answers.unbind(1)]).amin(0)
    found = {"mean": to(answers.mean(1)), "median": to(median), "nearest answer": nearest}
    return {name: float(distance.mean()) for name, distance in found.items()}


def draw(filled: dict[str, dict[str, Tensor]], answers: dict[str, Tensor], out: Path) -> None:
    """One scene of each case: the visible patch, the answers, and what each objective fills in."""
    figure = Figure(figsize=(14, 4.6), layout="constrained")
    axes = figure.subplots(len(answers), 4 + len(OBJECTIVES))
    for row, case in zip(axes, answers, strict=True):
        visible = answers[case][0, 0].clone()
        visible[..., PATCH:] = 0.5
        shown = {"visible": visible} | {f"answer {i + 1}": image for i, image in enumerate(answers[case][0])}
        for axis, (title, image) in zip(row, shown.items(), strict=False):
            show(axis, image, title)
        for axis, (expression, images) in zip(row[-len(OBJECTIVES) :], filled[case].items(), strict=True):
            to = "\n".join(f"to {goal} {value:.2f}" for goal, value in distances(images, answers[case]).items())
            show(axis, images[0], f"{expression}\n{to}")
        for axis in row:
            axis.set_axis_off()
    figure.supxlabel(CAPTION, fontsize=9)
    figure.savefig(out, dpi=150)


def show(axis: Axes, image: Tensor, title: str) -> None:
    axis.set_title(title, fontsize=9)
    axis.imshow(image.clamp(0, 1).movedim(0, -1).numpy(), interpolation="nearest")
    axis.axvline(PATCH - 0.5, color="tab:red", linewidth=0.8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("averaging.png"))
    options = parser.parse_args()
    answers, filled = {}, {}
    print(f"{'answers':8} {'objective':12} {'to mean':>8} {'to median':>10} {'to nearest answer':>18}")
    for case, slopes in SLOPES.items():
        answers[case] = scenes(SCENES, slopes, torch.Generator().manual_seed(1))
        filled[case] = {}
        for expression in OBJECTIVES:
            filled[case][expression] = fill(train(expression, slopes, STEPS[expression]), answers[case])
            to = distances(filled[case][expression], answers[case])
            print(f"{case:8} {expression:12} {to['mean']:8.3f} {to['median']:10.3f} {to['nearest answer']:18.3f}")
    draw(filled, answers, options.out)
    print(options.out)


if __name__ == "__main__":
    main()
