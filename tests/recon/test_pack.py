"""The command recon.pack: in real processes, killed, resumed, and told what cannot be."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import pytest

from losses import InvalidSetting
from recon import pack as command
from recon.data import Source, create_dataset, packing
from recon.data.shrinking import CHUNK
from recon.pack import PackedData, PackSettings, pack_dataset
from tests.recon.data.conftest import Pictures, picture
from tests.recon.training.conftest import differences, small_run, state_of

IMAGES = 8 * CHUNK


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for i in range(IMAGES):
        picture(i, 320, 240).save(root / f"{i:04}.jpg", quality=90)
    return root


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """A packing that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "pictures.pack"
    assert pack_dataset(settings(folder, out)) == 0
    return out.read_bytes()


def settings(root, out, size=160, workers=0, **data):
    return PackSettings(str(out), size, workers, PackedData("folder", str(root), **data))


def arguments(root, out, *words):
    return [sys.executable, "-m", "recon.pack", "data=folder", f"data.root={root}", f"out={out}", *words]


def typed(*words):
    """Exit status, stdout, stderr of the command in a process of its own."""
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    return done.returncode, done.stdout, done.stderr


def lines_in(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def interrupted(root, out, number, workers=0):
    """Starts the command in a process of its own, and sends it a signal once two chunks are done."""
    words = arguments(root, out, f"workers={workers}")
    process = subprocess.Popen(words, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    journal, until = out.with_name(f"{out.name}.journal"), time.monotonic() + 120
    while lines_in(journal) < 3 and time.monotonic() < until:
        time.sleep(0.001)
    os.kill(process.pid, number)
    said, _ = process.communicate(timeout=60)
    assert not out.exists() and 3 <= lines_in(journal) < 1 + IMAGES // CHUNK, "it was too late, or too early"
    return process.returncode, said


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.slow
def test_a_killed_packing_goes_on_to_the_same_bits(folder, whole, tmp_path, workers):
    out = tmp_path / "pictures.pack"
    assert interrupted(folder, out, signal.SIGKILL, workers)[0] == -signal.SIGKILL
    done = lines_in(tmp_path / "pictures.pack.journal") - 1
    read = []
    source = create_dataset("folder", "train", folder)
    sources = {"train": Counting(source, read), "val": create_dataset("folder", "val", folder)}
    deque(packing.pack(sources, "folder", out, 160, 0), maxlen=0)
    assert min(read) == done * CHUNK  # what was done is not done again
    assert out.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["pictures.pack"]


class Counting(Source):
    """Takes down which images are read."""

    def __init__(self, source, read):
        super().__init__(source.classes)
        self.source, self.indices = source, read

    def __len__(self):
        return len(self.source)

    def read(self, index):
        self.indices.append(index)
        return self.source.read(index)

    def name_of(self, index):
        return self.source.name_of(index)


@pytest.mark.slow
def test_a_signal_stops_it_between_chunks_and_it_goes_on(folder, whole, tmp_path):
    out = tmp_path / "pictures.pack"
    status, said = interrupted(folder, out, signal.SIGTERM)
    assert status == 128 + signal.SIGTERM and said == "stopped; the same command goes on\n"
    assert pack_dataset(settings(folder, out, workers=2)) == 0
    assert out.read_bytes() == whole


@pytest.mark.parametrize("chunks", [0, 1, 5, 8])
@pytest.mark.parametrize("torn", ["pixels behind the journal", "a line of the journal", "pixels the journal tells of"])
@pytest.mark.slow
def test_whatever_a_crash_leaves_it_goes_on_to_the_same_bits(folder, whole, tmp_path, chunks, torn):
    out, partial, journal = (tmp_path / f"p.pack{ending}" for ending in ("", ".partial", ".journal"))
    sources = {split: create_dataset("folder", split, folder) for split in ("train", "val")}
    packing_now = packing.pack(sources, "folder", out, 160, 0)
    for _ in range(chunks):
        next(packing_now)
    packing_now.close()
    if chunks and torn == "a line of the journal":
        journal.write_bytes(journal.read_bytes()[:-10])
    elif chunks and torn == "pixels the journal tells of":
        os.truncate(partial, partial.stat().st_size - 1)
    elif chunks:
        with partial.open("ab") as file:
            file.write(b"torn")
    deque(packing.pack(sources, "folder", out, 160, 0), maxlen=0)
    assert out.read_bytes() == whole and not partial.exists() and not journal.exists()


@pytest.mark.slow
def test_two_processes_do_not_write_one_file(folder, tmp_path):
    sources = {split: create_dataset("folder", split, folder) for split in ("train", "val")}
    first = packing.pack(sources, "folder", tmp_path / "p.pack", 160, 0)
    next(first)
    status, _, complaint = typed(*arguments(folder, tmp_path / "p.pack"))
    assert status == 2 and "another process is packing" in complaint and len(complaint.splitlines()) == 1
    first.close()


def test_a_finished_file_stays_as_it_is(folder, whole, tmp_path, capsys):
    out = tmp_path / "p.pack"
    out.write_bytes(whole)
    before = out.stat().st_mtime_ns
    assert pack_dataset(settings(folder, out)) == 0
    assert f"{IMAGES:,} images" in capsys.readouterr().out
    for other in (settings(folder, out, size=100), settings(folder, out)):
        other.data.root = str(folder) if other.size == 100 else str(tmp_path / "others")
        if other.size == 160:
            (tmp_path / "others").mkdir()
            [picture(i).save(tmp_path / "others" / f"{i}.png") for i in range(3)]
        with pytest.raises(InvalidSetting, match="packed from something else"):
            pack_dataset(other)
    assert out.stat().st_mtime_ns == before and out.read_bytes() == whole


def test_an_interrupted_packing_of_something_else_stays_as_it_is(folder, tmp_path):
    out = tmp_path / "p.pack"
    begun = packing.pack({"val": create_dataset("folder", "val", folder)}, "folder", out, 160, 0)
    next(begun)
    begun.close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InvalidSetting, match=r"p\.pack\.journal is of a packing of something else"):
        pack_dataset(settings(folder, out))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_unreadable_images_are_listed_and_left_out(tmp_path, monkeypatch, capsys):
    made = {"train": Pictures(200, unreadable=(0, 70, 199)), "val": Pictures(20)}
    monkeypatch.setattr(command, "create_dataset", lambda name, split, *a: made.get(split))
    out = tmp_path / "p.pack"
    with pytest.raises(InvalidSetting, match=r"3 of 220 .* data\.max_unreadable=0\.01 .*picture 199: torn"):
        pack_dataset(settings("", out, size=16, max_unreadable=0.01))
    assert not out.exists()
    monkeypatch.setattr(
        command, "create_dataset", lambda name, *a: create_dataset(name, *a) if name == "packed" else made[a[0]]
    )
    assert pack_dataset(settings("", out, size=16, max_unreadable=0.02)) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if "left out" in line] == [
        f"left out: picture {i}: torn" for i in (0, 70, 199)
    ]
    ours = create_dataset("packed", "train", out)
    assert [ours.name_of(i) for i in range(len(ours))] == [f"picture {i}" for i in range(200) if i not in (0, 70, 199)]
    assert f"{out}: 217 images" in said


