"""Images with a class for every pixel, in folders that are written here: what is read, and what is said of bad ones."""

import numpy as np
import pytest
import torch
from PIL import Image

from recon.dense.scenes import IGNORED, open_scenes
from tests.recon.data.conftest import picture
from tests.recon.dense.conftest import the_error

VOC_LISTS = "ImageSets/Segmentation"


def mask_of(seed, values, width=40, height=30):
    """uint8 (height, width), of blocks; every value is in it."""
    blocks = np.random.default_rng(seed).permutation(np.resize(values, 30)).reshape(5, 6)
    return np.kron(blocks, np.ones((6, 7)))[:height, :width].astype(np.uint8)


def write(path, values, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(path)


def write_image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path)


def write_pairs(root, train=((0, 1), (0, 3, IGNORED)), val=((0, 2),), names=None):
    """Images with masks of these values."""
    for split, each in (("train", train), ("val", val)):
        for i, values in enumerate(each):
            write_image(root / "images" / split / f"{i}.png", i)
            write(root / "masks" / split / f"{i}.png", mask_of(i, values))
    if names:
        (root / "classes.txt").write_text("\n".join(names))
    return root


def write_ade(root, train=((0, 1, 150), (7, 8)), val=((0, 22),)):
    for split, each in (("training", train), ("validation", val)):
        for i, values in enumerate(each):
            write_image(root / "images" / split / f"ADE_{i:08}.jpg", i)
            write(root / "annotations" / split / f"ADE_{i:08}.png", mask_of(i, values))
    return root


def write_voc(root, train=("2007_a", "2007_b"), val=("2008_c",)):
    for split, names in (("train", train), ("val", val)):
        for i, name in enumerate(names):
            write_image(root / "JPEGImages" / f"{name}.jpg", i)
            write(root / "SegmentationClass" / f"{name}.png", mask_of(i, (0, 15, 20, IGNORED)), palette=True)
        (root / VOC_LISTS).mkdir(parents=True, exist_ok=True)
        (root / VOC_LISTS / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    write_image(root / "JPEGImages" / "not_segmented.jpg", 9)
    return root


# ---- what is read


def test_pairs_are_read_as_they_were_written(tmp_path):
    train, val = open_scenes("pairs", write_pairs(tmp_path), "segmentation")
    assert (len(train), len(val), train.name, val.name) == (2, 1, "pairs/train", "pairs/val")
    assert train.classes == val.classes == ["class 0", "class 1", "class 2", "class 3"]
    for source, i, values in ((train, 0, (0, 1)), (train, 1, (0, 3, IGNORED)), (val, 0, (0, 2))):
        scene = source.read(i)
        assert scene.image.tobytes() == picture(i).tobytes() and scene.image.mode == "RGB" and scene.instances is None
        assert scene.class_map.dtype == torch.uint8
        np.testing.assert_array_equal(scene.class_map.numpy(), mask_of(i, values))


def test_pairs_may_lie_deeper_and_name_their_classes(tmp_path):
    write_pairs(tmp_path, names=["sky", "road", "tree", "car", "never seen"])
    for kind in ("images", "masks"):
        (tmp_path / kind / "train" / "a").mkdir()
        (tmp_path / kind / "train" / "1.png").rename(tmp_path / kind / "train" / "a" / "x.y.png")
    train, val = open_scenes("pairs", tmp_path, "segmentation")
    assert train.classes == val.classes == ["sky", "road", "tree", "car", "never seen"] and len(train) == 2
    np.testing.assert_array_equal(train.read(1).class_map.numpy(), mask_of(1, (0, 3, IGNORED)))


@pytest.mark.parametrize("below", ["", "ADEChallengeData2016"])
def test_ade20k_counts_its_classes_from_one_and_does_not_judge_other(tmp_path, below):
    write_ade(tmp_path / below)
    train, val = open_scenes("ade20k", tmp_path, "segmentation")
    assert train.classes == val.classes == [f"class {k}" for k in range(1, 151)]
    assert (len(train), len(val)) == (2, 1)
    for source, i, values in ((train, 0, (0, 1, 150)), (train, 1, (7, 8)), (val, 0, (0, 22))):
        stored = mask_of(i, values).astype(int)
        np.testing.assert_array_equal(source.read(i).class_map.numpy(), np.where(stored == 0, IGNORED, stored - 1))


def test_ade20k_does_not_judge_what_others_have_marked(tmp_path):
    train, _ = open_scenes("ade20k", write_ade(tmp_path, train=((3, IGNORED),)), "segmentation")
    assert train.read(0).class_map.unique().tolist() == [2, IGNORED]


def test_the_names_of_ade20k_are_those_of_its_table(tmp_path):
    rows = [f"{k}\t0.1\t9\t9\tname {k}, other name {k}" for k in range(1, 150)] + ["150\t0.0\t1\t1\tflag;banner"]
    write_ade(tmp_path)
    (tmp_path / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]) + "\n")
    train, _ = open_scenes("ade20k", tmp_path, "segmentation")
    assert train.classes == [*(f"name {k}" for k in range(1, 150)), "flag"]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(rows[:9]))
    the_error(r"objectInfo150\.txt names 8 classes, not 150", "ade20k", tmp_path)


