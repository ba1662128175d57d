"""Command: write a dataset to one file of shrunk images, which training reads without decoding."""

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from losses import InvalidSetting, check_limits, option
from recon.cli import Command, run
from recon.config import FRACTION, SIDE, WORKERS, _node
from recon.console import command_line, one_line
from recon.run_folder import check_writable


@dataclass
class PackedData:
    name: str | None = option(None, "dataset to pack, as recon.pretrain's; any but a stream (wds/NAME)")
    root: str | None = option(None, "folder that holds the data")
    download: bool = option(False, "fetch a missing public dataset")
    max_unreadable: float = option(
        0.01, "share of unreadable files that ends the packing; fewer are left out", **FRACTION
    )


@dataclass
class PackSettings:
    out: str | None = option(None, "file to write, both splits in one; it appears when it is whole")
    size: int = option(160, "pixels of the shorter side; smaller images are stored as they are", **SIDE)
    workers: int = option(0, "threads that read and resize; 0: one", **WORKERS)
    data: PackedData = _node(PackedData)


COMMAND = Command(
    "pack", "Packs a dataset:  python -m recon.pack data=imagenette data.root=PATH out=FILE", PackSettings
)


def pack_dataset(settings: PackSettings, given: frozenset[str] = frozenset()) -> int:
    """Packs a dataset as the settings say; prints; returns the exit status: 0, or 128 + N where signal N stopped it.

    Raises:
        InvalidSetting: a setting that cannot be used, too many unreadable files, a full disk. `out` is not there then.
    """
    name, out = check(settings)
    from tqdm import tqdm

    from recon.data import StreamedSource, create_dataset
    from recon.data.packed import Packed, pack
    from recon.training.loop import StopSignal

    sources, out, data = {}, Path(out).expanduser(), settings.data
    for split in ("train", "val"):
        sources[split] = create_dataset(name, split, data.root, data.download)
        if isinstance(sources[split], StreamedSource):
            raise InvalidSetting(f"data={name} is a stream, whose images have no names; it cannot be packed")
    for note in dict.fromkeys(note for source in sources.values() for note in source.notes):
        print(f"note       {note}")
    total = sum(len(source) for source in sources.values())
    unreadable: list[str] = []
    packing = pack(sources, name, out, settings.size, settings.workers)
    progress = tqdm(total=total, unit="image", disable=not sys.stderr.isatty())
    try:
        with closing(packing), progress, StopSignal() as stop:
            for images, lines in packing:
                progress.update(images)
                unreadable += lines
                if len(unreadable) > data.max_unreadable * total:
                    raise InvalidSetting(
                        f"{len(unreadable)} of {total} files cannot be read, more than data.max_unreadable="
                        f"{data.max_unreadable} allows; the last: {unreadable[-1]}"
                    )
                if stop.signal is not None:
                    print(f"stopped; {out} is not written")
                    return 128 + stop.signal
    except OSError as reason:
        raise InvalidSetting(f"{out} cannot be written: {reason.strerror}") from reason
    for line in unreadable:
        print(f"left out: {one_line(line)}")
    images = sum(len(Packed(split, out)) for split in sources)
    print(f"{out}: {images:,} images, {out.stat().st_size / 2**20:,.1f} MiB")
    follow = command_line("pretrain", {"preset": "demo", "data": "packed", "data.root": str(out)})
    print(f"next       {follow}")
    return 0


def check(settings: PackSettings) -> tuple[str, str]:
    """What types cannot say; returns the dataset's name and `out`.

    Raises:
        InvalidSetting: a value out of range or missing, in one line.
    """
    check_limits(settings)
    if settings.data.name is None or settings.out is None:
        raise InvalidSetting("say what to pack and where to: data=NAME data.root=PATH out=FILE")
    out = Path(settings.out).expanduser()
    if out.is_dir() or not out.parent.is_dir():
        raise InvalidSetting(f"out={out} {'is a folder' if out.is_dir() else 'is in no folder'}; give a file's name")
    check_writable(out.parent)
    return settings.data.name, settings.out


if __name__ == "__main__":
    run(pack_dataset, COMMAND)
