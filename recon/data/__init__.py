"""Where the images come from: datasets by name, crops, batches that resume exactly, held-out images."""

from functools import partial
from pathlib import Path

from losses import InvalidSetting, nearest
from recon.data import public
from recon.data.batches import (
    Batch,
    held_out_batches,
    held_out_images,
    in_random_order,
    noise_of,
    training_batches,
)
from recon.data.crops import evaluation_crop, training_crop
from recon.data.folder import image_folder
from recon.data.packed import Packed
from recon.data.source import Source, StreamedSource, UnreadableImage
from recon.data.synthetic import DeadLeaves, GaussianField

__all__ = [
    "Batch",
    "Source",
    "StreamedSource",
    "UnreadableImage",
    "create_dataset",
    "evaluation_crop",
    "held_out_batches",
    "held_out_images",
    "in_random_order",
    "noise_of",
    "training_batches",
    "training_crop",
]

DATASETS = {
    **{name: partial(public.Published, name) for name in public.TORCHVISION},
    "dead_leaves": DeadLeaves,
    "folder": image_folder,
    "gaussian_field": GaussianField,
    "imagenet": public.imagenet,
    "imagenette": public.imagenette,
    "packed": Packed,
    "photos": public.Photos,
}
HUBS = {"hfds": public.hugging_face, "wds": public.webdataset}


def create_dataset(
    name: str, split: str, root: str | Path | None = None, download: bool = False
) -> Source | StreamedSource:
    """Open one split of a dataset.

    Args:
        name: photos, gaussian_field, dead_leaves, folder, packed, imagenette, imagenet, cifar10, cifar100, stl10,
            hfds/NAME or wds/NAME.
        split: "train" or "val"; no image is in both.
        root: where the files are; `folder` and `packed` need it, the others have a default place.
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
        known = [*sorted(DATASETS), *(f"{kind}/NAME" for kind in HUBS)]
        raise InvalidSetting(f"unknown dataset '{name}'{nearest(name, known)} (datasets: {', '.join(known)})")
    return DATASETS[name](split, root, download)
