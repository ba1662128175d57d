"""Files of what was fitted on training images: tokenizers and principal components, with what they were fitted on."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from losses import InvalidSetting, tensor_files
from losses.posterior import PrincipalComponents
from losses.tokenizers import TOKENIZERS

FORMAT, VERSION = "recon.tokenizer", 1
KINDS = {"pca": ("pca",), "tokens": tuple(TOKENIZERS)}  # by the term that takes them


@dataclass(frozen=True)
class FittedOn:
    """What a file says of itself. `codes`: of a codebook; None for principal components. `images`: of the training
    data, None for a stream. `mean`, `std`: by which they were standardised."""

    kind: str
    patch_size: int
    codes: int | None
    data: str
    images: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class FittedFile:
    """A file as it was read: its tensors by the names that they have in a model's target."""

    path: Path
    on: FittedOn
    sha256: str
    state: dict[str, Tensor] = field(repr=False)

    def check(self, patch_size: int, data: str, images: int | None, mean: list[float], std: list[float]) -> None:
        """Raises InvalidSetting where a model has other patches, or images of another data set or standardised by other
        numbers."""
        if patch_size != self.on.patch_size:
            raise InvalidSetting(
                f"{self.path} was fitted on patches of {self.on.patch_size} pixels, and model.patch_size={patch_size}; "
                "fit another by recon.tokenizer"
            )
        own, theirs = ((on, n or "streamed") for on, n in ((self.on.data, self.on.images), (data, images)))
        if own != theirs:
            raise InvalidSetting(
                f"{self.path} was fitted on data={own[0]} with {own[1]} training images, and this is data={theirs[0]} "
                f"with {theirs[1]}; fit another by recon.tokenizer"
            )
        for what, ours, other in (("mean", self.on.mean, mean), ("deviation", self.on.std, std)):
            if any(abs(a - b) > 1e-6 for a, b in zip(ours, other, strict=True)):
                raise InvalidSetting(
                    f"{self.path} was fitted on pixels standardised by a {what} of {list(ours)}, and here it is "
                    f"{list(other)}; fit another by recon.tokenizer"
                )


def to_bytes(on: FittedOn, state: dict[str, Tensor]) -> bytes:
    """The file's content."""
    return tensor_files.to_bytes(state, {FORMAT: json.dumps({"version": VERSION} | asdict(on))})


def read(path: Path, key: str, term: str) -> FittedFile:
    """A file for a term, "tokens" or "pca", that is named by the setting `key`.

    Raises:
        InvalidSetting: there is none, it is damaged, or of another kind.
    """
    stored = tensor_files.read(path, "a file of recon.tokenizer")
    if FORMAT not in stored.metadata or not stored.verified:
        raise InvalidSetting(f"{key}={path} is no file of recon.tokenizer; make one: python -m recon.tokenizer --help")
    try:
        said: dict[str, Any] = json.loads(stored.metadata[FORMAT])
        if said.pop("version") != VERSION:
            raise InvalidSetting(f"{key}={path} was made by another version of this program; make it again")
        on = FittedOn(**said)
        if on.kind not in KINDS[term]:
            other = next((name for name, kinds in KINDS.items() if on.kind in kinds), None)
            raise InvalidSetting(
                f"{key}={path} is a file of kind={on.kind}, which loss={other} takes; give one of "
                f"kind={' or '.join(KINDS[term])}"
            )
        expected = empty_state(on)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        if isinstance(error, InvalidSetting):
            raise
        raise InvalidSetting(f"{key}={path} is damaged ({error}); make it again by recon.tokenizer") from error
    shapes = {name: tensor.shape for name, tensor in stored.content.items()}
    if shapes != {name: tensor.shape for name, tensor in expected.items()}:
        raise InvalidSetting(f"{key}={path} holds other tensors than it says; make it again by recon.tokenizer")
    return FittedFile(path, on, stored.sha256, tensor_files.tensors(stored.content))


def empty_state(on: FittedOn) -> dict[str, Tensor]:
    """Tensors of the right shapes, on the `meta` device."""
    with torch.device("meta"):
        if on.kind == "pca":
            return PrincipalComponents.identity(3 * on.patch_size**2)._asdict()
        tokenizer = TOKENIZERS[on.kind](int(on.codes or 0), on.patch_size)
        return {f"tokenizer.{name}": tensor for name, tensor in tokenizer.state_dict().items()}
