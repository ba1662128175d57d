"""What stands in the table: the run, the simple reconstructions beside it, and the truth."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from losses import InvalidSetting, NormalisedPixelHead
from recon.baselines import SIMPLE, Ridge
from recon.baselines.bayes import Bayes, PosteriorDraw
from recon.data import Source, StreamedSource, UnreadableImage, evaluation_crop
from recon.data.gaussian_field import GaussianField
from recon.evaluation.protocol import Protocol
from recon.evaluation.subject import Subject
from recon.model import MaskedAutoencoder
from recon.training.ranks import ALONE, Ranks

Reconstruct = Callable[[Tensor, Tensor], Tensor]
Progress = Callable[[Iterable, str, int], Iterable]  # what it goes through, what that is, how many

# Which of five images in a row are fitted with their mirror image too: the ridge regression holds back every eighth
# of what it is given, and must not know that one by its mirror image.
MIRRORED = (True, True, True, False, False)

LABELS = {
    "mean": "mean of the visible colours",
    "nearest": "nearest visible patch",
    "biharmonic": "biharmonic inpainting",
}


@dataclass(frozen=True)
class Row:
    """`reconstruct(truth (B, 3, H, W), mask (B, N))` gives images (B, 3, H, W) in [0, 1], which may overshoot.

    `kind`: "run", "simple", "bound" (the best that is possible) or "truth". `exact_retention(mask (B, N))` gives the
    bound's expected retention per band, (bands,), where it is known.
    """

    key: str
    label: str
    kind: str
    reconstruct: Reconstruct
    note: str | None = None
    exact_retention: Callable[[Tensor], Tensor] | None = None


def rows_of_run(subject: Subject, device: torch.device) -> list[Row]:
    """The run's honest prediction; where its head needs patch statistics also the rendering with the true ones.

    A checkpoint of others that predicts normalised patches has no statistics: there the oracle's rendering is alone.
    """
    model = subject.trained.model.to(device)

    @torch.no_grad()
    def predicted(truth: Tensor, mask: Tensor) -> Tensor:
        return model(truth, mask=mask).predicted_image

    @torch.no_grad()
    def oracle(truth: Tensor, mask: Tensor) -> Tensor:
        r = model(truth, mask=mask)
        return r.as_image(r.oracle_pixels)

    made = [f"{subject.trained.resolved['objective']}"] if subject.trained.origin else []
    rows = []
    if honest(model):
        note = "; ".join([*made, *([subject.unfinished] if subject.unfinished else [])])
        rows.append(Row("run", subject.name, "run", predicted, note or None))
    if isinstance(model.head, NormalisedPixelHead):
        note = "oracle: drawn with each hidden patch's true mean and deviation, which leaks the answer"
        rows.append(Row("oracle", f"{subject.name} (oracle)", "run", oracle, "; ".join([note, *made])))
    return rows


def honest(model: MaskedAutoencoder) -> bool:
    """Whether a model's prediction can be drawn without the truth's help."""
    return bool(model.head.statistics) or not isinstance(model.head, NormalisedPixelHead)


def rows_beside(
    protocol: Protocol,
    source: Source | StreamedSource,
    training_images: int,
    batch: int,
    progress: Progress,
    ranks: Ranks = ALONE,
) -> list[Row]:
    """The simple reconstructions, the bound where the data has a known one, and the truth.

    Args:
        source: the training images, for the ridge regression.
        training_images: how many of them, at most.
        batch: images at a time.
    """
    rows = [Row(key, LABELS[key], "simple", simple) for key, simple in SIMPLE.items()]
    crops = _crops(source, protocol, training_images, batch)
    shown = progress(crops, "ridge regression", -(-training_images * 8 // (5 * batch)))
    rows.append(_ridge(shown, protocol, ranks))
    if isinstance(source, GaussianField):
        bayes = Bayes(protocol.image_size)
        rows += [
            Row("bayes", "Bayes: the least possible error", "bound", bayes, exact_retention=bayes.exact_retention),
            Row("posterior", "posterior: one exact draw", "bound", PosteriorDraw(protocol.image_size)),
        ]
    return [*rows, Row("truth", "the truth", "truth", lambda truth, mask: truth)]


def _ridge(crops: Iterable[Tensor], protocol: Protocol, ranks: Ranks) -> Row:
    """The ridge regression, fitted by the first process; a row without values where there are too few images for it."""
    try:
        ridge = ranks.by_first(lambda: Ridge.fit(crops, protocol.patch_size))
        return Row("ridge", "ridge regression", "simple", ridge)
    except InvalidSetting as reason:
        nothing = Row("ridge", "ridge regression", "simple", lambda truth, mask: torch.full_like(truth, torch.nan))
        return replace(nothing, note=str(reason))


def _crops(source: Source | StreamedSource, protocol: Protocol, count: int, batch: int) -> Iterator[Tensor]:
    """Training images in random order, cut as held-out ones are, most with their mirror image: (B, 3, H, W)."""
    crops: list[Tensor] = []
    for taken, image in enumerate(_in_random_order(source, protocol.seed), start=1):
        crop = evaluation_crop(image, protocol.image_size, native=source.native).float() / 255
        crops += [crop, crop.flip(-1)] if MIRRORED[(taken - 1) % len(MIRRORED)] else [crop]
        if len(crops) >= batch or taken == count:
            yield torch.stack(crops)
            crops = []
        if taken == count:
            return
    if crops:
        yield torch.stack(crops)


def _in_random_order(source: Source | StreamedSource, seed: int) -> Iterator:
    if isinstance(source, StreamedSource):
        yield from (image for image, _ in source)
        return
    for index in torch.randperm(len(source), generator=torch.Generator().manual_seed(seed)).tolist():
        try:
            yield source.read(index)[0]
        except UnreadableImage:
            continue
