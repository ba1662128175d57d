"""What is fitted on training images before a run begins: principal components, and tokenizers."""

from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn
from tqdm import tqdm

from losses import InvalidSetting, chosen
from losses.posterior import PrincipalComponents
from losses.reconstruction import patchify
from losses.tokenizers import TOKENIZERS, Tokenizer, VQTokenizer
from recon.config import Settings
from recon.data import Source, StreamedSource, evaluation_crop, in_random_order
from recon.model import MaskedAutoencoder
from recon.model.fitted import FittedComponents, TokensTarget
from recon.model.fitted_files import FittedFile, read
from recon.training.device import make_fabric
from recon.training.initialisation import Start
from recon.training.vector_quantisation import train_vq

COMPONENT_IMAGES = 256
CODEBOOK_IMAGES = 1024
CODEBOOK_VECTORS = 2**16  # at most, of all patches of those images


class Wanted(Protocol):
    """Settings of recon.tokenizer."""

    kind: str
    codes: int
    steps: int
    images: int
    seed: int
    device: str


def fitted_state(
    layers: nn.Module, source: Source | StreamedSource, model: MaskedAutoencoder, seed: int
) -> dict[str, Tensor]:
    """The tensors, by name, of the model's `layers` that are fitted on training images; none where nothing is.

    Raises:
        InvalidSetting: there are fewer training patches than codes, or a network is asked for, which takes long.
    """
    if isinstance(layers, FittedComponents):
        images = standardised_images(source, model.image_size, COMPONENT_IMAGES, seed, model.mean, model.std)
        return PrincipalComponents.fit(patchify(images, model.patch_size).flatten(0, 1))._asdict()
    if isinstance(layers, TokensTarget):
        if isinstance(layers.tokenizer, VQTokenizer):
            raise InvalidSetting(
                "losses.tokens.tokenizer=vq is trained beforehand: python -m recon.tokenizer kind=vq out=FILE; then "
                "give losses.tokens.tokenizer=FILE"
            )
        images = standardised_images(source, model.image_size, CODEBOOK_IMAGES, seed, model.mean, model.std)
        fit_codebook(layers.tokenizer, patchify(images, model.patch_size).flatten(0, 1), seed, "losses.tokens.codes")
        return {"tokenizer.codebook": layers.tokenizer.codebook}
    return {}


