"""Pictures of transfers: what is drawn of a held-out image, what stays of it, and the file that keeps it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from losses import InvalidSetting
from recon.dense.scenes import IGNORED, Instances, Scene
from recon.dense.transfer_pictures import (
    COLOURS,
    IMAGE,
    OPACITY,
    SHOWN,
    SIDE,
    TRUTH,
    Pictures,
    read,
    row_of,
    stacked,
    write,
    write_overview,
)
from recon.dense.transfer_results import SceneInfo, TransferRecord, TransferResult, file_of
from recon.probing.probe_results import EncoderInfo

ROW = row_of("run", "linear", "frozen, 3 epochs")
PALETTE = [tuple(bytes.fromhex(colour[1:])) for colour in COLOURS.values()]


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def mapped(height: int = 12, width: int = 20, seed: int = 0) -> Scene:
    """Classes 0 to 9 and pixels that are not judged."""
    classes = torch.from_numpy(np.random.default_rng(seed).integers(0, 11, (height, width), dtype=np.uint8))
    return Scene(noise(height, width, seed), class_map=torch.where(classes == 10, IGNORED, classes).to(torch.uint8))


def with_objects() -> Scene:
    """Two objects, and a region that is not judged."""
    boxes = torch.tensor([[2.0, 2, 9, 8], [11, 3, 18, 10], [0, 0, 4, 4]])
    masks = torch.zeros(3, 12, 20, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    instances = Instances(boxes, torch.tensor([0, 9, 2]), masks, torch.tensor([False, False, True]))
    return Scene(noise(12, 20), instances)


def found(scene: Scene, scores: list[float]) -> dict[str, torch.Tensor]:
    """Detections of the scene's objects."""
    of = scene.instances
    return {"boxes": of.boxes, "labels": of.labels, "masks": of.masks, "scores": torch.tensor(scores)}


def drawn_of(*scenes: Scene, row: str = ROW) -> Pictures:
    pictures = Pictures()
    for number, scene in enumerate(scenes):
        pictures.add_class_map(number, row, scene, scene.class_map)
    return pictures


def record_of(encoder: str = "a", digest: str = "d") -> TransferRecord:
    data = SceneInfo("leaves/val", digest, 7, 5, ["x", "y"], 96)
    result = TransferResult("run", "segmentation", "linear", "frozen, 3 epochs", "miou", 0, torch.zeros(5))
    record = TransferRecord("a run", {"run": EncoderInfo("a run", encoder)}, data, {"task": "segmentation"})
    return record.with_results([result], {})


def equal(one: Pictures, other: Pictures) -> bool:
    same = one.rows.keys() == other.rows.keys()
    return same and all(
        len(shown) == len(other.rows[row]) and all(map(np.array_equal, shown, other.rows[row]))
        for row, shown in one.rows.items()
    )


# ---- what is drawn


def test_a_pixel_of_a_class_map_is_its_grey_blended_with_its_classs_colour_and_an_ignored_one_is_grey():
    scene = mapped()
    (picture,) = drawn_of(scene).rows[TRUTH]
    pixels = np.asarray(scene.image) @ np.outer((0.299, 0.587, 0.114), np.ones(3))  # ITU-R 601
    classes = scene.class_map.numpy()
    colours = np.array([*PALETTE, *PALETTE])[np.where(classes == IGNORED, 0, classes)]
    blended = (1 - OPACITY) * pixels + OPACITY * colours
    expected = np.where((classes == IGNORED)[..., None], pixels, blended)
    assert (classes == IGNORED).any() and (classes == 9).any()
    assert np.abs(picture - expected).max() <= 1.5  # both are rounded, the grey and the blend


def test_what_is_found_exactly_looks_like_the_truth_and_the_image_stays_as_it_is():
    scene = mapped()
    rows = drawn_of(scene).rows
    assert list(rows) == [IMAGE, TRUTH, ROW] and np.array_equal(rows[TRUTH][0], rows[ROW][0])
    assert np.array_equal(rows[IMAGE][0], np.asarray(scene.image)) and not np.array_equal(*(rows[IMAGE] + rows[TRUTH]))


def test_the_most_confident_detections_are_drawn_as_many_as_objects_are_judged():
    scene = with_objects()
    every_one = found(scene, [0.3, 0.2, 0.1])
    first = {key: value[:1] for key, value in every_one.items()}
    nothing = {key: value[:0] for key, value in every_one.items()}
    rows = {}
    for name, detections in {"all": every_one, "one": first, "none": nothing}.items():
        pictures = Pictures()
        pictures.add_instances(0, name, scene, detections)
        rows |= pictures.rows
    pictures = Pictures()
    pictures.add_instances(0, "other", scene, every_one | {"scores": torch.tensor([0.1, 0.2, 0.3])})
    assert not np.array_equal(pictures.rows["other"][0], rows["all"][0])  # the region, not the first object
    image, truth, every, one, none = (rows[name][0] for name in (IMAGE, TRUTH, "all", "one", "none"))
    assert np.array_equal(every, truth) and np.array_equal(none, image)
    crowd = scene.instances.masks[2] & ~scene.instances.masks[0]
    assert np.array_equal(truth[crowd.numpy()], image[crowd.numpy()])
    second = (slice(3, 10), slice(11, 18))
    assert np.array_equal(one[second], image[second]) and (truth[second] != image[second]).any()
    assert tuple(truth[3, 14]) == PALETTE[9 % len(PALETTE)]  # on the border of the second box


