"""What a checkpoint says, whoever wrote it."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from losses import FlowHead, InvalidSetting, MixtureHead, NormalisedPixelHead, PixelHead
from losses.statistics import IMAGENET_MEAN, IMAGENET_STD
from recon.model import SIZES, MaskedAutoencoder

PIXELS, NORMALISED = PixelHead.name, NormalisedPixelHead.name
NORM_EPS = 1e-6  # of the official code, timm and MaskedAutoencoder
TARGETS = {"pixels": PIXELS, "normalised": NORMALISED, NORMALISED: NORMALISED}

WORDS = {
    "official": "official MAE code",
    "timm": "timm",
    "huggingface": "Hugging Face ViTMAE",
    "recon": "this project",
}
FORMATS = tuple(WORDS)


class OraclePixelHead(NormalisedPixelHead):
    """P pixels normalised per patch and nothing that undoes it: only the oracle can draw them."""

    statistics = 0


def distribution_head(options: dict[str, Any]) -> PixelHead:
    """The head of a name and its options."""
    return {head.name: head for head in (FlowHead, MixtureHead)}[options["name"]](
        **{key: value for key, value in options.items() if key != "name"}
    )


@dataclass(frozen=True)
class Architecture:
    """Sizes of a masked autoencoder; `image_size` is (H, W). Those of the decoder are None where there is none.

    `refiner_width`: channels of `recon.model.layers`, which this project's models alone may have; 0: none.

    `distribution`: of a head that predicts one (also this project's alone), its name and options.

    `norm_eps`: what every LayerNorm adds to a variance. transformers' configurations say 1e-12 where the official code
    has 1e-6; a class token of small variance comes out otherwise by 1e-3.
    """

    width: int
    depth: int
    heads: int
    patch_size: int
    image_size: tuple[int, int]
    decoder_width: int | None = None
    decoder_depth: int | None = None
    decoder_heads: int | None = None
    mask_tokens: str = "decoder"
    norm_eps: float = NORM_EPS
    refiner_width: int = 0
    distribution: dict[str, Any] | None = None

    @property
    def grid(self) -> tuple[int, int]:
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def name(self) -> str | None:
        """The size of `recon.model.SIZES` that has this encoder."""
        own = (self.width, self.depth, self.heads)
        return next((name for name, s in SIZES.items() if (s["width"], s["depth"], s["heads"]) == own), None)


@dataclass(frozen=True)
class Checkpoint:
    """A masked autoencoder as a file holds it.

    Args:
        state: tensors by the official names, bit for bit and in the precision of the file, its positions too.
        format: of `FORMATS`.
        target: "pixels" or "normalised pixels", what the decoder was trained for; None: the file cannot tell.
        sha256: of the file, 64 hexadecimal digits.
        mean, std: per channel; images are standardised by them.
        notes: what had to be assumed, a line each.
    """

    state: dict[str, Tensor] = field(repr=False)
    format: str
    has_decoder: bool
    target: str | None
    architecture: Architecture
    sha256: str
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    notes: tuple[str, ...] = ()

    @property
    def has_statistics(self) -> bool:
        """Whether normalised patches can be drawn without the truth's help."""
        return any(name.startswith("statistics.") for name in self.state)

    def model(self) -> MaskedAutoencoder:
        """The model, in evaluation and on the CPU; a decoder that the file does not have is fresh and small."""
        a = self.architecture
        head = distribution_head(a.distribution) if a.distribution else PixelHead()
        if self.target == NORMALISED:
            head = NormalisedPixelHead() if self.has_statistics else OraclePixelHead()
        with torch.random.fork_rng(devices=[]):  # drawing weights that are replaced at once moves no generator
            model = MaskedAutoencoder(
                image_size=a.image_size,
                patch_size=a.patch_size,
                width=a.width,
                depth=a.depth,
                heads=a.heads,
                decoder_width=a.decoder_width or 32,
                decoder_depth=a.decoder_depth or 1,
                decoder_heads=a.decoder_heads or 1,
                head=head,
                mask_tokens=a.mask_tokens,
                refiner_width=a.refiner_width,
                mean=self.mean,
                std=self.std,
            )
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = a.norm_eps
        model.load_state_dict(self.state, strict=self.has_decoder)
        return model.eval()

    def for_target(self, target: str | None, where: Path) -> "Checkpoint":
        """The same where nothing is said; else with the target that the file itself cannot tell.

        Raises:
            InvalidSetting: no such target, or the file says another one.
        """
        if target is None:
            return self
        if target not in TARGETS:
            raise InvalidSetting(f"target={target}: choose target=pixels or target=normalised")
        if not self.has_decoder:
            raise InvalidSetting(f"{where} holds no decoder, and so has no target; leave out target={target}")
        if self.target not in (None, TARGETS[target]):
            raise InvalidSetting(f"{where} says itself that its target is {self.target}; leave out target={target}")
        return replace(self, target=TARGETS[target])

    def described(self) -> dict[str, str]:
        """What a person wants to know of it: word -> sentence."""
        a = self.architecture
        encoder = f"{a.depth} blocks of width {a.width}, {a.heads} heads" + (f" (ViT-{a.name})" if a.name else "")
        size = f"images of {a.image_size[0]}x{a.image_size[1]}, patches of {a.patch_size}"
        if not self.has_decoder:
            decoder, target = "none: it can be probed, and draws nothing", "none"
        else:
            decoder = f"{a.decoder_depth} blocks of width {a.decoder_width}, {a.decoder_heads} heads"
            decoder += f", a refiner of width {a.refiner_width}" if a.refiner_width else ""
            decoder += f", beside it what draws by {a.distribution['name']}" if a.distribution else ""
            target = self.target or "not to be seen in the file; give target=pixels or target=normalised"
        return {
            "format": WORDS[self.format],
            "encoder": f"{encoder}; {size}",
            "decoder": decoder,
            "target": target,
            **({"notes": "; ".join(self.notes)} if self.notes else {}),
        }
