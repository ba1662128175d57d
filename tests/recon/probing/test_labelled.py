"""Labelled images: what can be probed and what cannot, subsets by class, and test labels that are never read."""

import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from losses import InvalidSetting
from recon.probing.labelled import HeldOutLabels, LabelledImages, open_task, stratified_split, stratified_subset


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
    assert task.classes == ["cat", "dog"] and len(task.test_labels) == 3 and len(task.test_indices) == 3
    right = task.test_labels.correct("right", torch.tensor([0, 1, 1]))
    assert right.tolist() == [True] * 3


def test_a_subset_keeps_images_and_labels_together(two_classes):
    train = open_task("folder", two_classes).train
    part = train.subset(torch.tensor([4, 1]))
    assert isinstance(part, LabelledImages)
    assert [part.source.name_of(i) for i in part.indices] == ["dog/1.png", "cat/1.png"]
    assert part.labels.tolist() == [1, 0] and part.classes == train.classes


def test_test_labels_answer_each_probe_once():
    sealed = HeldOutLabels(torch.tensor([0, 1, 2]))
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


def test_a_name_that_is_not_utf_8_is_a_name_of_its_own(two_classes):
    digests = {open_task("folder", two_classes).digest}
    image = two_classes / "train/cat/1.png"
    for name in (b"caf\xe9\x1b.png", b"caf\xe8\x1b.png", b"caf\\xe9\\x1b.png"):
        image = image.rename(image.with_name(os.fsdecode(name)))
        digests.add(open_task("folder", two_classes).digest)
    assert len(digests) == 4


def test_test_images_that_are_training_images_too_are_counted(two_classes):
    assert open_task("folder", two_classes).duplicates == 0
    shutil.copy(two_classes / "train/cat/0.png", two_classes / "val/dog/copy.png")
    assert open_task("folder", two_classes).duplicates == 1


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"train": 4, "val": 2}, "data=folder has no classes"),
        ({"train/cat": 3, "train/dog": 2, "val/cat": 1}, "different classes; on one side alone: dog"),
        ({"train/cat": 3, "train/dog": 1, "val/cat": 1, "val/dog": 1}, "class dog has one training image"),
        ({"train/cat": 3, "train/dog": 2, "val/cat": 1, "val/emu": 1}, "in none of the 2 classes"),
        ({"train/cat": 3, "train/dog": 2, "val": 3}, "data=folder has held-out images without a class"),
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

        def training_samples(self, *_):
            yield from ()

    monkeypatch.setattr(labelled, "create_dataset", lambda *_: Stream())
    with pytest.raises(InvalidSetting, match="data=wds/birds is a stream"):
        open_task("wds/birds", tmp_path)


def test_the_embedded_photographs_can_be_probed():
    task = open_task("photos", None)
    assert len(task.classes) == 8 and len(task.train) == 1183
    assert task.train.labels.unique().tolist() == list(range(8))
    assert task.duplicates == 0


SIZES = (963, 955, 993, 858, 40, 7, 1)  # of the classes of a set


def shuffled(sizes: tuple[int, ...]) -> torch.Tensor:
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(9))]


LABELS = shuffled(SIZES)
sizes = st.lists(st.integers(1, 60), min_size=1, max_size=8).map(tuple)


@given(sizes, st.floats(0.001, 1), st.integers(0, 9))
def test_a_fraction_has_its_size_its_proportions_and_every_class(sizes, share, seed):
    labels = shuffled(sizes)
    found = stratified_subset(labels, share, seed)
    assert len(found) == max(len(sizes), round(share * len(labels)))
    assert (found.diff() > 0).all()
    counts = labels[found].bincount(minlength=len(sizes))
    assert (counts >= 1).all()
    more_than_one = counts > 1  # one level that each class of more than one image has reached, and none has exceeded
    reached = ((counts - 0.5) / torch.tensor(sizes))[more_than_one]
    exceeded = (counts + 0.5) / torch.tensor(sizes)
    assert not more_than_one.any() or reached.max() <= exceeded.min() + 1e-12


@given(sizes, st.floats(0.001, 1), st.floats(0.001, 1), st.integers(0, 9))
def test_a_smaller_fraction_lies_within_a_larger_one(sizes, a, b, seed):
    labels = shuffled(sizes)
    small, large = (set(stratified_subset(labels, share, seed).tolist()) for share in sorted((a, b)))
    assert small <= large


def test_known_counts():
    counts = LABELS[stratified_subset(LABELS, 0.1, 0)].bincount()
    assert counts.tolist() == [96, 95, 99, 86, 4, 1, 1] and sum(counts) == round(0.1 * len(LABELS))


def test_everything_is_a_fraction_too():
    assert torch.equal(stratified_subset(LABELS, 1, 3), torch.arange(len(LABELS)))


@pytest.mark.parametrize(
    "choose", [lambda seed: stratified_subset(LABELS, 0.1, seed), lambda seed: stratified_split(LABELS, 0.2, seed)[1]]
)
def test_the_seed_chooses_the_images(choose):
    assert torch.equal(choose(3), choose(3))
    # Of 3,817 images two random tenths share 1%, two random fifths 4%: far from all.
    assert torch.isin(choose(3), choose(4)).float().mean() < 0.3


def test_every_image_is_as_likely_as_another_of_its_class():
    times = torch.zeros(50)
    labels = shuffled((30, 20))
    for seed in range(400):
        times[stratified_subset(labels, 0.2, seed)] += 1
    # Binomial with 400 trials of 0.2: 80 +- 8.
    assert times.min() > 80 - 4 * 8 and times.max() < 80 + 4 * 8


@given(sizes, st.floats(0.01, 0.99), st.integers(0, 9))
def test_what_is_held_back_is_disjoint_and_leaves_every_class(sizes, share, seed):
    labels, counts = shuffled(sizes), torch.tensor(sizes)
    fit, select = stratified_split(labels, share, seed)
    assert torch.equal(torch.cat([fit, select]).sort().values, torch.arange(len(labels)))
    back = labels[select].bincount(minlength=len(sizes))
    expected = (share * counts.double()).round().clamp(min=1).minimum(counts - 1)
    assert torch.equal(back.double(), expected)
    assert ((back > 0) == (counts > 1)).all() and (back < counts).all()


def test_what_is_held_back_does_not_follow_from_what_the_fraction_took():
    first = stratified_subset(LABELS, 0.2, 0)
    # Were both one order's beginnings, all would be shared; independent fifths share a fifth, 153 +- 11 of 763.
    assert torch.isin(stratified_split(LABELS, 0.2, 0)[1], first).float().mean() < 0.3


def test_with_one_image_per_class_nothing_is_stratified_split():
    fit, select = stratified_split(torch.tensor([4, 2, 7]), 0.5, 0)
    assert fit.tolist() == [0, 1, 2] and select.tolist() == [] and select.dtype == torch.int64


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan")])
@pytest.mark.parametrize("function", [stratified_subset, stratified_split])
def test_a_share_that_is_none_is_named(function, share):
    with pytest.raises(InvalidSetting, match=f"share of {share} "):
        function(LABELS, share, 0)


def test_no_labels_are_an_error():
    with pytest.raises(InvalidSetting, match="of 0 labelled images"):
        stratified_subset(LABELS[:0], 0.5, 0)
    with pytest.raises(InvalidSetting, match="a share of 1 "):
        stratified_split(LABELS, 1, 0)
