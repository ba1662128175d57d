"""What strangers hand in: expressions, pickles that would run code, names, and odd pictures."""

import io
import os
import pickle
import random
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from experiments.torture.damage import cut, flipped
from experiments.torture.trial import TINY, Trial, ask, fault_of, recon
from losses.expression import defaults, parse
from losses.options import TERM_OPTIONS
from recon.data.source import as_unreadable, read_rgb
from recon.loaded_run import open_run
from recon.model import create_model

PIECES = [
    *TERM_OPTIONS,
    "+",
    "*",
    "%",
    " ",
    "0.1",
    "1e-3",
    "1e999",
    "-1",
    "()",
    "ms",
    "_",
    "é",
    "\x1b[2J",
    "\n",
    "$",
    "inf",
]


def expressions(place: Path, cases: int, seed: int) -> Iterator[Trial]:
    """Random expressions: refused in one line, or written back as what parses to the same."""
    draw, known = random.Random(seed), defaults()
    for _ in range(100 * cases):
        text = "".join(draw.choices(PIECES, k=draw.randrange(9)))
        found, fault = ask(lambda text=text: parse(text, known))
        if found is not None and parse(str(found), known) != found:
            fault = f"written back as {found}"
        yield Trial(repr(text), fault)


CALLS: list[tuple[Any, tuple]] = [
    (os.system, ("touch {0}",)),
    (os.mkdir, ("{0}",)),
    (exec, ("open({0!r}, 'w')",)),
    (eval, ("open({0!r}, 'w')",)),
    (open, ("{0}", "w")),
    (io.open, ("{0}", "w")),
    (os.symlink, ("/", "{0}")),
    (Path.touch, (Path("{0}"),)),
    (torch.save, (1, "{0}")),
    (np.save, ("{0}", 1)),
]


class Reduced:
    """Pickles as a call."""

    def __init__(self, call: Any, arguments: tuple) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple:
        return self.call, self.arguments


def pickles(place: Path, cases: int, seed: int) -> Iterator[Trial]:
    """Checkpoints whose pickle calls something: nothing is called, whichever way the file was saved."""
    marker = place / "called"
    state = create_model("nano", image_size=(16, 16), patch_size=4).state_dict()
    for call, arguments in CALLS:
        filled = tuple(type(a)(str(a).format(str(marker))) if isinstance(a, str | Path) else a for a in arguments)
        for protocol in (2, 3, 4, 5):
            for modern in (True, False):
                file = place / "hostile.pth"
                page = {"model": state, "extra": Reduced(call, filled)}
                torch.save(page, file, pickle_protocol=protocol, _use_new_zipfile_serialization=modern)
                yield from unharmed(file, marker, f"{call.__name__}, protocol {protocol}, zip {modern}")
        file.write_bytes(pickle.dumps(Reduced(call, filled)))
        yield from unharmed(file, marker, f"{call.__name__}, a bare pickle")


def unharmed(file: Path, marker: Path, case: str) -> Iterator[Trial]:
    _, fault = ask(lambda: open_run(file))
    made = [path for path in (marker, marker.with_suffix(".npy")) if path.exists() or path.is_symlink()]
    for path in made:
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    yield Trial(case, "the call was made" if made else fault)


HOSTILE = [
    *(
        "<script>alert(1)</script>",
        "</script><img src=x onerror=alert(1)>",
        "a&amp;b",
        "'\"`",
        "${7*7}",
        "{{7*7}}",
        "%s%n",
    ),
    *(
        "=1+cmd|' /C calc'!A0",
        "@SUM(1)",
        "\x1b[2J\x1b[31m",
        "line\nbreak",
        "tab\tstop",
        "\u202egnp.exe",
        "e\u0301",
        "é",
        "日本",
    ),
    *(
        "a=b",
        "a,b",
        "#1",
        "it's",
        "my run (1)",
        "[x]",
        "~",
        "-rf",
        "--help",
        "a\\b",
        "$HOME",
        "$(id)",
        "`id`",
        "*",
        "?",
        "!x",
    ),
    *("x" * 200, " lead", "trail ", ".", "..", "con", "nul", "\udce9", "\x7f", "\u2028", "\ufeff"),
]


class Scripts(HTMLParser):
    """Counts elements by name."""

    def __init__(self) -> None:
        super().__init__()
        self.count: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1