def test_a_split_without_a_readable_image_is_told(tmp_path):
    sources = {"train": Pictures(2), "val": Pictures(2, unreadable=(0, 1))}
    with pytest.raises(InvalidSetting, match="none of the 2 images of 'val'"):
        deque(packing.pack(sources, "pictures", tmp_path / "p.pack", 16, 0), maxlen=0)
    assert not (tmp_path / "p.pack").exists()


@pytest.mark.parametrize(
    "wrong, match",
    [
        ({"size": 0}, "size=0 must be above 0"),
        ({"workers": -1}, "workers=-1 must not be negative"),
        ({"max_unreadable": 2.0}, r"data\.max_unreadable=2\.0 is a fraction"),
        ({"out": "nowhere/p.pack"}, "out=nowhere/p.pack is in no folder"),
        ({"out": "/"}, "out=/ is a folder"),
        ({"root": "nowhere"}, "data.root=nowhere is missing"),
    ],
)
def test_a_setting_that_cannot_be_used_is_told(folder, tmp_path, wrong, match):
    with pytest.raises(InvalidSetting, match=match):
        pack_dataset(settings(**{"root": folder, "out": tmp_path / "p.pack"} | wrong))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words, match", [(["data=foldre"], "did you mean 'folder'"), (["sise=3"], "did you mean 'size'")]
)
@pytest.mark.slow
def test_a_wrong_word_is_one_line_and_nothing_is_written(folder, tmp_path, words, match):
    status, said, complaint = typed(*arguments(folder, tmp_path / "p.pack", *words))
    assert (status, said) == (2, "") and match in complaint and len(complaint.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_training_from_a_damaged_file_is_one_line_and_nothing_is_written(whole, tmp_path):
    (tmp_path / "cut.pack").write_bytes(whole[:-1])
    words = [sys.executable, "-m", "recon.pretrain", "data=packed", f"data.root={tmp_path / 'cut.pack'}", "name=x"]
    status, said, complaint = typed(*words)
    assert (status, said) == (2, "") and "cut.pack is cut short" in complaint and len(complaint.splitlines()) == 1


def test_a_full_disk_is_one_line_and_the_packing_goes_on(folder, whole, tmp_path, monkeypatch):
    write, calls = packing.write, []

    def full(file, content):
        calls.append(content)
        if len(calls) == 6:
            raise OSError(28, "No space left on device")
        write(file, content)

    monkeypatch.setattr(packing, "write", full)
    with pytest.raises(InvalidSetting, match="No space left on device; the same command goes on"):
        pack_dataset(settings(folder, tmp_path / "p.pack"))
    monkeypatch.undo()
    assert pack_dataset(settings(folder, tmp_path / "p.pack")) == 0
    assert (tmp_path / "p.pack").read_bytes() == whole


def test_training_is_to_the_bit_that_on_a_folder_of_the_stored_pixels(folder, whole, tmp_path):
    file, pictures = tmp_path / "p.pack", tmp_path / "pictures"
    file.write_bytes(whole)
    for split in ("train", "val"):
        source = create_dataset("packed", split, file)
        for i in range(len(source)):
            (pictures / split).mkdir(parents=True, exist_ok=True)
            source.read(i)[0].save(pictures / split / f"{Path(source.name_of(i)).stem}.png", compress_level=0)
    words = ("train.steps=4", "loss=mse")
    theirs = state_of(small_run(tmp_path, pictures, "pngs", *words))
    ours = state_of(small_run(tmp_path, file, "pack", *words, "data.name=packed", "data.workers=1"))
    left, right = ({key: state[key] for key in state if key not in ("settings", "seen")} for state in (ours, theirs))
    assert not differences(left, right)
    assert ours["settings"]["data.name"] == "packed"
