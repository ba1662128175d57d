"""The model that a run starts with: random, or with the weights that `init=` names, and a record of what was taken."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from losses import TERMS, InvalidSetting, PixelHead, head_of
from recon import config
from recon.config import Settings
from recon.distributed import Ranks
from recon.model import DECODER_HEAD_WIDTH, SIZES, MaskedAutoencoder, create_model
from recon.model.bundled import BUNDLED, NAMES, SHARPENED, bundled
from recon.model.formats import FORMATS, Architecture, Checkpoint, read
from recon.model.formats.architecture import NORM_EPS
from recon.model.mae import EXTRA_LAYERS, decoder_prefixes
from recon.saved_settings import flat


def make_model(settings: Settings, head: PixelHead, mean: Sequence[float], std: Sequence[float]) -> MaskedAutoencoder:
    """The model of the settings, with random weights."""
    model = create_model(
        settings.model.name,
        image_size=config.image_size(settings),
        patch_size=settings.model.patch_size,
        decoder_width=settings.model.decoder_width,
        decoder_depth=settings.model.decoder_depth,
        class_tokens=settings.model.class_tokens,
        mask_tokens=settings.model.mask_tokens,
        refiner_width=settings.model.refiner_width if type(head) is PixelHead else 0,
        mask_strategy=config.masking_name(settings.masking),
        mask_ratio=settings.masking.ratio,
        gradient_checkpointing=settings.model.gradient_checkpointing,
        head=head,
        mean=mean,
        std=std,
    )
    if settings.compile:
        model.predict = torch.compile(model.predict)
    return model


def losses_of(settings: Settings) -> dict[str, Any]:
    """Every term's options."""
    return {name: getattr(settings.losses, name) for name in TERMS}


@dataclass(frozen=True)
class Start:
    """A checkpoint that a run starts with."""

    source: str  # what the user gave
    checkpoint: Checkpoint
    keep_decoder: bool  # whether its decoder is taken too
    reason: str  # why it is, or is not
    sharpened: Checkpoint | None = None  # of the bundled model, what long training behind it made

    def fill(self, model: MaskedAutoencoder) -> dict[str, Any]:
        """Puts the weights in; what is not taken stays as it was drawn. Returns the record of both."""
        own = model.state_dict()
        offered = {n: t for n, t in self.checkpoint.state.items() if self.keep_decoder or not self._of_decoder(n)}
        kept = {name: tensor for name, tensor in offered.items() if name in own and own[name].shape == tensor.shape}

        def lacks(part: str) -> bool:
            return any(name.startswith(part) and name not in kept for name in own)

        # Whole, or not at all; and the decoder's last layer predicts what the target says.
        dropped = ("distribution.",) if lacks("distribution.") else ()
        dropped += ("target.", "decoder_pred.") if lacks("target.") else ()
        kept = {name: tensor for name, tensor in kept.items() if not name.startswith(dropped)}
        model.load_state_dict(kept, strict=False)
        eps = self.checkpoint.architecture.norm_eps
        return {
            "source": self.source,
            "format": self.checkpoint.format,
            "sha256": self.checkpoint.sha256,
            "taken": self._parts(kept),
            "new": self._parts(name for name in own if name not in kept),
            "left_out": self._parts(name for name in offered if name not in kept),
            "decoder": self.reason,
            "notes": [] if eps == NORM_EPS else [f"norms add {NORM_EPS} to a variance, where the checkpoint has {eps}"],
            "mean": list(self.checkpoint.mean),
            "std": list(self.checkpoint.std),
        }

    def brings_target(self, model: MaskedAutoencoder) -> bool:
        """Whether the decoder is taken, and with it all that the model's target was fitted to."""
        own = {name: tensor.shape for name, tensor in model.state_dict().items() if name.startswith("target.")}
        theirs = {name: self.checkpoint.state[name].shape for name in own if name in self.checkpoint.state}
        return self.keep_decoder and bool(own) and own == theirs

    def beside(self, model: MaskedAutoencoder) -> dict[str, MaskedAutoencoder]:
        """Models whose reconstructions are shown beside those of `model`, under the same masks, by their titles."""
        if self.sharpened is None or model.corruption is not None:
            return {}
        if self.sharpened.architecture.image_size != model.image_size:
            return {}
        other = self.sharpened.model()
        other.mask_ratio = model.mask_ratio
        return {f"sharpened for long\n({SHARPENED})": other}

    def _of_decoder(self, name: str) -> bool:
        return name.startswith(decoder_prefixes(self.checkpoint.architecture.mask_tokens))

    def _parts(self, names: Iterable[str]) -> list[str]:
        """The model's parts that tensors belong to, each once: encoder, decoder, and those beside it by name."""
        found = set()
        for name in names:
            if name not in ("pos_embed", "decoder_pos_embed"):  # a formula
                first = name.partition(".")[0]
                of = "decoder" if self._of_decoder(name) else "encoder"
                found.add(first if f"{first}." in EXTRA_LAYERS else of)
        return [part for part in ("encoder", "decoder") if part in found] + sorted(found - {"encoder", "decoder"})


def load_start(settings: Settings, given: frozenset[str], ranks: Ranks) -> Start | None:
    """`find_start` on every rank; then says that a refiner is left out where the objective does not predict pixels.

    Raises InvalidSetting where one was asked for.
    """
    head = head_of(settings.loss, **losses_of(settings))
    start = ranks.rank_zero_first(lambda: find_start(settings, given, head))
    if settings.model.refiner_width and type(head) is not PixelHead:
        if "model.refiner_width" in given or settings.train.parts == "refiner":
            raise InvalidSetting(
                f"model.refiner_width={settings.model.refiner_width}: a refiner corrects pixels, and "
                f"{settings.loss} predicts {head.name}; leave it out"
            )
        ranks.print0(f"no refiner: it corrects pixels, and {settings.loss} has a head of its own ({head.name})")
    config.check(settings, ranks.count)  # again, with the sizes of the checkpoint
    return start


