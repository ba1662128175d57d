"""Instances in COCO's format, in files that are written here: what is read, and what is said of bad ones."""

import json
import tracemalloc

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO
from faster_coco_eval.core import mask as coco_mask
from PIL import Image
from torchvision.ops import masks_to_boxes

from recon.dense.coco import Pickled
from recon.dense.scenes import open_scenes
from tests.recon.data.conftest import picture
from tests.recon.dense.conftest import the_error

WIDTH, HEIGHT = 40, 30
CATEGORIES = [{"id": 90, "name": "brush"}, {"id": 3, "name": "car"}, {"id": 7, "name": "train"}]  # as COCO: with gaps


def rectangle(left, top, right, bottom):
    """bool (HEIGHT, WIDTH)."""
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[top:bottom, left:right] = True
    return inside


def polygon(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


def run_lengths(inside, compressed):
    """As COCO stores a mask: bool (HEIGHT, WIDTH), column by column, from a run of what is outside."""
    column_first = inside.T.ravel()
    changes = np.flatnonzero(np.diff(column_first.astype(int))) + 1
    counts = np.diff([0, *changes, column_first.size]).tolist()
    counts = [0, *counts] if column_first[0] else counts
    if compressed:
        counts = coco_mask.encode(np.asfortranarray(inside, np.uint8))["counts"].decode()
    return {"counts": counts, "size": [HEIGHT, WIDTH]}


def annotation(id, image, category, box, segmentation, crowd=0):
    left, top, right, bottom = box
    where = {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
    return {
        "id": id,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "iscrowd": crowd,
        **where,
    }


BOXES = [(2, 3, 12, 9), (20, 0, 40, 30), (0, 0, 5, 30), (8, 8, 30, 25)]
# Image 11 has instances of every form, the last one crowd; image 12 none; image 13 crowd alone.
ANNOTATIONS = [
    annotation(1, 11, 90, BOXES[0], polygon(*BOXES[0])),
    annotation(2, 11, 3, BOXES[1], run_lengths(rectangle(*BOXES[1]), compressed=True)),
    annotation(3, 13, 7, BOXES[3], run_lengths(rectangle(*BOXES[3]), compressed=False), crowd=1),
    annotation(4, 11, 7, BOXES[2], run_lengths(rectangle(*BOXES[2]), compressed=False)),
    annotation(5, 11, 3, BOXES[3], run_lengths(rectangle(*BOXES[3]), compressed=False), crowd=1),
]


def content(annotations=ANNOTATIONS, categories=CATEGORIES):
    images = [{"id": id, "file_name": f"{id:012}.png", "width": WIDTH, "height": HEIGHT} for id in (11, 12, 13)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def write(root, train=None, val=None, published=False):
    """Both files, with three images each."""
    for split, written in (("train", train or content()), ("val", val or content())):
        file = root / (f"annotations/instances_{split}2017.json" if published else f"{split}.json")
        folder = root / (f"{split}2017" if published else split)
        for path in (file.parent, folder):
            path.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(written))
        for id in (11, 12, 13):
            picture(id).save(folder / f"{id:012}.png")
    return root


def changed(entries, index, **values):
    """A copy of a list of dictionaries with one of them changed; a value of None takes the key out."""
    new = {key: value for key, value in {**entries[index], **values}.items() if value is not None}
    return [*entries[:index], new, *entries[index + 1 :]]


# ---- what is read


@pytest.mark.parametrize("published", [False, True])
def test_instances_are_read_as_they_were_written(tmp_path, published):
    train, val = open_scenes("coco", write(tmp_path, published=published), "detection")
    assert train.classes == val.classes == ["car", "train", "brush"]
    for source in (train, val):
        scene = source.read(0)
        assert scene.image.tobytes() == picture(11).tobytes() and scene.class_map is None
        assert scene.instances.labels.tolist() == [2, 0, 1, 0]
        assert scene.instances.crowd.tolist() == [False, False, False, True]
        expected = torch.tensor(BOXES)
        assert torch.equal(scene.instances.boxes, expected.float()) and scene.instances.boxes.dtype == torch.float32
        assert torch.equal(scene.instances.masks, torch.from_numpy(np.stack([rectangle(*box) for box in BOXES])))
        assert torch.equal(masks_to_boxes(scene.instances.masks) + torch.tensor([0, 0, 1, 1]), scene.instances.boxes)


def test_masks_are_those_of_cocos_own_code(tmp_path):
    """Of shapes with slanted borders, several parts, and parts outside the image."""
    random = np.random.default_rng(0)
    shapes = [[(random.uniform(-10, 50, 2 * n)).round(2).tolist() for n in parts] for parts in ((3,), (5, 4), (12,))]
    annotations = [annotation(i, 11, 3, (0, 0, 40, 30), shape) for i, shape in enumerate(shapes, 1)]
    grain = random.random((HEIGHT, WIDTH)) < 0.5
    annotations += [
        annotation(10 + compressed, 11, 3, (0, 0, 40, 30), run_lengths(grain, compressed)) for compressed in (0, 1)
    ]
    train, _ = open_scenes("coco", write(tmp_path, train=content(annotations)), "detection")
    theirs = COCO(str(tmp_path / "train.json"))
    expected = [theirs.annToMask(entry) for entry in theirs.loadAnns(theirs.getAnnIds(imgIds=[11]))]
    assert torch.equal(train.read(0).instances.masks, torch.from_numpy(np.stack(expected)).bool())
    assert train.read(0).instances.masks.is_contiguous() and all(0 < mask.sum() < mask.size for mask in expected)
    np.testing.assert_array_equal(train.read(0).instances.masks[-1].numpy(), grain)


def test_images_without_judged_instances_are_held_out_and_not_trained_on(tmp_path):
    train, val = open_scenes("coco", write(tmp_path), "detection")
    assert (len(train), len(val)) == (1, 3)
    nothing, crowd_alone = val.read(1).instances, val.read(2).instances
    shapes = [tuple(getattr(nothing, name).shape) for name in ("boxes", "labels", "masks", "crowd")]
    assert shapes == [(0, 4), (0,), (0, HEIGHT, WIDTH), (0,)]
    assert [getattr(nothing, name).dtype for name in ("labels", "masks", "crowd")] == [torch.int64, *[torch.bool] * 2]
    assert crowd_alone.crowd.tolist() == [True] and val.read(2).image.tobytes() == picture(13).tobytes()


def test_boxes_are_cut_at_the_border_and_left_out_where_nothing_remains(tmp_path):
    boxes = [(-5, -5, 10, 10), (30, 20, 50, 40), (3, 3, 3, 9), (3, 4, 9, 4), (45, 0, 50, 9), (-9, 0, -1, 9)]
    annotations = [annotation(i, 11, 3, box, polygon(*box)) for i, box in enumerate(boxes)]
    annotations.append(annotation(99, 12, 3, (3, 3, 3, 9), polygon(3, 3, 3, 9)))
    train, _ = open_scenes("coco", write(tmp_path, train=content(annotations)), "detection")
    assert len(train) == 1 and train.read(0).instances.boxes.tolist() == [[0, 0, 10, 10], [30, 20, 40, 30]]
    assert len(train.read(0).instances.masks) == 2


def test_an_image_is_turned_as_its_exif_data_say_and_the_file_means_that(tmp_path):
    write(tmp_path)
    upright = picture(11)
    exif = Image.Exif()
    exif[274] = 6
    for split in ("train", "val"):
        upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / split / f"{11:012}.png", exif=exif)
    train, _ = open_scenes("coco", tmp_path, "detection")
    assert train.read(0).image.tobytes() == upright.tobytes()


def test_what_is_kept_of_annotations_takes_little_memory():
    """A float of a polygon has 8 bytes and a byte for its kind, where a Python object has 24 and a pointer."""
    entries = [[(1, False, [float(i)] * 4, [[i + k / 7 for k in range(100)]])] for i in range(500)]
    expected = list(entries)
    tracemalloc.start()
    pickled = Pickled(entries)
    entries.clear()
    assert tracemalloc.get_traced_memory()[0] < 500 * 100 * 11
    tracemalloc.stop()
    assert [pickled[i] for i in range(500)] == expected


# ---- what is said


def test_a_root_that_is_not_the_data_is_told_with_what_it_must_have(tmp_path):
    layouts = r"annotations/instances_train2017\.json, .*, val2017 or train\.json, train, val\.json, val"
    the_error(
        rf"data=coco does not know which folder to read: set data\.root=PATH \({layouts}\)", "coco", None, "detection"
    )
    the_error(
        rf"finds no annotations/.* in {tmp_path}: set data.root=PATH to .* {layouts}", "coco", tmp_path, "detection"
    )
    write(tmp_path)
    (tmp_path / "val.json").unlink()
    the_error(rf"data=coco finds no val\.json in {tmp_path}: set", "coco", tmp_path, "detection")
    the_error("data=coco has no class maps, which task=segmentation needs: set data=ade20k or", "coco", tmp_path)


def test_an_unknown_name_is_told_with_the_nearest():
    the_error(r"unknown data 'cocoa'; did you mean 'coco'\? \(data of transfer: ade20k, coco, ", "cocoa", None)


def test_the_missing_package_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr("recon.dense.coco.find_spec", lambda name: None)
    the_error(r"faster-coco-eval: pip install 'recon\[transfer\]'", "coco", write(tmp_path), "detection")


@pytest.mark.parametrize("written", ["{", '{"images": [1', "\x00"])
def test_damaged_json_is_told(tmp_path, written):
    write(tmp_path)
    (tmp_path / "train.json").write_text(written)
    the_error(rf"^{tmp_path}/train\.json is no sound JSON: .*; get it again", "coco", tmp_path, "detection")


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
@pytest.mark.parametrize("empty", [True, False])
def test_a_file_without_one_of_its_parts_is_told(tmp_path, key, empty):
    written = {k: v for k, v in content().items() if k != key}
    write(tmp_path, val={**written, **({key: []} if empty else {})})
    the_error(rf"val\.json has no {key}: data=coco needs images, annotations and", "coco", tmp_path, "detection")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"category_id": 4}, "annotation 2 has the category_id 4, which the file does not list; mend it"),
        ({"image_id": 99}, "annotation 2 has the image_id 99, which the file does not list; mend it"),
        ({"segmentation": []}, "annotation 2 has no segmentation"),
        ({"segmentation": None}, "annotation 2 has no segmentation"),
        ({"bbox": None}, r"train\.json cannot be read: no 'bbox' in an entry"),
        ({"bbox": [1, 2, 3]}, r"train\.json cannot be read: "),
    ],
)
def test_an_annotation_that_cannot_be_used_is_told(tmp_path, values, words):
    write(tmp_path, train=content(changed(ANNOTATIONS, 1, **values)))
    the_error(rf"train\.json.*{words}" if words.startswith("annotation") else words, "coco", tmp_path, "detection")


