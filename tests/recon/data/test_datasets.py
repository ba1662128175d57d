"""Folders of images, and datasets by name: what is read, and what is said when it cannot be."""

import hashlib
import os
import re

import numpy as np
import pytest
from torchvision import datasets

from recon.data import UnreadableImage, create_dataset
from tests.recon.data.conftest import picture, save, the_error


def all_of(source):
    return [source.name_of(i) for i in range(len(source))], [source.read(i)[1] for i in range(len(source))]


# ---- folders


def test_a_folder_of_classes_is_read_with_them(tmp_path):
    save(tmp_path, "train/cat/1.png", "train/cat/deep/2.JPG", "train/dog/1.png", "val/dog/3.png")
    train, val = (create_dataset("folder", split, root=str(tmp_path)) for split in ("train", "val"))
    assert train.classes == val.classes == ["cat", "dog"]
    assert all_of(train) == (["cat/1.png", "cat/deep/2.JPG", "dog/1.png"], [0, 0, 1])
    assert all_of(val) == (["dog/3.png"], [1])


def test_classes_agree_with_torchvision(tmp_path):
    save(tmp_path, *(f"{split}/{name}/{i}.png" for split in ("train", "test") for name in "bac" for i in range(2)))
    theirs = datasets.ImageFolder(str(tmp_path / "test"))
    ours = create_dataset("folder", "val", root=tmp_path)
    assert ours.classes == theirs.classes
    assert all_of(ours)[1] == theirs.targets
    assert all(ours.read(i)[0].tobytes() == theirs[i][0].tobytes() for i in range(len(ours)))


@pytest.mark.parametrize("names", [["{}.png"], ["album/{}.png"], ["{}.png", "a/{}.png", "b/c/{}.png"]])
def test_a_folder_without_classes_is_read_at_any_depth(tmp_path, names):
    save(tmp_path, *(name.format(i) for name in names for i in range(4)))
    train, val = (create_dataset("folder", split, root=tmp_path) for split in ("train", "val"))
    assert train.classes == val.classes == []
    assert set(all_of(train)[1] + all_of(val)[1]) == {-1}
    assert len(train) + len(val) == 4 * len(names)


def test_without_split_folders_every_twentieth_image_is_held_out(tmp_path):
    save(tmp_path, *(f"{name}/{i:02}.png" for name in ("cat", "dog") for i in range(30)))
    train, val = (create_dataset("folder", split, root=tmp_path) for split in ("train", "val"))
    assert len(val) == 3 and len(train) == 57
    assert not set(all_of(train)[0]) & set(all_of(val)[0])
    assert train.classes == val.classes == ["cat", "dog"]


def test_hidden_files_and_other_files_are_no_images(tmp_path):
    save(tmp_path, "a.png", "b.png", ".thumbnails/c.png")
    (tmp_path / "._a.png").write_bytes(b"resource fork")
    (tmp_path / "readme.txt").write_text("about these images")
    assert len(create_dataset("folder", "train", root=tmp_path)) == 1


def test_every_colour_mode_is_read_as_rgb(odd_files, recwarn):
    source = create_dataset("folder", "train", root=odd_files)
    readable = {}
    for i in range(len(source)):
        try:
            readable[source.name_of(i)] = source.read(i)[0]
        except UnreadableImage as error:
            assert re.search(r"(letter|truncated)\.jpg: ", str(error))
    assert {image.mode for image in readable.values()} == {"RGB"}
    # deep.png is the first of the sorted list, and so held out
    assert sorted(readable) == ["grey.png", "palette.png", "plain.jpg", "print.jpg", "transparent.png"]
    assert not recwarn.list


def test_sixteen_bit_grey_keeps_its_tones(odd_files):
    deep = create_dataset("folder", "val", root=odd_files).read(0)[0]
    truth = np.asarray(picture(0, 64, 64).convert("L"), dtype=int)
    assert abs(np.asarray(deep.convert("L"), dtype=int) - truth).max() <= 1