def find_start(settings: Settings, given: frozenset[str], head: PixelHead) -> Start | None:
    """The checkpoint of `init=`, and the settings made to fit it; None where the run starts with random weights.

    Sizes that were not `given`, by the user or a preset, are the checkpoint's. Images may have another size than it was
    trained on, since positions are a formula. `head`: what the objective wants of the decoder.

    Raises InvalidSetting where there is no such checkpoint, it has other sizes than were asked for, or no decoder.
    """
    if settings.init == "none":
        return None
    path = Path(settings.init)
    carried = settings.init in NAMES and not path.exists()
    checkpoint = bundled(settings.init) if carried else read(path)
    keep, reason = _decoder_kept(settings, checkpoint, head)
    _adopt_sizes(settings, _chosen(settings, given), checkpoint.architecture, keep)
    if settings.train.parts == "refiner":
        if not keep:
            raise InvalidSetting(f"train.parts=refiner corrects a decoder that is kept, and here it is {reason}")
        if not settings.model.refiner_width:
            raise InvalidSetting(
                f"{settings.init} has no refiner to train alone; give it one by model.refiner_width=32"
            )
    if settings.train.parts == "head":
        if not head.renderings or head.decoder != PixelHead.decoder:
            raise InvalidSetting(
                f"train.parts=head trains what draws from a distribution, and {settings.loss} predicts {head.name}; "
                "use loss=flow or loss=mixture"
            )
        if not keep:
            raise InvalidSetting(f"train.parts=head trains beside a decoder that is kept, and here it is {reason}")
    sharpened = bundled(SHARPENED) if carried and settings.init == BUNDLED else None
    return Start(settings.init, checkpoint, keep, reason, sharpened)


def described(record: dict[str, Any]) -> str:
    """One line of what a run begins with."""
    whose = f"{record['source']} ({FORMATS[record['format']]}, sha256 {record['sha256'][:12]})"
    parts = [f"{', '.join(record['taken'])} of {whose}"]
    parts += [f"drawn anew: {', '.join(record['new'])}"] if record["new"] else []
    parts += [f"left out: {', '.join(record['left_out'])}"] if record["left_out"] else []
    return "; ".join([*parts, f"decoder {record['decoder']}", *record["notes"]])


def _decoder_kept(settings: Settings, checkpoint: Checkpoint, head: PixelHead) -> tuple[bool, str]:
    """Whether the checkpoint's decoder is taken, and why."""
    asked, target = settings.init_decoder, checkpoint.target
    if not checkpoint.has_decoder:
        if asked == "keep":
            raise InvalidSetting(f"{settings.init} holds no decoder to be kept; leave out init_decoder=keep")
        if settings.train.parts == "decoder" and asked != "new":
            raise InvalidSetting(
                f"{settings.init} holds no decoder, and train.parts=decoder trains one from there; "
                "give init_decoder=new to train a new one"
            )
        return False, "new, for there is none"
    if asked == "new":
        return False, "new, as init_decoder says"
    if asked == "keep":
        return True, "kept, as init_decoder says" + ("" if target == head.decoder else f", though it predicts {target}")
    if target is None:
        return False, "new, for the file does not say what it predicts (init_decoder=keep takes it)"
    if target != head.decoder:
        return False, f"new, for it predicts {target}, and this objective wants {head.decoder}"
    return True, f"kept, for it predicts {target}"


def _adopt_sizes(settings: Settings, chosen: set[str], a: Architecture, keep: bool) -> None:
    """Takes the checkpoint's sizes where none were `chosen`."""
    model, where = settings.model, settings.init
    if a.name is None:
        raise InvalidSetting(f"init={where}: its encoder is none of this program's sizes ({', '.join(SIZES)})")
    theirs = {name: getattr(a, name) for name in ("name", "patch_size", "mask_tokens", "class_tokens")}
    if keep:
        theirs |= {"decoder_width": a.decoder_width, "decoder_depth": a.decoder_depth}
        if a.decoder_heads != (heads := (a.decoder_width or 0) // DECODER_HEAD_WIDTH):
            raise InvalidSetting(
                f"init={where}: its decoder has {a.decoder_heads} heads, here one of its width has {heads}; "
                "give init_decoder=new"
            )
    for name, value in theirs.items():
        asked = getattr(model, name)
        if f"model.{name}" not in chosen or asked is None:
            setattr(model, name, None if SIZES[a.name].get(name) == value else value)
        elif asked != value:
            how = "leave it out" + (", or give init_decoder=new" if name.startswith("decoder") else "")
            raise InvalidSetting(f"model.{name}={asked}, but {where} has {value}; {how}")
    if "model.refiner_width" not in chosen and keep:
        model.refiner_width = a.refiner_width
    if "data.image_size" not in chosen:
        settings.data.image_size = a.image_size[0] if a.image_size[0] == a.image_size[1] else list(a.image_size)


def _chosen(settings: Settings, given: frozenset[str]) -> set[str]:
    """Keys that the user set, by himself or by a preset."""
    keys = set(given)
    if "preset" in given:
        defaults = {s.key: s.default for s in config.every_setting()}
        keys |= {key for key, value in flat(settings).items() if value != defaults[key]}
    return keys