@pytest.mark.parametrize(
    "segmentation",
    [
        ["words"],
        {"counts": [0, 5000], "size": [HEIGHT, WIDTH]},
        {"counts": [WIDTH * HEIGHT], "size": [WIDTH, HEIGHT]},
    ],
)
def test_a_segmentation_that_is_none_is_told_when_it_is_read(tmp_path, segmentation):
    write(tmp_path, train=content(changed(ANNOTATIONS, 1, segmentation=segmentation)))
    words = rf"train\.json, segmentation of {11:012}\.png, cannot be read: .*; replace it"
    the_error(words, "coco", tmp_path, "detection", read=True)


def test_images_that_are_missing_are_told(tmp_path):
    write(tmp_path)
    (tmp_path / "val" / f"{12:012}.png").unlink()
    the_error(rf"val\.json names images that .*/val lacks: {12:012}\.png; get them", "coco", tmp_path, "detection")


def test_categories_that_differ_are_told(tmp_path):
    for categories in ([*CATEGORIES, {"id": 8, "name": "truck"}], changed(CATEGORIES, 2, name="truck")):
        write(tmp_path, val=content(categories=categories))
        the_error(r"train\.json and .*val\.json differ in the category (7|8), 'tr", "coco", tmp_path, "detection")


def test_training_on_crowd_alone_is_told(tmp_path):
    write(tmp_path, train=content(ANNOTATIONS[2:3]))
    the_error(r"train\.json has no image with an instance that is no crowd", "coco", tmp_path, "detection")


def test_an_image_of_another_size_than_the_file_says_is_told(tmp_path):
    write(tmp_path)
    picture(0, WIDTH - 1, HEIGHT).save(tmp_path / "train" / f"{11:012}.png")
    the_error(r"\.png has 39 x 30 pixels, but 40 x 30 in .*train\.json: mend", "coco", tmp_path, "detection", read=True)


def test_a_damaged_image_is_named_when_it_is_read(tmp_path):
    write(tmp_path)
    (tmp_path / "val" / f"{13:012}.png").write_bytes(b"no picture")
    the_error(rf"val/{13:012}\.png cannot be read: .*; replace it", "coco", tmp_path, "detection", read=True)
