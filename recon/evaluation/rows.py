"""What stands in the table: the run, the simple reconstructions beside it, and the truth."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.baselines import SIMPLE, Ridge
from recon.baselines.bayes import Bayes
from recon.data import Source, StreamedSource, UnreadableImage, evaluation_crop
from recon.data.gaussian_field import GaussianField
from recon.evaluation.protocol import Protocol
from recon.evaluation.subject import Subject

Reconstruct = Callable[[Tensor, Tensor], Tensor]

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
    """The run's honest prediction; where its head needs patch statistics also the rendering with the true ones."""
    model = subject.model.to(device)

    @torch.no_grad()
    def predicted(truth: Tensor, mask: Tensor) -> Tensor:
        return model(truth, mask=mask).predicted_image

    @torch.no_grad()
    def oracle(truth: Tensor, mask: Tensor) -> Tensor:
        r = model(truth, mask=mask)
        return r.as_image(r.oracle_pixels)

    rows = [Row("run", subject.folder.name, "run", predicted, subject.unfinished)]
    if model.head.statistics:
        note = "oracle: drawn with each hidden patch's true mean and deviation, which leaks the answer"
        rows.append(Row("oracle", f"{subject.folder.name} (oracle)", "run", oracle, note))
    return rows


def rows_beside(protocol: Protocol, source: Source | StreamedSource, training_images: int, batch: int) -> list[Row]:
    """The simple reconstructions, the bound where the data has a known one, and the truth.

    Args:
        source: the training images, for the ridge regression.
        training_images: how many of them, at most.
        batch: images at a time.
    """
    ridge = Ridge.fit(_crops(source, protocol, training_images, batch), protocol.patch_size)
    rows = [Row(key, LABELS[key], "simple", simple) for key, simple in SIMPLE.items()]
    rows.append(Row("ridge", "ridge regression", "simple", ridge))
    if isinstance(source, GaussianField):
        bayes = Bayes(protocol.image_size)
        rows.append(
            Row("bayes", "Bayes: the least possible error", "bound", bayes, exact_retention=bayes.exact_retention)
        )
    return [*rows, Row("truth", "the truth", "truth", lambda truth, mask: truth)]


def _crops(source: Source | StreamedSource, protocol: Protocol, count: int, batch: int) -> Iterator[Tensor]:
    """Training images in random order, cut as held-out ones are, with their mirror images: (B, 3, H, W) in [0, 1]."""
    crops: list[Tensor] = []
    for taken, image in enumerate(_in_random_order(source, protocol.seed), start=1):
        crop = evaluation_crop(image, protocol.image_size, native=source.native).float() / 255
        crops += [crop, crop.flip(-1)]
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