def test_folder_errors_name_the_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.png").write_bytes(b"")
    save(tmp_path / "one", "a.png")
    the_error("data.root=PATH", "folder", "train")
    the_error(r"nowhere is missing", "folder", "train", root=tmp_path / "nowhere")
    the_error(r"file\.png is a file", "folder", "train", root=tmp_path / "file.png")
    the_error(r"no images in .*empty", "folder", "train", root=tmp_path / "empty")
    the_error(r"one holds one image", "folder", "train", root=tmp_path / "one")


def both(root):
    return (create_dataset("folder", split, root=root) for split in ("train", "val"))


def test_split_folders_go_by_any_of_their_names(tmp_path):
    names = [
        (train, val) for train in ("train", "Training") for val in ("VAL", "valid", "Validation", "test", "testing")
    ]
    for i, (train_name, val_name) in enumerate(names):
        root = save(tmp_path / str(i), *(f"{train_name}/{c}/{n}.png" for c in ("cat", "dog") for n in range(2)))
        save(root, f"{val_name}/cat/9.png", f"{val_name}/dog/9.png")
        train, val = both(root)
        assert (len(train), len(val)) == (4, 2) and train.classes == val.classes == ["cat", "dog"], names[i]
        assert train.notes == val.notes == []


def test_a_third_split_is_named_and_not_used(tmp_path):
    train, val = both(save(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/2.png", "val/b/2.png", "test/c/3.png"))
    assert train.notes == [f"not used: {tmp_path}/test/"] and (len(train), len(val)) == (2, 2)


def test_held_out_images_without_a_class_of_the_training_images_are_told_and_have_none(tmp_path):
    """As in ImageNet's val/, which is flat; also beside class folders without train/."""
    for home in ("train/", ""):
        root = save(tmp_path / f"of {home}", f"{home}a/1.png", f"{home}b/1.png", "val/1.png", "val/c/2.png")
        train, val = both(root)
        assert all_of(train) == (["a/1.png", "b/1.png"], [0, 1]) and train.notes == []
        assert all_of(val) == (["1.png", "c/2.png"], [-1, -1])
        assert val.notes == [f"in none of the 2 classes of the training images, in {root}/val: 1.png, c/2.png"]


def test_folders_without_images_and_system_folders_are_no_classes(tmp_path):
    save(tmp_path, *(f"{folder}/{i}.png" for folder in ("cat", "dog", "__MACOSX", "@eaDir", ".git") for i in range(30)))
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "readme.txt").write_text("about")
    train, val = both(tmp_path)
    assert train.classes == val.classes == ["cat", "dog"] and len(train) + len(val) == 60
    assert train.notes == [f"passed over in {tmp_path}, since not images: 1 .txt"]


def test_a_stray_image_beside_classes_is_named_and_left_out(tmp_path):
    train, val = both(save(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png", "cover.jpg"))
    assert train.classes == ["cat", "dog"] and len(train) + len(val) == 4
    assert train.notes == [f"left out, since beside the folders cat, dog of {tmp_path}: cover.jpg"]


def test_images_among_folders_have_no_classes_and_it_is_said(tmp_path):
    train, val = both(save(tmp_path, "cat/1.png", "dog/1.png", "a.png", "b.png"))
    assert train.classes == [] and len(train) + len(val) == 4
    assert train.notes == [f"no classes, since images lie beside the folders cat, dog of {tmp_path}: a.png, b.png"]


def test_links_lead_to_no_image_twice(tmp_path):
    """Neither a circle, nor a second way into a folder, nor a link or a second name of a file."""
    root = save(
        tmp_path / "data", *(f"v1/{kind}/{i}.png" for kind in ("cat", "dog") for i in range(20)), "v1/cat/x.png"
    )
    save(tmp_path / "elsewhere", "owl/1.png")
    for link, target in {"v1/loop": "..", "latest": "v1", "v1/0.png": "cat/0.png", "out": "../elsewhere"}.items():
        (root / link).symlink_to(target)
    (root / "nowhere").symlink_to("missing")
    (root / "again.png").hardlink_to(root / "v1" / "cat" / "x.png")
    train, val = both(root)
    names = all_of(train)[0] + all_of(val)[0]
    assert len(names) == len(set(names)) == 42 and "out/owl/1.png" in names
    assert not any("loop" in name or "latest" in name for name in names) and len(val) == 3


def test_a_class_that_is_a_link_is_read_and_a_link_to_a_class_is_no_other(tmp_path):
    save(tmp_path / "pool", "cats/1.png", "dogs/1.png")
    (tmp_path / "data").mkdir()
    for link, target in {"cat": "../pool/cats", "dog": "../pool/dogs", "latest": "cat", "here": "."}.items():
        (tmp_path / "data" / link).symlink_to(target)
    train, val = both(tmp_path / "data")
    assert train.classes == ["cat", "dog"] and len(train) + len(val) == 2


def test_files_that_are_passed_over_are_counted_by_their_ending(tmp_path):
    save(tmp_path, "a.png", "b.jfif", "c.gif", "d.jpe", "e.avif", "f.jp2", "g.PNM")
    for name in ("1.heic", "2.HEIC", "3.txt", "noending"):
        (tmp_path / name).write_bytes(b"")
    os.mkfifo(tmp_path / "waits for ever.jpg")
    train, val = both(tmp_path)
    assert len(train) + len(val) == 7
    assert train.notes == [f"passed over in {tmp_path}, since not images: 2 .heic, 1 .txt, 1 without an ending"]


def test_names_are_printable_and_stay_different(tmp_path):
    names = [b"caf\xe9.png", b"caf\\xe9.png", b"two\nlines.png", b"\x1b[31mred.png", "grün €.png".encode()]
    for i, name in enumerate(names):
        picture(i).save(tmp_path / "image.png")
        os.rename(tmp_path / "image.png", os.fsencode(tmp_path) + b"/" + name)
    sources = list(both(tmp_path))
    shown = [name for source in sources for name in all_of(source)[0]]
    expected = {"caf\\xe9.png", "caf\\\\xe9.png", "two\\nlines.png", "\\x1b[31mred.png", "grün €.png"}
    assert set(shown) == expected and len(shown) == 5 and "".join(shown).isprintable()
    digests = {hashlib.sha256(source.content(i)).digest() for source in sources for i in range(len(source))}
    assert len(digests) == 5
    os.truncate(os.fsencode(tmp_path) + b"/\x1b[31mred.png", 50)
    with pytest.raises(UnreadableImage) as error:
        [source.read(i) for source in sources for i in range(len(source))]
    assert str(error.value).isprintable() and "\\x1b[31mred.png: " in str(error.value)


# ---- names


def test_an_unknown_name_is_told_with_the_nearest_and_the_list():
    message = the_error("did you mean 'photos'", "photoes", "train")
    assert "'photoes'" in message and "cifar10, cifar100, dead_leaves, folder" in message and "wds/NAME" in message
    the_error("unknown dataset 'hfds/'", "hfds/", "train")
    the_error("unknown split 'test'", "photos", "test")


def test_of_a_lone_train_folder_a_share_is_held_out(tmp_path):
    save(tmp_path, *(f"Train/{kind}/{i:02}.png" for kind in ("cat", "dog") for i in range(20)))
    sets = {split: create_dataset("folder", split, tmp_path) for split in ("train", "val")}
    assert [len(sets[split]) for split in sets] == [38, 2]
    for source in sets.values():
        assert source.classes == ["cat", "dog"] and source.label_of(0) == 0
        assert source.notes == [f"no folder of held-out images in {tmp_path}: every 20th image is held out"]
    assert [sets["val"].name_of(i) for i in range(2)] == ["cat/00.png", "dog/00.png"]
    save(tmp_path, "bus/1.png")
    assert create_dataset("folder", "train", tmp_path).classes == ["Train", "bus"]  # vehicles
    (tmp_path / "bus").rename(tmp_path / "val")
    assert len(create_dataset("folder", "val", tmp_path)) == 1


@pytest.mark.parametrize("name", ["imagenet", "imagenette"])
def test_a_published_dataset_without_held_out_images_says_what_it_lacks(tmp_path, name):
    save(tmp_path, "train/cat/1.png")
    the_error(f"{name} at {re.escape(str(tmp_path))} lacks val/: get it, or hold out", name, "train", tmp_path)
