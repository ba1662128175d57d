"""Command: checkpoints of others read, and one's own written for others."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from losses import InvalidSetting, nearest, option
from recon.cli import Command, run
from recon.run_folder import CONFIG


@dataclass
class ConvertSettings:
    input: str | None = option(None, "checkpoint: a file, a folder of transformers or timm, or a run")
    out: str | None = option(None, "where to write; null: only say what the checkpoint is")
    format: str | None = option(
        None, "official, timm, transformers, recon; null: .safetensors recon, .pth official, a folder transformers"
    )
    target: str | None = option(None, "pixels or normalised: the decoder's target, where the checkpoint cannot tell")


COMMAND = Command(
    "convert",
    "Converts a checkpoint:  python -m recon.convert input=mae_pretrain_vit_base.pth out=vitb.safetensors",
    ConvertSettings,
)


def convert(settings: ConvertSettings, given: frozenset[str] = frozenset()) -> int:
    """Reads a checkpoint, says what it is, and writes it in another format.

    Raises:
        InvalidSetting: nothing to read, or it cannot be read or written; then nothing has been written.
    """
    from recon.model.formats import FORMATS, format_for, read, write
    from recon.run_folder import check_writable

    if settings.input is None:
        raise InvalidSetting("give the checkpoint: input=mae_pretrain_vit_base.pth (and out=vitb.safetensors)")
    if settings.format is not None and settings.format not in FORMATS:
        renamed = settings.format == "huggingface"
        suggestion = "; it is now called 'transformers'" if renamed else nearest(settings.format, FORMATS)
        raise InvalidSetting(f"unknown format '{settings.format}'{suggestion} (formats: {', '.join(FORMATS)})")
    out = None if settings.out is None else Path(settings.out)
    form = settings.format or (format_for(out) if out else None)
    if out and out.exists():  # said before a gigabyte is read
        raise InvalidSetting(f"{out} exists; choose another out=, or remove it first")
    if out:
        check_writable(out.parent)
    checkpoint = read(Path(settings.input), settings.target)
    card = None
    if out and form == "transformers" and (Path(settings.input) / CONFIG).is_file():
        from recon.loaded_run import load_run
        from recon.model_card import model_card

        card = partial(model_card, load_run(Path(settings.input)), out)
    left_out = write(checkpoint, out, form, card) if out and form else []
    lines = {"read": f"{settings.input}   (sha256 {checkpoint.sha256[:16]})"} | checkpoint.description()
    if out:
        lines["wrote"] = f"{out}   ({form})"
        if card:
            lines["card"] = f"{out / 'README.md'}   (a model card; say the licence before you publish it)"
    if left_out:
        lines["left out"] = "; ".join(f"{what}: format={form} has no place for it" for what in left_out)
    print("\n".join(f"{word:<10} {text}" for word, text in lines.items()))
    return 0


if __name__ == "__main__":
    run(convert, COMMAND)
