"""The rows of an evaluation: the run, the simple reconstructions beside it, and the truth."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from losses import InvalidSetting, MixtureHead, NormalisedPixelHead
from recon.baselines import SIMPLE, Ridge, WindowKMeans, WindowPCA, WindowSample
from recon.baselines.bayes import Bayes, PosteriorDraw
from recon.console import progress_bar
from recon.data import Source, StreamedSource, evaluation_crop, in_random_order
from recon.data.synthetic import GaussianField
from recon.evaluation.protocol import Protocol
from recon.loaded_run import LoadedRun
from recon.model import MaskedAutoencoder
from recon.model.corruption import GaussianNoise, HiddenComponents

Reconstruct = Callable[[Tensor, Tensor], Tensor]

# Which of five consecutive images are fitted with their mirror image too. The ridge regression holds back every eighth
# image that it is given, and must not have been fitted on the mirror image of one of those.
MIRRORED = (True, True, True, False, False)

LABELS = {
    "mean": "mean of the visible colours",
    "nearest": "nearest visible patch",
    "biharmonic": "biharmonic inpainting",
    "ridge": "ridge regression",
    "pca": "PCA of windows",
    "kmeans": "k-means of windows",
}


@dataclass(frozen=True)
class Row:
    """What is measured in one row of the table; key, label, kind, note and rendering are those of `RowInfo`.

    Args:
        reconstruct: (truth (B, 3, H, W), mask (B, N)) -> images (B, 3, H, W) in [0, 1], which may overshoot; under a
            protocol that corrupts whole images (truth, noise (B, N)).
        exact_retention: mask (B, N) -> a bound's expected retention per band, (bands,), where it is known.
        distribution: of the row that is the mean of draws, the distribution whose draws are scored.
    """

    key: str
    label: str
    kind: str
    reconstruct: Reconstruct
    note: str | None = None
    exact_retention: Callable[[Tensor], Tensor] | None = None
    rendering: str | None = None
    distribution: "Distribution | None" = None


def named(run: str, rendering: str | None) -> str:
    """The label of one of a run's rows."""
    return f"{run} ({rendering})" if rendering else run


class Distribution:
    """Draws `draws` samples of each image from a model; those of the last batch are kept for the other rows."""

    def __init__(self, model: MaskedAutoencoder, draws: int):
        self.model, self.draws = model, draws
        self.batch: tuple[Tensor, Tensor] | None = None  # of which draws are kept
        self.kept: list[Tensor] = []

    def samples(self, truth: Tensor, mask: Tensor, count: int | None = None) -> Tensor:
        """The first `count` draws, by default all: (count, B, 3, H, W), clamped to [0, 1]."""
        if self.batch is None or self.batch[0] is not truth or self.batch[1] is not mask:
            self.batch, self.kept = (truth, mask), []
        count = count or self.draws
        for i in range(len(self.kept), count):
            self.kept.append(self.model.render(truth, mask, "sample", i).predicted_image.clamp(0, 1))
        return torch.stack(self.kept[:count])

    def mean_of_samples(self, truth: Tensor, mask: Tensor) -> Tensor:
        return self.samples(truth, mask).mean(0)

    def rendered(self, rendering: str) -> Reconstruct:
        """The function that reconstructs by one rendering: "mean", "mode" or "sample"."""
        if rendering == "sample":
            return lambda truth, mask: self.samples(truth, mask, 1)[0]
        return lambda truth, mask: self.model.render(truth, mask, rendering).predicted_image

    @torch.no_grad()
    def bits_per_dim(self, truth: Tensor, mask: Tensor) -> Tensor | None:
        """-log2 p of the hidden values of each image, (B,), of a density times the width of one of 256 levels.

        None where the density is not known: a flow's.
        """
        r = self.model(truth, mask=mask)
        if not isinstance(r.head, MixtureHead):
            return None
        levels = (255 * self.model.std).log().mean()  # standardised pixels to levels, per value
        nats = (r.head.negative_log_likelihood(r.prediction, r.true_pixels, r.std).double() * mask).sum(1) / (
            mask.sum(1) * r.values
        ) + levels
        return nats / math.log(2)


