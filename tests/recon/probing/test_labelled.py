"""Images with classes: what can be probed, what cannot, and test labels that are asked but not read."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from losses import InvalidSetting
from recon.probing.labelled import Labelled, Sealed, open_task


def folders(place: Path, counts: dict[str, int]) -> Path:
    """`counts`: "train/cat" -> how many images, no two alike."""
    for number, (below, count) in enumerate(counts.items()):
        (place / below).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (9, 8), (number, i, 77)).save(place / below / f"{i}.png")
    return place


@pytest.fixture
def two_classes(tmp_path) -> Path:
    return folders(tmp_path / "data", {"train/cat": 3, "train/dog": 2, "val/cat": 1, "val/dog": 2})


def test_labels_stand_beside_the_images_of_their_class(two_classes):
    task = open_task("folder", two_classes)
    names = [task.train.source.name_of(i) for i in task.train.indices]
    assert [name.split("/")[0] for name in names] == [task.classes[label] for label in task.train.labels]
    assert task.classes == ["cat", "dog"] and len(task.answers) == 3 and len(task.test_indices) == 3
    right = task.answers.correct("right", torch.tensor([0, 1, 1]))
    assert right.tolist() == [True] * 3


def test_a_subset_keeps_images_and_labels_together(two_classes):
    train = open_task("folder", two_classes).train
    part = train.subset(torch.tensor([4, 1]))
    assert isinstance(part, Labelled)
    assert [part.source.name_of(i) for i in part.indices] == ["dog/1.png", "cat/1.png"]
    assert part.labels.tolist() == [1, 0] and part.classes == train.classes


def test_test_labels_answer_each_probe_once():
    sealed = Sealed(torch.tensor([0, 1, 2]))
    assert sealed.correct("linear", torch.tensor([0, 2, 2])).tolist() == [True, False, True]
    assert sealed.correct("knn", torch.tensor([1, 1, 1])).tolist() == [False, True, False]
    with pytest.raises(RuntimeError, match="linear asked for its test accuracy twice"):
        sealed.correct("linear", torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("change", ["a byte", "a name", "a label"])
def test_the_digest_is_of_names_labels_and_bytes(two_classes, change):
    before = open_task("folder", two_classes).digest
    assert open_task("folder", two_classes).digest == before
    image = two_classes / "train/cat/1.png"
    if change == "a byte":
        Image.new("RGB", (9, 8), (200, 0, 0)).save(image)
    elif change == "a name":
        image.rename(image.with_name("9.png"))
    else:
        image.rename(two_classes / "train/dog/7.png")
    assert open_task("folder", two_classes).digest != before


def test_test_images_that_are_training_images_too_are_counted(two_classes):
    assert open_task("folder", two_classes).repeated == 0
    shutil.copy(two_classes / "train/cat/0.png", two_classes / "val/dog/copy.png")
    assert open_task("folder", two_classes).repeated == 1


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"train": 4, "val": 2}, "data=folder has no classes"),
        ({"train/cat": 3, "train/dog": 2, "val/cat": 1}, "different classes; on one side alone: dog"),
        ({"train/cat": 3, "train/dog": 1, "val/cat": 1, "val/dog": 1}, "class dog has one training image"),
        ({"train/cat": 3, "train/dog": 2, "val/cat": 1, "val/emu": 1}, "in none of the 2 classes"),
    ],
)
def test_data_that_cannot_be_probed_is_named(tmp_path, counts, said):
    place = folders(tmp_path / "data", counts)
    with pytest.raises(InvalidSetting, match=re.escape(said)):
        open_task("folder", place)


def test_streams_are_refused_by_name(tmp_path, monkeypatch):
    from recon.data import StreamedSource
    from recon.probing import labelled

    class Stream(StreamedSource):
        name = "wds/birds"

        def __iter__(self):
            yield from ()

        def endless(self, *_):
            yield from ()

    monkeypatch.setattr(labelled, "create_dataset", lambda *_: Stream())
    with pytest.raises(InvalidSetting, match="data=wds/birds is a stream"):
        open_task("wds/birds", tmp_path)


def test_the_embedded_photographs_can_be_probed():
    task = open_task("photos", None)
    assert len(task.classes) == 8 and len(task.train) == 1183
    assert task.train.labels.unique().tolist() == list(range(8))
    assert task.repeated == 0
