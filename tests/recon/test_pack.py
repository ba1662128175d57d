"""The command recon.pack: in real processes, killed, and given what it cannot use."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import pytest

import recon.data
from losses import InvalidSetting
from recon.data import create_dataset
from recon.data.packed import CHUNK, pack
from recon.pack import PackedData, PackSettings, pack_dataset
from tests.recon.data.conftest import Pictures, picture
from tests.recon.training.conftest import differences, small_run, state_of

IMAGES = 2 * CHUNK + 40


def write_pictures(root, images):
    for i in range(images):
        picture(i, 320, 240).save(root / f"{i:04}.jpg", quality=90)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"), IMAGES)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder that takes a while to pack."""
    return write_pictures(tmp_path_factory.mktemp("many"), 8 * CHUNK)


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


def sources_of(folder):
    return {split: create_dataset("folder", split, folder) for split in ("train", "val")}


def interrupted(root, out, number):
    """Starts the command in a process of its own, and sends it a signal once a chunk or two are written."""
    process = subprocess.Popen(arguments(root, out), cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    unfinished, until = out.with_name(f"{out.name}.partial"), time.monotonic() + 120
    while not (unfinished.exists() and unfinished.stat().st_size > CHUNK * 160 * 160 * 3) and time.monotonic() < until:
        time.sleep(0.001)
    os.kill(process.pid, number)
    said, _ = process.communicate(timeout=60)
    assert not out.exists(), "it was too late"
    return process.returncode, said


@pytest.mark.slow
def test_a_killed_packing_leaves_nothing_that_passes_for_whole_and_begins_anew(many, folder, whole, tmp_path):
    out = tmp_path / "pictures.pack"
    assert interrupted(many, out, signal.SIGKILL)[0] == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["pictures.pack.partial"]
    with pytest.raises(InvalidSetting, match="cannot be read as packed data"):
        create_dataset("packed", "train", tmp_path / "pictures.pack.partial")
    assert pack_dataset(settings(folder, out, workers=2)) == 0
    assert out.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["pictures.pack"]


@pytest.mark.slow
def test_a_signal_stops_it_between_chunks_and_nothing_is_left(many, tmp_path):
    status, said = interrupted(many, tmp_path / "pictures.pack", signal.SIGTERM)
    assert status == 128 + signal.SIGTERM and said == f"stopped; {tmp_path / 'pictures.pack'} is not written\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("chunks", [0, 1, 2])
def test_a_packing_that_is_closed_leaves_nothing(folder, tmp_path, chunks):
    packing = pack(sources_of(folder), "folder", tmp_path / "p.pack", 160)
    assert sum(images for images, _ in islice(packing, chunks)) == chunks * CHUNK
    packing.close()
    assert not list(tmp_path.iterdir())


def test_two_processes_do_not_write_one_file(folder, whole, tmp_path):
    out = tmp_path / "p.pack"
    first = pack(sources_of(folder), "folder", out, 160)
    next(first)
    with ProcessPoolExecutor(1) as other, pytest.raises(InvalidSetting, match="another process is packing"):
        other.submit(pack_dataset, settings(folder, out)).result()
    deque(first, maxlen=0)
    assert out.read_bytes() == whole


def test_a_finished_file_stays_as_it_is(folder, whole, tmp_path, capsys):
    out = tmp_path / "p.pack"
    out.write_bytes(whole)
    before = out.stat().st_mtime_ns
    assert pack_dataset(settings(folder, out)) == 0
    assert f"{IMAGES:,} images" in capsys.readouterr().out
    (tmp_path / "others").mkdir()
    for i in range(3):
        picture(i).save(tmp_path / "others" / f"{i}.png")
    for other in (settings(folder, out, size=100), settings(tmp_path / "others", out)):
        with pytest.raises(InvalidSetting, match="packed from something else"):
            pack_dataset(other)
    assert out.stat().st_mtime_ns == before and out.read_bytes() == whole
    assert not out.with_name("p.pack.partial").exists()


def test_unreadable_images_are_listed_and_left_out(tmp_path, monkeypatch, capsys):
    made = {"train": Pictures(200, unreadable=(0, 70, 199)), "val": Pictures(20)}
    monkeypatch.setattr(
        recon.data, "create_dataset", lambda name, *a: create_dataset(name, *a) if name == "packed" else made[a[0]]
    )
    out = tmp_path / "p.pack"
    with pytest.raises(InvalidSetting, match=r"3 of 220 .* data\.max_unreadable=0\.01 .*picture 199: torn"):
        pack_dataset(settings("", out, size=16, max_unreadable=0.01))
    assert not list(tmp_path.iterdir())
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
        deque(pack(sources, "pictures", tmp_path / "p.pack", 16), maxlen=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong, match",
    [
        ({"size": 0}, "size=0 must be at least 1"),
        ({"workers": -1}, "workers=-1 must be at least 0"),
        ({"max_unreadable": 2.0}, r"data\.max_unreadable=2\.0 must be at least 0 and at most 1"),
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
    assert (
        (status, said) == (2, "")
        and "cut.pack cannot be read as packed data" in complaint
        and len(complaint.splitlines()) == 1
    )


def with_little_space(these):
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**7, 10**7))
    return pack_dataset(these)


def test_a_full_disk_is_one_line_and_nothing_is_left(folder, tmp_path):
    out = tmp_path / "p.pack"
    with (
        ProcessPoolExecutor(1) as other,
        pytest.raises(InvalidSetting, match=r"^\S+p\.pack cannot be written: File too large$"),
    ):
        other.submit(with_little_space, settings(folder, out)).result()
    assert not list(tmp_path.iterdir())


def test_training_is_to_the_bit_that_on_a_folder_of_the_stored_pixels(tmp_path):
    file, pictures, few = (tmp_path / name for name in ("p.pack", "pictures", "few"))
    few.mkdir()
    assert pack_dataset(settings(write_pictures(few, 40), file, size=40)) == 0
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