def names(place: Path, cases: int, seed: int) -> Iterator[Trial]:
    """Picture files and runs of hostile names: every command works or refuses, and no page gets another element."""
    pictures = place / "pictures"
    pictures.mkdir()
    noise = np.random.default_rng(seed)
    for name in HOSTILE:
        path = os.fsencode(pictures) + b"/" + (name.replace("/", "_") + ".png").encode(errors="surrogateescape")
        with open(path, "wb") as file:
            Image.fromarray(noise.integers(0, 255, (24, 24, 3), np.uint8)).save(file, "png")
    quick = ["images=4", "batch=4", "training_images=16", "ratios=[]", "device=cpu"]
    folder = ["data=folder", f"data.root={pictures}"]
    yield Trial(
        "pretrain on pictures", fault_of(recon(place, "pretrain", *TINY, *folder, "train.steps=2", "name=plain"))
    )
    yield Trial("evaluate on pictures", fault_of(recon(place, "evaluate", "run=runs/plain", *quick)))
    alone = elements(place, ["runs/plain"], quick)
    for name in random.Random(seed).sample(HOSTILE, min(cases, len(HOSTILE))):
        name = name.replace("/", "_")
        done = recon(place, "pretrain", *TINY, "train.steps=2", "name='" + name.replace("'", "\\'") + "'")
        fault = fault_of(done)
        if fault is None and done.returncode == 0:
            found = elements(place, [f"runs/{name}"], quick)
            fault = found if isinstance(found, str) else fault
            if isinstance(found, dict) and found.get("script") != alone.get("script"):
                fault = f"{found.get('script')} scripts in the page, {alone.get('script')} in another"
        yield Trial(f"a run named {name!r}", fault)


def elements(place: Path, names: list[str], quick: list[str]) -> Any:
    """Elements of a comparison's page by name, or the fault of the command."""
    done = recon(place, "compare", *names, *quick, "out=page")
    if (fault := fault_of(done)) is not None or done.returncode:
        return fault or {}
    parser = Scripts()
    parser.feed((place / "page" / "index.html").read_text())
    return parser.count


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"]
WIDE = ("I", "F", "I;16", "I;16B")
FORMATS = ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "TGA", "ICO", "JPEG2000", "AVIF", "PCX", "SGI"]


def pictures(place: Path, cases: int, seed: int) -> Iterator[Trial]:
    """A grey ramp in every mode and format that Pillow writes: read as that ramp, or refused; then damaged files."""
    ramp = np.tile(np.linspace(0, 255, 64).round().astype(np.uint8), (64, 1))
    draw = random.Random(seed)
    for mode in MODES:
        for form in FORMATS:
            file = io.BytesIO()
            try:
                of_mode(ramp, mode).save(file, form)
            except (OSError, ValueError, KeyError, SystemError):
                continue  # Pillow does not write it
            if mode in WIDE and Image.open(file).mode not in WIDE:
                continue  # Pillow's writer cut it to 8 bits
            image, fault = ask(lambda file=file: decoded(file.getvalue()))
            if image is not None:
                off = np.abs(squares(image) - squares(Image.fromarray(ramp))).max()
                fault = f"a square is {off:.0f} grey levels from what was saved" if off > 16 else fault
            yield Trial(f"{form} of mode {mode}", fault)
            for i in range(cases):
                case, content = (cut if i % 2 else flipped)(file.getvalue(), draw)
                _, fault = ask(lambda content=content: decoded(content))
                yield Trial(f"{form} of mode {mode}, {case}", fault)


def decoded(content: bytes) -> Image.Image:
    """As a file of a folder is read."""
    with as_unreadable("picture"):
        return read_rgb(io.BytesIO(content))


def squares(image: Image.Image) -> np.ndarray:
    """Mean grey levels of 8 x 8 squares: those of a dithered image are the picture's too."""
    return np.asarray(image.convert("L").resize((8, 8), Image.Resampling.BOX), np.int64)


def of_mode(ramp: np.ndarray, mode: str) -> Image.Image:
    """The ramp over the whole range of a mode."""
    if mode in ("I", "I;16"):
        return Image.fromarray((ramp.astype(np.uint32) * 257).astype(np.int32 if mode == "I" else np.uint16))
    if mode == "F":
        return Image.fromarray(ramp.astype(np.float32) / 255)
    if mode == "LAB":
        return Image.merge("LAB", [Image.fromarray(ramp), *[Image.new("L", (64, 64), 128)] * 2])
    return Image.fromarray(ramp).convert("RGB").convert(mode)