@pytest.mark.parametrize("below", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc_reads_palette_masks_as_indices(tmp_path, below):
    write_voc(tmp_path / below)
    train, val = open_scenes("voc", tmp_path, "segmentation")
    assert (len(train), len(val), len(train.classes), train.classes[15]) == (2, 1, 21, "person")
    for source, i in ((train, 0), (train, 1), (val, 0)):
        np.testing.assert_array_equal(source.read(i).class_map.numpy(), mask_of(i, (0, 15, 20, IGNORED)))


def test_voc_agrees_with_torchvision(tmp_path):
    from torchvision.datasets import VOCSegmentation

    write_voc(tmp_path / "VOCdevkit" / "VOC2012")
    theirs = VOCSegmentation(tmp_path, year="2012", image_set="train")
    ours, _ = open_scenes("voc", tmp_path, "segmentation")
    assert len(theirs) == len(ours)
    for i, (image, mask) in enumerate(theirs):
        assert ours.read(i).image.tobytes() == image.tobytes()
        np.testing.assert_array_equal(ours.read(i).class_map.numpy(), np.asarray(mask))


# ---- what is said


@pytest.mark.parametrize("data", ["ade20k", "pairs", "voc"])
def test_a_root_that_is_not_the_data_is_told_with_what_it_must_have(tmp_path, data):
    (tmp_path / "file").touch()
    the_error(f"data={data} does not know which folder to read: set data.root=PATH \\(.*(images|Images)", data, None)
    the_error(r"data\.root=.*nowhere is missing", data, tmp_path / "nowhere")
    the_error(r"data\.root=.*file is a file, not a folder", data, tmp_path / "file")
    the_error(f"data={data} finds no .*set data.root=PATH to a folder that has ", data, tmp_path)
    the_error(
        f"data={data} has no instances, which task=detection needs: set data=coco or", data, tmp_path, "detection"
    )


def test_folders_that_are_missing_are_named(tmp_path):
    write_pairs(tmp_path, val=())
    the_error(f"finds no images/val, masks/val in {tmp_path}: ", "pairs", tmp_path)


def test_an_image_without_a_mask_and_a_mask_without_an_image_are_told(tmp_path):
    write_pairs(tmp_path, train=((0, 1),) * 6)
    for i in range(1, 6):
        (tmp_path / "masks" / "train" / f"{i}.png").unlink()
    the_error(r"no mask in .*masks/train for 1, 2, 3, \.\.\. \(5\): add what is missing, or", "pairs", tmp_path)
    for i in range(1, 6):
        (tmp_path / "images" / "train" / f"{i}.png").unlink()
    (tmp_path / "images" / "val" / "0.png").rename(tmp_path / "images" / "val" / "other.png")
    the_error("no mask in .*masks/val for other: ", "pairs", tmp_path)
    write_image(tmp_path / "images" / "val" / "0.png", 0)
    write(tmp_path / "masks" / "val" / "other.png", mask_of(0, (0, 1)))
    write(tmp_path / "masks" / "val" / "more.png", mask_of(0, (0, 1)))
    the_error("no image in .*images/val for more: ", "pairs", tmp_path)


def test_folders_without_images_are_told(tmp_path):
    write_pairs(tmp_path)
    for i in range(2):
        (tmp_path / "images" / "train" / f"{i}.png").unlink()
    the_error("no images in .*images/train ", "pairs", tmp_path)
    write_voc(tmp_path, val=())
    the_error(r"val\.txt names no images", "voc", tmp_path)


def test_a_list_of_voc_that_names_what_is_missing_is_told(tmp_path):
    write_voc(tmp_path)
    (tmp_path / "SegmentationClass" / "2007_b.png").unlink()
    the_error(r"train\.txt names files that .*SegmentationClass lacks: 2007_b\.png; get them", "voc", tmp_path)
    (tmp_path / "JPEGImages" / "2007_b.jpg").unlink()
    the_error(r"train\.txt names files that .*JPEGImages lacks: 2007_b\.jpg; get them", "voc", tmp_path)


def test_a_held_out_class_that_training_lacks_is_told_when_the_data_are_opened(tmp_path):
    write_pairs(tmp_path, val=((0, 1), (2, 4)))
    the_error(r"val/1\.png has the value 4, but the 4 classes end at 3: mend it, or store 255", "pairs", tmp_path)


@pytest.mark.parametrize(("data", "end"), [("pairs", 3), ("ade20k", 150), ("voc", 20)])
def test_a_value_above_the_classes_is_told_when_it_is_read(tmp_path, data, end):
    {"pairs": write_pairs, "ade20k": write_ade, "voc": write_voc}[data](tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    open_scenes(data, tmp_path, "segmentation")
    masks = {"pairs": "masks/train/0", "ade20k": "annotations/training/ADE_00000000", "voc": "SegmentationClass/2007_a"}
    write(tmp_path / f"{masks[data]}.png", mask_of(0, (0, end)))
    train, _ = open_scenes(data, tmp_path, "segmentation")
    assert train.read(0).class_map[train.read(0).class_map != IGNORED].max() == len(train.classes) - 1
    write(tmp_path / f"{masks[data]}.png", mask_of(0, (0, end + 1)))
    the_error(
        rf"{masks[data]}\.png has the value {end + 1}, but the .* classes end at {end}", data, tmp_path, read=True
    )


def test_masks_of_black_and_white_and_colours_are_told(tmp_path):
    write_pairs(tmp_path, train=((0, 255),))
    the_error("masks/train have one class alone, the value 0: store the number of the class", "pairs", tmp_path)
    write(tmp_path / "masks" / "train" / "0.png", np.zeros((30, 40, 3), np.uint8))
    the_error(r"masks/train/0\.png cannot be read: its mode is RGB, not 8-bit grey", "pairs", tmp_path)
    (tmp_path / "classes.txt").write_text("only one\n")
    the_error(r"classes\.txt must name two classes or more", "pairs", tmp_path)


def test_a_mask_of_another_size_than_its_image_is_told(tmp_path):
    write_pairs(tmp_path)
    write(tmp_path / "masks" / "val" / "0.png", mask_of(0, (0, 1), width=20))
    the_error(r"val/0\.png has 20 x 30 pixels and its image 40 x 30: store both alike", "pairs", tmp_path, read=True)


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_damaged_file_is_named_when_it_is_read(tmp_path, kind):
    write_pairs(tmp_path, names=["a", "b", "c", "d"])
    file = tmp_path / kind / "train" / "1.png"
    file.write_bytes(file.read_bytes()[:60])
    the_error(rf"{kind}/train/1\.png cannot be read: .*; replace it, or", "pairs", tmp_path, read=True)