def test_larger_images_are_shrunk_with_their_sides_and_boxes_keep_a_line_of_a_pixel():
    height, width = 3 * SIDE, 4 * SIDE
    box = torch.tensor([[0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height]])
    nothing = torch.zeros(1, height, width, dtype=torch.bool)
    scene = Scene(Image.new("RGB", (width, height)), Instances(box, torch.tensor([0]), nothing, torch.tensor([False])))
    pictures = Pictures()
    pictures.add_instances(0, "run/x", scene, found(scene, [1.0]))
    shown = pictures.rows[TRUTH][0]
    assert shown.shape == (SIDE * 3 // 4, SIDE, 3)
    side = shown[SIDE // 2 - 20, : SIDE // 2, 2].astype(int)  # across the left side of the box
    assert side.sum() == pytest.approx(PALETTE[0][2], rel=0.35) and side[SIDE // 4 + 3 :].sum() == 0
    assert drawn_of(mapped(12, 20)).rows[IMAGE][0].shape == (12, 20, 3)


def test_the_first_images_are_drawn_and_what_was_drawn_first_stays():
    scenes = [mapped(seed=seed) for seed in range(SHOWN + 2)]
    pictures = drawn_of(*scenes)
    assert {len(shown) for shown in pictures.rows.values()} == {SHOWN}
    before = {row: list(shown) for row, shown in pictures.rows.items()}
    for number, scene in enumerate(scenes):  # of another seed
        pictures.add_class_map(number, ROW, scene, torch.zeros_like(scene.class_map))
    assert equal(pictures, Pictures(before))
    pictures.add_class_map(0, "untrained/knn", scenes[0], torch.zeros_like(scenes[0].class_map))
    assert list(pictures.rows) == [IMAGE, TRUTH, ROW, "untrained/knn"]
    del pictures.rows["untrained/knn"]
    assert equal(pictures, Pictures(before))


def test_pictures_of_several_shapes_stand_in_the_middle_of_one_square():
    tall, wide = stacked([drawn_of(mapped(20, 12)).rows[IMAGE], drawn_of(mapped(6, 10)).rows[IMAGE]])
    assert tall.shape == wide.shape == (1, 20, 20, 3)
    for picture, (height, width) in ((tall[0], (20, 12)), (wide[0], (6, 10))):
        top, left = (20 - height) // 2, (20 - width) // 2
        inside = picture[top : top + height, left : left + width]
        assert np.array_equal(inside, np.asarray(mapped(height, width).image))
        assert (picture.astype(int).sum() - inside.astype(int).sum()) == 3 * 255 * (400 - height * width)


# ---- the file


def test_pictures_are_read_as_they_were_drawn(tmp_path):
    pictures = drawn_of(*(mapped(12 + seed, 20 - seed, seed) for seed in range(SHOWN)))
    write(tmp_path, record_of(), pictures)
    assert equal(read(tmp_path, record_of()), pictures)
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    write(tmp_path, record_of(), read(tmp_path, record_of()))
    assert path.read_bytes() == before


@pytest.mark.parametrize("other", [record_of(encoder="b"), record_of(digest="e")])
def test_pictures_of_another_encoder_or_of_other_scenes_are_not_taken(tmp_path, other):
    assert not read(tmp_path, record_of()).rows
    write(tmp_path, record_of(), drawn_of(mapped()))
    assert not read(tmp_path, other).rows and read(tmp_path, record_of()).rows


def test_a_damaged_file_is_one_line_that_names_it_and_the_remedy(tmp_path):
    write(tmp_path, record_of(), drawn_of(mapped()))
    path = file_of(tmp_path, "segmentation", "pictures.safetensors")
    whole = path.read_bytes()
    for content in (b"", whole[:-1], whole[:300], *(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in
                    range(0, len(whole), len(whole) // 7))):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(InvalidSetting) as error:
            read(tmp_path, record_of())
        told = str(error.value)
        assert str(path) in told and "remove it" in told and "again=true" in told and "\n" not in told


def test_the_overview_has_every_row_in_whole_multiples_of_the_pictures(tmp_path):
    path, record = tmp_path / "overview.png", record_of()
    write_overview(path, record, Pictures())
    assert not path.exists()
    pictures = drawn_of(*(mapped(seed=seed) for seed in range(3)))
    write_overview(path, replace(record, encoders={"run": EncoderInfo("a run", "a")}), pictures)
    picture, enlarged = pil_to_tensor(Image.open(path).convert("RGB")), SIDE // 20
    first = stacked([pictures.rows[IMAGE]])[0][0].repeat(enlarged, 0).repeat(enlarged, 1)
    corner = picture[:, :, 180:].permute(1, 2, 0).numpy()
    scale = corner.shape[1] // (3 * 20 * enlarged)
    assert np.array_equal(corner[: len(first) * scale : scale, : len(first) * scale : scale], first)
