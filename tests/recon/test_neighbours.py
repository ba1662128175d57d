"""Nearest neighbours: against scikit-learn, and what must not matter."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from losses import InvalidSetting
from recon import neighbours
from recon.neighbours import knn

CLASSES = 6


def clusters(n: int, seed: int, dimensions: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping classes in a common direction, of which about two thirds are told rightly."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, dimensions, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(CLASSES, (n,), generator=generator)
    return centres[labels] + 1.5 * torch.randn(n, dimensions, generator=generator) + 0.5, labels


@pytest.fixture(scope="module")
def data():
    return *clusters(700, 1), *clusters(300, 2)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_all_predictions_are_scikit_learn_s(data, temperature):
    features, labels, queries, truth = data
    found = knn(features, labels, queries, CLASSES, (1, 5, 20, 700), temperature)
    for k, predicted in found.items():
        theirs = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
        ).fit(features.double().numpy(), labels.numpy())
        assert predicted.tolist() == theirs.predict(queries.double().numpy()).tolist()
    assert 0.5 < (found[20] == truth).float().mean() < 0.9


def test_k_the_temperature_and_the_votes_matter(data):
    features, labels, queries, _ = data
    found = knn(features, labels, queries, CLASSES)
    flat = knn(features, labels, queries, CLASSES, temperature=100.0)
    assert not torch.equal(found[1], found[20]) and not torch.equal(found[20], flat[20])
    assert torch.equal(found[1], flat[1])


def test_batches_of_queries_and_of_the_bank_change_nothing(data, monkeypatch):
    features, labels, queries, _ = data
    whole = knn(features, labels, queries, CLASSES, (1, 5, 20, 700))
    for bank, batch in ((13, 7), (699, 299), (19, 300)):
        monkeypatch.setattr(neighbours, "TRAINING_CHUNK", bank)
        monkeypatch.setattr(neighbours, "QUERY_CHUNK", batch)
        parts = knn(features, labels, queries, CLASSES, (1, 5, 20, 700))
        assert all(torch.equal(parts[k], whole[k]) for k in whole)


def test_each_k_alone_is_the_same(data):
    features, labels, queries, _ = data
    together = knn(features, labels, queries, CLASSES, (20, 1, 5))
    assert list(together) == [20, 1, 5]
    assert all(torch.equal(together[k], knn(features, labels, queries, CLASSES, (k,))[k]) for k in together)


def test_the_order_and_the_length_of_training_features_do_not_matter(data):
    features, labels, queries, _ = data
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(features), generator=generator)
    lengths = 10 ** torch.empty(len(features), 1).uniform_(-3, 3, generator=generator)
    expected = knn(features, labels, queries, CLASSES)
    found = knn((features * lengths)[order], labels[order], queries * 1e4, CLASSES)
    assert all(torch.equal(found[k], expected[k]) for k in expected)


def test_a_training_image_is_its_own_nearest_neighbour(data):
    features, labels, *_ = data
    found = knn(features, labels, features, CLASSES, temperature=1e-3)
    assert torch.equal(found[1], labels) and torch.equal(found[20], labels)


def test_permuted_labels_are_chance(data):
    features, labels, queries, truth = data
    wrong = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    share = (knn(features, wrong, queries, CLASSES)[20] == truth).float().mean()
    assert abs(share - 1 / CLASSES) < 4 * (1 / CLASSES * (1 - 1 / CLASSES) / len(truth)) ** 0.5


def test_beyond_the_bank_all_images_vote(data):
    features, labels, queries, _ = data
    found = knn(features[:15], labels[:15], queries, CLASSES, (15, 20))
    assert torch.equal(found[15], found[20])


def test_equal_votes_go_to_the_lowest_class():
    same = torch.ones(4, 3)
    assert knn(same, torch.tensor([3, 2, 2, 3]), same[:1], 5, (4,))[4].tolist() == [2]


def test_features_of_zeros_are_as_far_from_everything():
    features, labels = torch.tensor([[0.0, 0.0], [-1.0, 0.0]]), torch.tensor([1, 0])
    assert knn(features, labels, torch.tensor([[1.0, 0.0]]), 2, (1,))[1].tolist() == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 5}, "labels from 0 to 5 where there are 5 classes"),
        ({"features": torch.full((700, 12), torch.nan)}, "not finite"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, "700 training features with 3 labels"),
    ],
)
def test_wrong_input_is_named(data, change, message):
    features, labels, queries, _ = data
    with pytest.raises(InvalidSetting, match=message):
        knn(**{"features": features, "labels": labels, "queries": queries, "classes": CLASSES} | change)


@pytest.mark.gpu
def test_cuda_finds_the_same(data, device):
    features, labels, queries, _ = data
    here, there = (knn(*(x.to(d) for x in (features, labels, queries)), CLASSES) for d in ("cpu", device))
    assert all((here[k] == there[k].cpu()).float().mean() > 0.99 for k in here)
