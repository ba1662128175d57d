"""Label fractions and held-back parts: proportion, nesting, and classes that are never lost."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses import InvalidSetting
from recon.probing.labelled import fraction, held_back

SIZES = (963, 955, 993, 858, 40, 7, 1)  # of the classes of a set


def shuffled(sizes: tuple[int, ...]) -> torch.Tensor:
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(9))]


LABELS = shuffled(SIZES)
sizes = st.lists(st.integers(1, 60), min_size=1, max_size=8).map(tuple)


@given(sizes, st.floats(0.001, 1), st.integers(0, 9))
def test_a_fraction_has_its_size_its_proportions_and_every_class(sizes, share, seed):
    labels = shuffled(sizes)
    found = fraction(labels, share, seed)
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
    small, large = (set(fraction(labels, share, seed).tolist()) for share in sorted((a, b)))
    assert small <= large


def test_known_counts():
    counts = LABELS[fraction(LABELS, 0.1, 0)].bincount()
    assert counts.tolist() == [96, 95, 99, 86, 4, 1, 1] and sum(counts) == round(0.1 * len(LABELS))


def test_everything_is_a_fraction_too():
    assert torch.equal(fraction(LABELS, 1, 3), torch.arange(len(LABELS)))


@pytest.mark.parametrize(
    "choose", [lambda seed: fraction(LABELS, 0.1, seed), lambda seed: held_back(LABELS, 0.2, seed)[1]]
)
def test_the_seed_chooses_the_images(choose):
    assert torch.equal(choose(3), choose(3))
    # Of 3,817 images two random tenths share 1%, two random fifths 4%: far from all.
    assert torch.isin(choose(3), choose(4)).float().mean() < 0.3


def test_every_image_is_as_likely_as_another_of_its_class():
    times = torch.zeros(50)
    labels = shuffled((30, 20))
    for seed in range(400):
        times[fraction(labels, 0.2, seed)] += 1
    # Binomial with 400 trials of 0.2: 80 +- 8.
    assert times.min() > 80 - 4 * 8 and times.max() < 80 + 4 * 8


@given(sizes, st.floats(0.01, 0.99), st.integers(0, 9))
def test_what_is_held_back_is_disjoint_and_leaves_every_class(sizes, share, seed):
    labels, counts = shuffled(sizes), torch.tensor(sizes)
    fit, select = held_back(labels, share, seed)
    assert torch.equal(torch.cat([fit, select]).sort().values, torch.arange(len(labels)))
    back = labels[select].bincount(minlength=len(sizes))
    expected = (share * counts.double()).round().clamp(min=1).minimum(counts - 1)
    assert torch.equal(back.double(), expected)
    assert ((back > 0) == (counts > 1)).all() and (back < counts).all()


def test_what_is_held_back_does_not_follow_from_what_the_fraction_took():
    first = fraction(LABELS, 0.2, 0)
    # Were both one order's beginnings, all would be shared; independent fifths share a fifth, 153 +- 11 of 763.
    assert torch.isin(held_back(LABELS, 0.2, 0)[1], first).float().mean() < 0.3


def test_with_one_image_per_class_nothing_is_held_back():
    fit, select = held_back(torch.tensor([4, 2, 7]), 0.5, 0)
    assert fit.tolist() == [0, 1, 2] and select.tolist() == [] and select.dtype == torch.int64


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan")])
@pytest.mark.parametrize("function", [fraction, held_back])
def test_a_share_that_is_none_is_named(function, share):
    with pytest.raises(InvalidSetting, match=f"share of {share}"):
        function(LABELS, share, 0)


def test_no_labels_are_an_error():
    with pytest.raises(InvalidSetting, match="no labelled images"):
        fraction(LABELS[:0], 0.5, 0)
    with pytest.raises(InvalidSetting, match="a share of 1 "):
        held_back(LABELS, 1, 0)