def fit(wanted: Wanted, source: Source | StreamedSource, size: int, patch_size: int) -> tuple[dict[str, Tensor], str]:
    """What recon.tokenizer writes: tensors by the names that they have in a model's target; and words for people.

    Raises:
        InvalidSetting: fewer training patches than codes, patches that the kind cannot divide, no such device.
    """
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (source.mean, source.std))
    at_most = min(wanted.images, COMPONENT_IMAGES) if wanted.kind == "pca" else wanted.images
    device = make_fabric(wanted.device, "fp32").device
    images = standardised_images(source, (size, size), at_most, wanted.seed, mean, std)
    patches = patchify(images, patch_size)
    if wanted.kind == "pca":
        basis = PrincipalComponents.fit(patches.flatten(0, 1))
        return basis._asdict(), f"{len(basis.axes)} components of {len(images)} images"
    torch.manual_seed(wanted.seed)
    tokenizer = TOKENIZERS[wanted.kind](wanted.codes, patch_size)
    if isinstance(tokenizer, VQTokenizer):
        check_count(wanted.codes, patches.shape[0] * patches.shape[1], "patches", "codes")
        tokenizer.to(device)
        training = train_vq(tokenizer, images.to(device), wanted.steps, wanted.seed)
        for _ in tqdm(training, total=wanted.steps, unit="step", disable=None):
            pass
        tokenizer.cpu()
    else:
        fit_codebook(tokenizer, patches.flatten(0, 1), wanted.seed, "codes")
    tokens = tokenizer.tokens(some := patches[:64])
    drawn = tokenizer.pixels(tokenizer.codebook[tokens], (size // patch_size, size // patch_size))
    share = (drawn - some).square().mean() / (some - some.mean((0, 1))).square().mean()
    state = {f"tokenizer.{name}": tensor for name, tensor in tokenizer.state_dict().items()}
    return state, (
        f"{wanted.codes} codes of {len(images)} images; {len(some)} of these use {len(tokens.unique())} codes, and are "
        f"drawn with {float(share):.1%} of their variance as squared error"
    )


def standardised_images(
    source: Source | StreamedSource, size: tuple[int, int], count: int, seed: int, mean: Tensor, std: Tensor
) -> Tensor:
    """So many training images at most, cut as held-out ones are: (n, 3, H, W)."""
    crops = [
        evaluation_crop(image, size, native=source.native) for image in islice(in_random_order(source, seed), count)
    ]
    return (torch.stack(crops).float() / 255 - mean) / std


def fit_codebook(tokenizer: Tokenizer, patches: Tensor, seed: int, setting: str) -> None:
    """Sets the codebook to the centres of k-means over patches (n, P), or over what the tokenizer takes of them.

    Raises:
        InvalidSetting: there are fewer of these than codes.
    """
    codes, per_patch = len(tokenizer.codebook), tokenizer.per_patch
    order = torch.randperm(len(patches), generator=torch.Generator().manual_seed(seed))
    vectors = tokenizer.vectors(patches[order[: CODEBOOK_VECTORS // per_patch]]).flatten(0, 1)
    check_count(codes, len(vectors), "patches" if per_patch == 1 else "squares in their patches", setting)
    means = MiniBatchKMeans(codes, batch_size=4096, n_init="auto", random_state=seed % 2**32).fit(vectors.numpy())
    tokenizer.codebook.copy_(torch.from_numpy(means.cluster_centers_))


def check_count(codes: int, found: int, what: str, setting: str) -> None:
    """Raises InvalidSetting where there are fewer training patches than codes."""
    if found < codes:
        raise InvalidSetting(f"{setting}={codes}, but the training images have {found} {what}; give at most these")


def given_files(settings: Settings, given: frozenset[str]) -> dict[str, FittedFile]:
    """Files of recon.tokenizer that the settings name, by term. A tokenizer's setting becomes its kind, and the codes
    the file's: a run has all that was in the file, and goes on without it.

    Raises:
        InvalidSetting: a file that cannot be read or is of another kind, or other codes were asked for.
    """
    tokens, basis, files = settings.losses.tokens, settings.losses.pca.basis, {}
    if tokens.tokenizer not in TOKENIZERS:
        path, key = Path(tokens.tokenizer).expanduser(), "losses.tokens.tokenizer"
        if not path.exists():
            chosen(key, tokens.tokenizer, [*TOKENIZERS, "a file of recon.tokenizer"])
        files["tokens"] = file = read(path, key, "tokens")
        if "losses.tokens.codes" in given and tokens.codes != file.on.codes:
            raise InvalidSetting(f"losses.tokens.codes={tokens.codes}, but {path} has {file.on.codes}; leave it out")
        tokens.tokenizer, tokens.codes = file.on.kind, file.on.codes
    if basis is not None and not settings.resume:
        files["pca"] = read(Path(basis).expanduser(), "losses.pca.basis", "pca")
    return files


def state_from_file(
    file: FittedFile, settings: Settings, source: Source | StreamedSource, model: MaskedAutoencoder, start: Start | None
) -> dict[str, Tensor]:
    """The tensors of a file, once it is sure that it suits a run.

    Raises:
        InvalidSetting: it was fitted on other patches or data, or the kept decoder of `start` predicts its own target.
    """
    if start is not None and start.keep_decoder and start.checkpoint.target == model.head.decoder:
        raise InvalidSetting(
            f"init={start.source} brings the target that its decoder predicts, and {file.path} is another; leave it "
            "out, or give init_decoder=new"
        )
    images = None if isinstance(source, StreamedSource) else len(source)
    mean, std = model.mean.flatten().tolist(), model.std.flatten().tolist()
    file.check(model.patch_size, str(settings.data.name), images, mean, std)
    return file.state
