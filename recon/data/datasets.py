"""A dataset by its name."""

from pathlib import Path

from losses import InvalidSetting, nearest
from recon.data import dead_leaves, folder, gaussian_field, packed, photos
from recon.data import public as hub
from recon.data import public as published
from recon.data.source import Source, StreamedSource

DATASETS = {
    "cifar10": published.cifar10,
    "cifar100": published.cifar100,
    "dead_leaves": dead_leaves.dead_leaves,
    "folder": folder.image_folder,
    "gaussian_field": gaussian_field.gaussian_field,
    "imagenet": published.imagenet,
    "imagenette": published.imagenette,
    "packed": packed.packed,
    "photos": photos.photos,
    "stl10": published.stl10,
}
HUBS = {"hfds": hub.hugging_face, "wds": hub.webdataset}


def create_dataset(
    name: str, split: str, root: str | Path | None = None, download: bool = False
) -> Source | StreamedSource:
    """Open one split of a dataset.

    Args:
        name: photos, gaussian_field, dead_leaves, folder, packed, imagenette, imagenet, cifar10, cifar100, stl10,
            hfds/NAME or wds/NAME.
        split: "train" or "val"; no image is in both.
        root: where the files are; `folder` and `packed` need it, the others have a place of their own.
        download: fetch a published dataset that is not under `root`.

    Raises:
        InvalidSetting: an unknown name or split, files that are missing, a package that is missing.
    """
    if split not in ("train", "val"):
        raise InvalidSetting(f"unknown split '{split}' (splits: train, val)")
    kind, _, rest = name.partition("/")
    if kind in HUBS and rest:
        return HUBS[kind](rest, split, root)
    if name not in DATASETS:
        known = [*DATASETS, *(f"{kind}/NAME" for kind in HUBS)]
        raise InvalidSetting(f"unknown dataset '{name}'{nearest(name, known)} (datasets: {', '.join(known)})")
    return DATASETS[name](split, root, download)