def run_rows(run: LoadedRun, device: torch.device, render: str | None = None, draws: int = 1) -> list[Row]:
    """The rows of a run.

    A run has a row for its honest prediction, and an oracle row where its head needs patch statistics. One that
    predicts a distribution has a row for every rendering (or for `render` alone) and one for the mean of the draws. A
    checkpoint of another code that predicts normalised patches without their statistics has the oracle row alone.

    Raises:
        InvalidSetting: the head has no such rendering.
    """
    model = run.model.to(device)
    if render is not None and model.head.renderings and render not in model.head.renderings:
        has = " or ".join(model.head.renderings)
        raise InvalidSetting(f"render={render}: {run.name} predicts a {model.head.name}, which has {has}")

    name = "mask" if model.corruption is None else "noise"

    @torch.no_grad()
    def predicted(truth: Tensor, given: Tensor) -> Tensor:
        return model(truth, **{name: given}).predicted_image

    @torch.no_grad()
    def oracle(truth: Tensor, given: Tensor) -> Tensor:
        r = model(truth, **{name: given})
        return r.as_image(r.oracle_pixels)

    made = run.resolved["objective"] if run.origin else None
    note, rows = joined(made, run.unfinished), []
    if model.head.renderings:
        rows += distribution_rows(run.name, Distribution(model, draws), render, note)
    elif honest(model):
        rows.append(Row("run", run.name, "run", predicted, note))
    if isinstance(model.head, NormalisedPixelHead):
        note = joined("oracle: drawn with each hidden patch's true mean and deviation, which leaks the answer", made)
        rows.append(Row("oracle", named(run.name, "oracle"), "run", oracle, note, rendering="oracle"))
    return rows


def joined(*notes: str | None) -> str | None:
    return "; ".join(filter(None, notes)) or None


def distribution_rows(name: str, of: Distribution, render: str | None, note: str | None) -> list[Row]:
    """The first row is the run's own; the row of the mean of the draws has the scores of the whole distribution."""
    renderings = of.model.head.renderings if render is None else (render,)
    keys = ["run", *renderings[1:]]
    rows = [
        Row(key, named(name, rendering), "run", of.rendered(rendering), note, rendering=rendering)
        for key, rendering in zip(keys, renderings, strict=True)
    ]
    if of.draws > 1:
        words = f"mean of {of.draws} draws"
        note = joined(note, "CRPS, energy score and bits are those of the draws themselves")
        rows.append(Row("draws", named(name, words), "run", of.mean_of_samples, note, rendering=words, distribution=of))
    return rows


def honest(model: MaskedAutoencoder) -> bool:
    """Whether a model's prediction can be drawn without statistics of the truth."""
    return bool(model.head.statistics) or not isinstance(model.head, NormalisedPixelHead)


def corrupted_rows(corruption: GaussianNoise | HiddenComponents) -> list[Row]:
    """The rows beside a run that corrupts whole images: its input, and the truth.

    No simple reconstruction is there: they read visible patches.
    """
    rows = [Row("input", corruption.title, "simple", lambda truth, noise: corruption(truth, noise))]
    return [*rows, Row("truth", "the truth", "truth", lambda truth, noise: truth)]


def baseline_rows(protocol: Protocol, source: Source | StreamedSource, training_images: int, batch: int) -> list[Row]:
    """The rows of the simple reconstructions, of the bound where the data has a known one, and of the truth.

    Args:
        source: the training images, for those that are fitted.
        training_images: how many of them, at most.
        batch: images at a time.
    """
    rows = [Row(key, LABELS[key], "simple", simple) for key, simple in SIMPLE.items()]
    crops = _crops(source, protocol, training_images, batch)
    shown = progress_bar(crops, "simple reconstructions", -(-training_images * 8 // (5 * batch)))
    windows = WindowSample(protocol.patch_size, protocol.seed)
    rows += [  # in this order: images are read once, by the ridge regression
        _fitted("ridge", lambda: Ridge.fit(windows.drawn_from(shown), protocol.patch_size)),
        _fitted("pca", lambda: WindowPCA.fit(windows)),
        _fitted("kmeans", lambda: WindowKMeans.fit(windows)),
    ]
    if isinstance(source, GaussianField):
        bayes = Bayes(protocol.image_size)
        rows += [
            Row("bayes", "Bayes: the least possible error", "bound", bayes, exact_retention=bayes.exact_retention),
            Row("posterior", "posterior: one exact draw", "bound", PosteriorDraw(protocol.image_size)),
        ]
    return [*rows, Row("truth", "the truth", "truth", lambda truth, mask: truth)]


def _fitted(key: str, fit: Callable[[], Reconstruct]) -> Row:
    """The row of a simple reconstruction that is fitted first; without values where there are too few images for it."""
    try:
        return Row(key, LABELS[key], "simple", fit())
    except InvalidSetting as reason:
        return Row(key, LABELS[key], "simple", lambda truth, _: truth * torch.nan, str(reason))


def _crops(source: Source | StreamedSource, protocol: Protocol, count: int, batch: int) -> Iterator[Tensor]:
    """Training images in random order, cut as held-out ones are, most with their mirror image: (B, 3, H, W)."""
    crops: list[Tensor] = []
    for taken, image in enumerate(islice(in_random_order(source, protocol.seed), count)):
        crop = evaluation_crop(image, protocol.image_size, native=source.native).float() / 255
        crops += [crop, crop.flip(-1)] if MIRRORED[taken % len(MIRRORED)] else [crop]
        if len(crops) >= batch:
            yield torch.stack(crops)
            crops = []
    if crops:
        yield torch.stack(crops)
