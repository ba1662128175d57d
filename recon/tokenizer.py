"""Command: fit a tokenizer, or principal components, on training images, for runs that predict what it gives."""

from dataclasses import dataclass
from pathlib import Path

from losses import InvalidSetting, check_limits, option
from recon.cli import Command, run
from recon.config import COUNT, SEED, SIDE, _node, pixels
from recon.console import command_line
from recon.run_folder import check_writable, write_atomically

TAKEN_BY = {"pca": "losses.pca.basis"}  # the setting that names the file; of the other kinds losses.tokens.tokenizer


@dataclass
class FittedData:
    name: str | None = option(None, "dataset, as recon.pretrain's")
    root: str | None = option(None, "folder that holds the data; packed: the file")
    image_size: int = option(64, "side in pixels of the images that patches are taken from", **SIDE)
    download: bool = option(False, "fetch a missing public dataset")


@dataclass
class PatchSize:
    patch_size: int = option(8, "pixels", **SIDE)


@dataclass
class TokenizerSettings:
    out: str | None = option(None, "file to write (.safetensors); it appears when it is whole")
    kind: str = option(
        "vq", "vq (a small network), kmeans, colours, or pca (principal components)", ("vq", "kmeans", "colours", "pca")
    )
    codes: int = option(512, "entries of the codebook; pca has none", least=2, most=2**16)
    steps: int = option(2000, "of vq's training, of 64 images each", **COUNT)
    images: int = option(2048, "training images at most; pca takes 256 of them", **COUNT)
    seed: int = option(0, "of everything drawn by chance", **SEED)
    device: str = option("auto", "of vq's training: auto, cpu, cuda, cuda:N, mps")
    data: FittedData = _node(FittedData)
    model: PatchSize = _node(PatchSize)


COMMAND = Command(
    "tokenizer",
    "Fits a tokenizer:  python -m recon.tokenizer data=imagenette data.root=PATH model.patch_size=8 kind=vq out=FILE",
    TokenizerSettings,
)


def fit_tokenizer(settings: TokenizerSettings, given: frozenset[str] = frozenset()) -> int:
    """Fits what the settings say, writes it and prints; returns 0.

    Raises:
        InvalidSetting: a setting that cannot be used, or fewer training patches than codes; nothing is written then.
    """
    out = check(settings)
    from recon.data import StreamedSource, create_dataset
    from recon.model.fitted_files import FittedOn, to_bytes
    from recon.training.fitting import fit

    data, size, p = settings.data, settings.data.image_size, settings.model.patch_size
    source = create_dataset(str(data.name), "train", data.root, data.download)
    codes = None if settings.kind == "pca" else settings.codes
    state, words = fit(settings, source, size, p)
    images = None if isinstance(source, StreamedSource) else len(source)
    on = FittedOn(settings.kind, p, codes, str(data.name), images, tuple(source.mean), tuple(source.std))
    with write_atomically(out) as file:
        file.write(to_bytes(on, state))
    key = TAKEN_BY.get(settings.kind, "losses.tokens.tokenizer")
    loss = "pca" if settings.kind == "pca" else "tokens"
    print(f"{out}: {settings.kind}, {words}")
    follow = {"loss": loss, key: str(out), "data": data.name, "data.root": data.root, "model.patch_size": p}
    print(f"next       {command_line('pretrain', {k: v for k, v in follow.items() if v is not None})}")
    return 0


def check(settings: TokenizerSettings) -> Path:
    """What types cannot say; returns `out`.

    Raises:
        InvalidSetting: a value out of range or missing, in one line.
    """
    check_limits(settings)
    if settings.data.name is None or settings.out is None:
        raise InvalidSetting("say what to fit on and where to: data=NAME data.root=PATH out=FILE.safetensors")
    size, p = pixels(settings.data.image_size)[0], settings.model.patch_size
    if size % p:
        raise InvalidSetting(
            f"images of {size} pixels do not divide into patches of {p}; change data.image_size or model.patch_size"
        )
    out = Path(settings.out).expanduser()
    if out.exists() or not out.parent.is_dir():
        raise InvalidSetting(f"out={out} {'exists' if out.exists() else 'is in no folder'}; give a new file's name")
    check_writable(out.parent)
    return out


if __name__ == "__main__":
    run(fit_tokenizer, COMMAND)
