"""Views and mixed batches: what they are, and that seeds alone decide."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from losses import InvalidSetting
from recon.data import Source, UnreadableImage
from recon.probing.fine_tuning import AugmentedViews
from recon.probing.labelled import LabelledImages, seeded
from recon.probing.recipes import Augmentation, Mixing, finetune
from tests.recon.probing.few_photos import SIZE, few_photos

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
FULL = finetune().augmentation.transform(SIZE, MEAN, STD)


def drawn() -> tuple:
    return random.random(), np.random.rand(), torch.rand(()).item()


def batches(train: LabelledImages, batch: int, steps: int, seed: int = 0, workers: int = 0) -> list:
    return list(AugmentedViews(train, FULL, seed).load(batch, steps, workers))


def test_seeded_decides_all_three_generators_and_leaves_them_as_they_were():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = drawn()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with seeded(2**63 + 5):
        inside = drawn()
    assert drawn() == expected
    with seeded(2**63 + 5):
        assert drawn() == inside
    with seeded(5):  # the same low 32 bits
        assert drawn()[1] != inside[1]


def test_generators_are_put_back_after_an_error():
    before = random.getstate(), torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeded(0):
        drawn()
        raise ZeroDivisionError
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_a_sample_does_not_depend_on_batch_workers_or_generators():
    train = few_photos(2)
    whole = batches(train, batch=12, steps=2)
    drawn()
    for workers in (0, 2):
        parts = batches(train, batch=4, steps=6, workers=workers)
        for which in (0, 1):
            assert torch.equal(torch.cat([each[which] for each in parts]), torch.cat([each[which] for each in whole]))


def test_another_seed_gives_other_views():
    train = few_photos(1)
    assert not torch.equal(batches(train, 8, 1, seed=0)[0][0], batches(train, 8, 1, seed=1)[0][0])


def test_every_epoch_shows_every_image_once_under_the_label_it_was_given():
    train = few_photos(2)
    renamed = LabelledImages(train.source, train.indices, torch.arange(16), [str(i) for i in range(16)])
    labels = torch.cat([labels for _, labels in batches(renamed, batch=4, steps=8)])
    for epoch in labels.split(16):
        assert epoch.sort().values.tolist() == list(range(16))
    assert labels[:16].tolist() != labels[16:].tolist()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(workers):
    class Torn(Source):
        def __len__(self) -> int:
            return 2

        def name_of(self, index: int) -> str:
            return str(index)

        def read(self, index: int) -> tuple[Image.Image, int]:
            raise UnreadableImage(f"{index}.png: torn")

    with pytest.raises(InvalidSetting, match="png: torn; a probe needs every image"):
        batches(LabelledImages(Torn(), [0, 1], torch.tensor([0, 1]), ["a", "b"]), batch=2, steps=1, workers=workers)


def test_plain_views_are_8_bit_images():
    image, _ = few_photos(1).source.read(0)
    view = Augmentation().transform((24, 40), MEAN, STD)(image)
    assert view.shape == (3, 24, 40)
    assert torch.equal(view * 255, (view * 255).round())
    assert 0 <= view.min() < view.max() <= 1


def test_erased_pixels_are_standard_normal_to_the_model_and_all_others_stay():
    image = Image.new("RGB", (64, 64), (255, 0, 0))  # every crop is the same; far from the mean
    erase = Augmentation(erasing=1.0).transform((64, 64), MEAN, STD)
    plain = Augmentation().transform((64, 64), MEAN, STD)(image)
    noise = []
    for k in range(20):
        with seeded(k):
            view = erase(image)
        erased = (view - plain).abs().amax(0) > 1e-5
        assert 0.01 < erased.float().mean() < 0.4
        standardised = (view - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        noise.append(standardised[:, erased].flatten())
    noise = torch.cat(noise)
    assert noise.mean().abs() < 5 / len(noise) ** 0.5
    assert (noise.std() - 1).abs() < 5 / len(noise) ** 0.5


def test_the_strongest_augmentation_leaves_something_of_the_image():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    strongest = Augmentation(rand_augment="rand-m10-n1-mstd0.5-inc1").transform(SIZE, MEAN, STD)
    for k in range(150):  # of 15 operations
        with seeded(k):
            assert strongest(image).std() > 0


@pytest.mark.parametrize("mixing", [Mixing(0.8, 1.0), Mixing(0.8, 0.0), Mixing(0.0, 1.0)])
def test_labels_of_a_mixed_batch_sum_to_one_and_say_what_is_in_the_image(mixing):
    labels = torch.arange(6)
    for seed in range(10):
        # an image is its class everywhere, so its mean under one-hot channels is its target
        images = F.one_hot(labels, 6).float().view(6, 6, 1, 1).repeat(1, 1, 16, 16)
        mixed, targets = mixing(images, labels, 6, seed)
        torch.testing.assert_close(targets.sum(1), torch.ones(6))
        torch.testing.assert_close(mixed.mean((2, 3)), targets)


def test_mixing_is_a_function_of_its_seed():
    def mixed(seed: int) -> torch.Tensor:
        images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        return Mixing(0.8, 1.0)(images, torch.arange(4), 4, seed)[0]

    assert torch.equal(mixed(1), mixed(1))
    assert len({mixed(seed).sum(0).mean().item() + mixed(seed)[0].mean().item() for seed in range(8)}) > 4


def test_without_alphas_a_batch_stays():
    images, labels = torch.rand(3, 3, 8, 8), torch.arange(3)
    same, targets = Mixing()(images.clone(), labels, 3, 0)
    assert torch.equal(same, images)
    assert torch.equal(targets, labels)
