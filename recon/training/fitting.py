"""What is fitted on training images before a run begins: principal components, and codebooks of tokens."""

from itertools import islice

import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn

from losses import InvalidSetting
from losses.posterior import PrincipalComponents
from losses.reconstruction import patchify
from losses.tokenizers import Tokenizer
from recon.data import Source, StreamedSource, evaluation_crop, in_random_order
from recon.model import MaskedAutoencoder
from recon.model.targets import FittedComponents, TokensTarget

COMPONENT_IMAGES = 256
CODEBOOK_IMAGES = 1024
CODEBOOK_VECTORS = 2**16  # at most, of all patches of those images


def fitted_state(
    layers: nn.Module, source: Source | StreamedSource, model: MaskedAutoencoder, seed: int
) -> dict[str, Tensor]:
    """The tensors, by name, of the model's `layers` that are fitted on training images; none where nothing is.

    Raises:
        InvalidSetting: there are fewer training patches than codes.
    """
    if isinstance(layers, FittedComponents):
        patches = training_patches(source, model, COMPONENT_IMAGES, seed)
        return PrincipalComponents.fit(patches)._asdict()
    if isinstance(layers, TokensTarget):
        patches = training_patches(source, model, CODEBOOK_IMAGES, seed)
        return {"tokenizer.codebook": codebook(layers.tokenizer, patches, seed)}
    return {}


def training_patches(source: Source | StreamedSource, model: MaskedAutoencoder, images: int, seed: int) -> Tensor:
    """Patches of so many training images, cut as held-out ones are and standardised as the model does: (n, P)."""
    crops = [
        evaluation_crop(image, model.image_size, native=source.native)
        for image in islice(in_random_order(source, seed), images)
    ]
    standardised = (torch.stack(crops).float() / 255 - model.mean) / model.std
    return patchify(standardised, model.patch_size).flatten(0, 1)


def codebook(tokenizer: Tokenizer, patches: Tensor, seed: int) -> Tensor:
    """The centres of k-means over patches (n, P), or over what the tokenizer takes of them: (K, D)."""
    codes, per_patch = len(tokenizer.codebook), tokenizer.per_patch
    order = torch.randperm(len(patches), generator=torch.Generator().manual_seed(seed))
    vectors = tokenizer.vectors(patches[order[: CODEBOOK_VECTORS // per_patch]]).flatten(0, 1)
    if len(vectors) < codes:
        what = "patches" if per_patch == 1 else "squares in their patches"
        raise InvalidSetting(
            f"losses.tokens.codes={codes}, but the training images have {len(vectors)} {what}; give at most these"
        )
    means = MiniBatchKMeans(codes, batch_size=4096, n_init="auto", random_state=seed % 2**32).fit(vectors.numpy())
    return torch.from_numpy(means.cluster_centers_).float()
