"""Packed files: the same pixels, labels and names as their source, and one line for a file that is not whole."""

import os
import pickle
import re
from collections import deque

import pyarrow as pa
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from losses import InvalidSetting
from recon.data import create_dataset, evaluation_crop, training_crop
from recon.data.packed import PACK_AGAIN, open_table, pack
from tests.recon.data.conftest import picture
from tests.recon.data.test_batches import same, samples

SIZE = 24
SPLITS = ("train", "val")


def packed(out, name, root=None, size=SIZE, workers=0):
    """Packs a dataset and opens both splits."""
    sources = {split: create_dataset(name, split, root) for split in SPLITS}
    deque(pack(sources, name, out, size, workers), maxlen=0)
    return {split: create_dataset("packed", split, out) for split in SPLITS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes, images of many shapes; some are smaller than what they are packed to."""
    root = tmp_path_factory.mktemp("birds")
    shapes = [(40, 30), (30, 40), (24, 24), (25, 24), (10, 90), (1, 1), (200, 25), (37, 53)]
    for i in range(48):
        split, label = "train" if i < 40 else "val", "jay" if i % 3 else "öwl"
        path = root / split / label / f"{i:02} ü.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(i, *shapes[i % len(shapes)]).save(path)
    return root


@pytest.fixture(scope="module")
def file(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "birds.pack"
    packed(out, "folder", folder)
    return out


def damaged(file, tmp_path, at, flip=1):
    content = bytearray(file.read_bytes())
    content[at] ^= flip
    (tmp_path / "damaged.pack").write_bytes(content)
    return tmp_path / "damaged.pack"


def the_error(match, path, use=lambda source: None):
    """Opening or using the file gives one line that names it."""
    with pytest.raises(InvalidSetting, match=match) as error:
        use(create_dataset("packed", "train", path))
    assert len(str(error.value).splitlines()) == 1 and str(path) in str(error.value)


# ---- the same as the source


@pytest.mark.parametrize("split", SPLITS)
def test_packed_images_are_the_source_s_resized(folder, file, split):
    source, ours = create_dataset("folder", split, folder), create_dataset("packed", split, file)
    assert len(ours) == len(source) and ours.classes == source.classes
    assert (ours.mean, ours.std, ours.native, ours.caveat) == (source.mean, source.std, source.native, source.caveat)
    for i in range(len(source)):
        image, label = source.read(i)
        shorter = min(image.size)
        expected = F.resize(image, SIZE, InterpolationMode.BICUBIC, antialias=True) if shorter > SIZE else image
        mine, its_label = ours.read(i)
        assert mine.mode == "RGB" and mine.size == expected.size and mine.tobytes() == expected.tobytes()
        assert ours.content(i) == expected.tobytes()
        assert its_label == ours.label_of(i) == label and ours.name_of(i) == source.name_of(i)


def test_statistics_caveat_and_native_scale_are_kept(tmp_path):
    """Native images are never resized: their statistics are known at their own scale."""
    source = create_dataset("photos", "val")
    ours = packed(tmp_path / "photos.pack", "photos")["val"]
    assert ours.caveat == source.caveat and ours.classes == source.classes
    source.native = True
    deque(pack({"val": source}, "photos", tmp_path / "native.pack", SIZE, 0), maxlen=0)
    ours = create_dataset("packed", "val", tmp_path / "native.pack")
    assert ours.native and all(ours.read(i)[0].tobytes() == source.read(i)[0].tobytes() for i in range(len(source)))


def test_names_are_those_of_the_folder_whatever_bytes_they_hold(tmp_path):
    (tmp_path / "birds").mkdir()
    for i, name in enumerate((b"caf\xe9.png", b"a\\b.png", b"two\nlines.png", "ö.png".encode())):
        picture(i).save(tmp_path / "image.png")
        os.rename(tmp_path / "image.png", os.fsencode(tmp_path / "birds") + b"/" + name)
    ours, theirs = packed(tmp_path / "p.pack", "folder", tmp_path / "birds"), create_dataset
    for split in SPLITS:
        source = theirs("folder", split, tmp_path / "birds")
        assert [ours[split].name_of(i) for i in range(len(source))] == [source.name_of(i) for i in range(len(source))]


def test_any_box_is_cropped_as_from_the_whole_image(file):
    source = create_dataset("packed", "train", file)
    for i in range(8):
        whole, (stored, _) = source.read(i)[0], source.croppable(i)
        w, h = whole.size
        assert (stored.width, stored.height) == (w, h)
        for box in [(0, 0, w, h), (w - 1, h - 1, w, h), (0, h // 2, w // 2 + 1, h), (w // 2, 0, w, h // 2 + 1)]:
            assert stored.crop(box).tobytes() == whole.crop(box).tobytes()


@pytest.mark.parametrize("native", [False, True])
def test_a_training_crop_of_stored_pixels_is_that_of_the_image(file, native):
    source = create_dataset("packed", "train", file)
    for i in (0, 1, 7):
        crops = []
        for image in (source.read(i)[0], source.croppable(i)[0]):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(i)
                crops += [torch.stack([training_crop(image, (16, 12), native) for _ in range(8)])]
        assert torch.equal(*crops)


def test_batches_are_those_of_a_folder_of_the_stored_pixels(file, tmp_path):
    ours = create_dataset("packed", "train", file)
    for i in range(len(ours)):
        path = tmp_path / "train" / ours.name_of(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        ours.read(i)[0].save(path)
    (tmp_path / "val").mkdir()
    theirs = create_dataset("folder", "train", tmp_path)
    expected = samples(theirs, 160, batch=8)
    assert same(samples(ours, 160, batch=8), expected)
    assert same(samples(ours, 160, batch=8, workers=2), expected)
    assert all(torch.equal(a[96:], b) for a, b in zip(expected[:3], samples(ours, 64, start=96)[:3], strict=True))


def test_another_process_maps_the_file_itself(file):
    source = create_dataset("packed", "train", file)
    source.read(0)
    travelling = pickle.dumps(source)
    assert len(travelling) < 1000
    assert same(samples(pickle.loads(travelling), 32), samples(source, 32))


@pytest.mark.slow
def test_spawned_workers_read_it(file, monkeypatch):
    source = create_dataset("packed", "train", file)
    expected = samples(source, 16)
    previous = torch.multiprocessing.get_start_method(allow_none=True)
    torch.multiprocessing.set_start_method("spawn", force=True)
    try:
        assert same(samples(source, 16, workers=1), expected)
    finally:
        torch.multiprocessing.set_start_method(previous, force=True)


# ---- files that are not whole


def pixels_at(file):
    """Where in the file the first image's pixels begin."""
    return file.read_bytes().index(create_dataset("packed", "train", file).content(0))


def read_all(source):
    return [(source.name_of(i), source.label_of(i), source.content(i)) for i in range(len(source))]


def test_a_file_cut_anywhere_or_added_to_is_noticed_at_opening(file, tmp_path):
    content, place = file.read_bytes(), tmp_path / "cut.pack"
    for length in (*range(0, 100, 7), 4096, len(content) // 2, *range(len(content) - 1000, len(content), 37)):
        place.write_bytes(content[:length])
        the_error("cannot be read as packed data", place)
    place.write_bytes(content + b"\0")
    the_error("cannot be read as packed data", place)


def test_no_bit_can_flip_unnoticed(file, tmp_path):
    """Each is noticed at the latest when the images are read, or is in a byte that holds nothing."""
    content, expected, noticed = file.read_bytes(), [read_all(create_dataset("packed", s, file)) for s in SPLITS], 0
    pixels = pixels_at(file)
    for at in [*range(0, pixels, 29), pixels + 5, *range(len(content) - 6000, len(content), 29), len(content) - 1]:
        path = damaged(file, tmp_path, at, 1 << at % 8)
        try:
            found = [read_all(create_dataset("packed", split, path)) for split in SPLITS]
        except InvalidSetting as error:
            assert len(str(error).splitlines()) == 1 and str(path) in str(error)
            noticed += 1
        else:
            assert found == expected
    assert noticed > 100


@pytest.mark.parametrize("use", [lambda s: s.read(0), lambda s: s.croppable(0), lambda s: s.content(0)])
def test_a_flipped_bit_among_the_pixels_is_noticed_when_they_are_read(file, tmp_path, use):
    path = damaged(file, tmp_path, pixels_at(file) + 5, flip=128)
    the_error(r"damaged: the checksum of jay/01 ü\.png differs; " + re.escape(PACK_AGAIN), path, use)
    create_dataset("packed", "train", path).read(1)  # the others are whole


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_pixels_end_training_with_their_line(file, tmp_path, workers):
    path = damaged(file, tmp_path, pixels_at(file))
    the_error("damaged", path, lambda source: samples(source, 72, workers=workers))


def test_a_wrong_label_or_name_is_noticed_when_the_image_is_read(file, tmp_path):
    table, _ = open_table(file)
    for column, wrong in (("label", 1 - table["label"].to_numpy()), ("name", [b"another"] * len(table))):
        index = table.column_names.index(column)
        changed = table.set_column(index, table.schema.field(column), pa.array(wrong, table.schema.field(column).type))
        with pa.OSFile(str(tmp_path / column), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
            writer.write_table(changed)
        the_error("damaged: the checksum", tmp_path / column, lambda source: source.read(0))


def test_a_file_of_the_older_format_is_told(tmp_path):
    (tmp_path / "old.pack").write_bytes(b"RECONPAK" + bytes(5000))
    the_error("the format of an older version; " + re.escape(PACK_AGAIN), tmp_path / "old.pack")


def test_what_is_no_packed_file_is_told(tmp_path):
    picture(0).save(tmp_path / "picture.png")
    with pa.OSFile(str(tmp_path / "others.arrow"), "wb") as out, pa.ipc.new_file(out, pa.schema([("x", pa.int8())])):
        pass
    the_error("Not an Arrow file", tmp_path / "picture.png")
    the_error("cannot be read as packed data", tmp_path / "others.arrow")
    the_error("No such file", tmp_path / "nothing.pack")
    the_error("directory", tmp_path)
    os.mkfifo(tmp_path / "fifo")
    the_error("no regular file", tmp_path / "fifo")
    with pytest.raises(InvalidSetting, match=r"data\.root=FILE"):
        create_dataset("packed", "train")


# ---- cost


def test_reading_keeps_nothing_in_memory(tmp_path):
    """The map's pages are the system's to take back; the process's own memory stays what it was."""
    image = Image.effect_noise((400, 300), 50).convert("RGB")
    (tmp_path / "pictures").mkdir()
    for i in range(210):
        image.save(tmp_path / "pictures" / f"{i:03}.bmp")
    source = packed(tmp_path / "big.pack", "folder", tmp_path / "pictures", size=300)["train"]
    assert (tmp_path / "big.pack").stat().st_size > 70e6

    def own() -> float:
        """MB of memory that no file backs."""
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) / 1000 for line in status if line.startswith("RssAnon"))

    evaluation_crop(source.read(0)[0], (64, 64))
    before = own()
    for i in range(len(source)):
        training_crop(source.croppable(i)[0], (64, 64))
    assert own() - before < 10
