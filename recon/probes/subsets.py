"""Parts of a training set that hold every class in proportion: label fractions, and what settings are chosen on."""

import torch
from torch import Tensor

from losses.errors import InvalidSetting
from recon.data.seeds import seed_of


def fraction(labels: Tensor, share: float, seed: int) -> Tensor:
    """A stratified share of a labelled set, as in the 1% and 10% protocols: labels (n,) int64 -> sorted indices (m,).

    m is share * n, rounded, or the number of classes where that is more: each class has at least one image. Images
    are taken from one order in which the j-th image of a class of n_c stands at (j + 1/2) / n_c (Webster's
    apportionment), so classes keep their proportions, and for one seed a smaller share lies within a larger one.

    Args:
        labels: the classes' numbers, whatever they are; a class that has no image is not missed.
        share: in (0, 1].

    Raises:
        InvalidSetting: no labels, or a share that is none.
    """
    _check(labels, share, 0 < share <= 1, "in (0, 1]")
    order, rank, size = _shuffled(labels, seed_of(seed, "fraction"))
    place = torch.where(rank > 0, (rank + 0.5) / size, 0.0)
    count = max(int((rank == 0).sum()), round(share * len(labels)))
    return order[place.argsort(stable=True)[:count]].sort().values.to(labels.device)


def held_back(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Splits training images in two, class by class: to fit on, and to choose settings on. Sorted indices of both.

    Of a class of n_c images share * n_c, rounded, are held back, at least one and at most n_c - 1: a class of two or
    more is in both parts. The image of a class of one is fitted on, for without it the class would not be known.
    Where every class has one image, as few labels may leave it, the second part is empty: there is nothing to choose
    on, and the caller must have a setting for that.

    Args:
        labels: (n,) int64, the classes' numbers, whatever they are.
        share: in (0, 1).

    Raises:
        InvalidSetting: no labels, or a share that leaves a part empty.
    """
    _check(labels, share, 0 < share < 1, "between 0 and 1")
    order, rank, size = _shuffled(labels, seed_of(seed, "held back"))
    back = rank < (share * size).round().clamp(min=1).minimum(size - 1)
    return tuple(order[part].sort().values.to(labels.device) for part in (~back, back))


def _shuffled(labels: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A random order of the images; in that order, each one's rank within its class and its class's size: (n,) each.

    On the CPU in float64, so that a set is the same on every device.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    _, classes, sizes = labels.cpu()[order].unique(return_inverse=True, return_counts=True)
    by_class = classes.argsort(stable=True)
    rank = torch.empty_like(order)
    rank[by_class] = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[classes[by_class]]
    return order, rank.double(), sizes[classes].double()


def _check(labels: Tensor, share: float, possible: bool, interval: str) -> None:
    if not possible:
        raise InvalidSetting(f"a share of {share} of the labels; it must be {interval}")
    if not len(labels):
        raise InvalidSetting("no labelled images to choose from")
