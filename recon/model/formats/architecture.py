"""The sizes of a masked autoencoder, and its checkpoint, in whatever format it is stored."""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from losses import TERMS, InvalidSetting, NormalisedPixelHead, PixelHead
from losses.reconstruction import IMAGENET_MEAN, IMAGENET_STD
from recon.model import SIZES, MaskedAutoencoder
from recon.model.mae import decoder_prefixes

PIXELS, NORMALISED = PixelHead.name, NormalisedPixelHead.name
TARGETS = {"pixels": PIXELS, "normalised": NORMALISED, NORMALISED: NORMALISED}
NORM_EPS = 1e-6  # of the official code, timm and MaskedAutoencoder
FORMATS = {
    "official": "official MAE code",
    "timm": "timm",
    "transformers": "Hugging Face ViTMAE",
    "recon": "this project",
}
FACTS = "recon"  # the key under which a file of this program describes itself, as one line of JSON
VERSION = 1


class OraclePixelHead(NormalisedPixelHead):
    """P pixels normalised per patch, without predicted statistics: only the oracle can render them."""

    statistics = 0


def head_named(name: str, options: Any = None) -> PixelHead:
    """The head that runs and files record by its name; one that belongs to a term, with options of that term."""
    if name in (PIXELS, NORMALISED):
        return PixelHead() if name == PIXELS else NormalisedPixelHead()
    term = TERMS[name]
    return term.head_of(options if isinstance(options, term.Options) else term.Options(**options))


@dataclass(frozen=True)
class Architecture:
    """Sizes of a masked autoencoder. Those of the decoder are None where there is none."""

    width: int
    depth: int
    heads: int
    patch_size: int
    image_size: tuple[int, int]  # (H, W)
    decoder_width: int | None = None
    decoder_depth: int | None = None
    decoder_heads: int | None = None
    mask_tokens: str = "decoder"
    class_tokens: int = 1
    # Of every LayerNorm. transformers' configurations say 1e-12 where the official code has 1e-6; that changes a class
    # token of small variance by 1e-3.
    norm_eps: float = NORM_EPS
    # Of this project's models alone: channels of the refiner, 0 for none; name and options of a head that is neither
    # of pixels nor of normalised ones.
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

    def build(self, head: PixelHead | None = None, **statistics: Any) -> MaskedAutoencoder:
        """A model of these sizes and `statistics`, mean and std; a decoder that is not there is new and small. The
        head is by default `own_head`."""
        head = head or self.own_head
        sizes: dict[str, Any] = {
            f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("norm_eps", "distribution")
        }
        for name, smallest in (("decoder_width", 32), ("decoder_depth", 1), ("decoder_heads", 1)):
            sizes[name] = sizes[name] or smallest
        model = MaskedAutoencoder(head=head, **sizes, **statistics)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = self.norm_eps
        return model

    @property
    def own_head(self) -> PixelHead:
        """That of `distribution`, or of pixels."""
        options = dict(self.distribution or {"name": PIXELS})
        return head_named(options.pop("name"), options)

    def shapes(self, statistics: bool = False) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor that a model of these sizes has, by its official name; with `statistics` it also
        predicts those of normalised patches."""
        with torch.device("meta"):  # allocates nothing, and draws from no generator
            state = self.build(NormalisedPixelHead() if statistics else None).state_dict()
        other = () if self.decoder_width else decoder_prefixes("decoder")
        return {name: tuple(tensor.shape) for name, tensor in state.items() if not name.startswith(other)}


@dataclass(frozen=True)
class Checkpoint:
    """A masked autoencoder as a file holds it.

    Args:
        state: tensors by the official names, bit for bit and in the precision of the file, positions included.
        format: of `FORMATS`.
        target: what the decoder was trained for, "pixels", "normalised pixels", or another head's `decoder`; None: the
            file does not say.
        sha256: of the file, 64 hexadecimal digits.
        mean, std: per channel; images are standardised by them.
        notes: what had to be assumed, a line each.
        classifier: whether it was fine-tuned with labels, and learnt its positions.
        mask_ratio: share of the patches that was hidden in training; None: the file does not say.
        verified: whether a digest or checksums in the file vouch for its bytes.
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
    classifier: bool = False
    mask_ratio: float | None = None
    verified: bool = True

    @property
    def has_statistics(self) -> bool:
        """Whether normalised patches can be rendered without the truth's help."""
        return any(name.startswith("statistics.") for name in self.state)

    def model(self) -> MaskedAutoencoder:
        """The model, in evaluation and on the CPU; a decoder that the file does not have is new and small."""
        head = None
        if self.target == NORMALISED:
            head = NormalisedPixelHead() if self.has_statistics else OraclePixelHead()
        with torch.random.fork_rng(devices=[]):  # the random weights are replaced at once
            model = self.architecture.build(head, mean=self.mean, std=self.std)
        model.load_state_dict(self.state, strict=self.has_decoder)
        if self.classifier:
            model.pos_embed.copy_(self.state["pos_embed"])  # which `load_state_dict` leaves as they were
        return model.eval()

    def with_target(self, target: str | None, where: Path) -> "Checkpoint":
        """A copy with a target that the file itself does not say; InvalidSetting if it does say another one."""
        if target is None:
            return self
        if target not in TARGETS:
            raise InvalidSetting(f"target={target}: choose target=pixels or target=normalised")
        if not self.has_decoder:
            raise InvalidSetting(f"{where} holds no decoder, and so has no target; leave out target={target}")
        if self.target not in (None, TARGETS[target]):
            raise InvalidSetting(f"{where} says itself that its target is {self.target}; leave out target={target}")
        return replace(self, target=TARGETS[target])

    def description(self) -> dict[str, str]:
        """A summary for people: word -> sentence."""
        a = self.architecture
        encoder = f"{a.depth} blocks of width {a.width}, {a.heads} heads" + (f" (ViT-{a.name})" if a.name else "")
        size = f"images of {a.image_size[0]}x{a.image_size[1]}, patches of {a.patch_size}"
        if not self.has_decoder:
            decoder, target = "none: it can be probed, and draws nothing", "none"
        else:
            decoder = f"{a.decoder_depth} blocks of width {a.decoder_width}, {a.decoder_heads} heads"
            decoder += f", a refiner of width {a.refiner_width}" if a.refiner_width else ""
            if a.own_head.renderings:
                decoder += f", layers that draw from a distribution ({a.own_head.name})"
            target = self.target or "not said by the file; give target=pixels or target=normalised"
        return {
            "format": FORMATS[self.format],
            "encoder": f"{encoder}; {size}",
            "decoder": decoder,
            "target": target,
            "integrity": "by a digest in the file" if self.verified else "nothing in the file vouches for its bytes",
            **({"notes": "; ".join(self.notes)} if self.notes else {}),
        }

    def facts(self, format: str) -> str:
        """What a file in that format tells beside its tensors, which `read` reads back."""
        architecture = asdict(self.architecture)
        if format != "recon":
            architecture |= {"refiner_width": 0, "distribution": None}  # the others cannot store them
        facts = {"version": VERSION, "format": format, "target": self.target, "mean": self.mean, "std": self.std}
        return json.dumps(facts | {"mask_ratio": self.mask_ratio, "architecture": architecture})
