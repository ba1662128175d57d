"""The loop: it is the algorithm, it learns, and one seed gives the same bits."""

import random
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from losses import InvalidSetting
from recon.probing.augmentation import Mixing, view_batches
from recon.probing.fine_tuning import Classifier
from recon.probing.heads import PooledLinear
from recon.probing.recipes import attentive, finetune, paper_linear, partial
from tests.recon.probing.few_photos import accuracy, encoder, few_photos, images, shortly, tuned


@pytest.fixture(scope="module")
def photos():
    return few_photos(2)


def test_the_given_model_is_unchanged_and_its_old_gradients_take_no_part(photos):
    clean, used = encoder(), encoder()
    used(images()).prediction.sum().backward()
    gradients = [p.grad.clone() for p in used.parameters()]
    after = [tuned(shortly(finetune()), photos, model) for model in (clean, used)]
    assert all(
        torch.equal(x, y) for x, y in zip(used.state_dict().values(), encoder().state_dict().values(), strict=True)
    )
    assert all(torch.equal(p.grad, g) for p, g in zip(used.parameters(), gradients, strict=True))
    assert all(p.requires_grad for p in used.parameters()) and used.training
    assert same(*after)


def same(a: Classifier, b: Classifier) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_one_seed_is_the_same_bits_whoever_reads_and_whatever_was_drawn_before(photos):
    recipe = shortly(finetune(), epochs=2, drop_path=0.5)
    model = encoder()
    first = tuned(recipe, photos, model)
    torch.rand(5), np.random.rand(5), random.random()
    assert same(first, tuned(recipe, photos, model, workers=2))
    assert not same(first, tuned(recipe, photos, model, seed=1))


def test_blocks_that_run_again_for_their_gradients_drop_the_same_paths_again(photos):
    recipe, again = shortly(finetune(), drop_path=0.5), encoder()
    again.gradient_checkpointing = True
    assert same(tuned(recipe, photos, encoder()), tuned(recipe, photos, again))


def test_another_seed_begins_with_another_head(photos):
    still = shortly(partial(0), base_rate=0.0)
    one, other = (tuned(still, photos, encoder(), seed).head.linear.weight for seed in (0, 1))
    assert not torch.equal(one, other)


def test_every_step_is_mixed_by_a_seed_of_its_own(photos):
    @dataclass(frozen=True)
    class Recorded(Mixing):
        seeds: list = field(default_factory=list)

        def __call__(self, images, labels, classes, seed):
            self.seeds.append(seed)
            return super().__call__(images, labels, classes, seed)

    mixing = Recorded(0.8, 1.0)
    for seed in (0, 1):
        tuned(shortly(partial(0), epochs=2, mixing=mixing), photos, encoder(), seed)
    assert len(set(mixing.seeds)) == 2 * 4


def test_a_run_is_the_algorithm_written_out(photos):
    """Smoothed cross-entropy, a rate that rises over half of the run and falls, and nothing else."""
    model, classes = encoder(), len(photos.classes)
    recipe = shortly(
        attentive(),
        epochs=4,
        head=Plain,
        optimiser=torch.optim.SGD,
        weight_decay=0.0,
        base_rate=32.0,
        warmup=0.5,
        label_smoothing=0.2,
    )
    weight = tuned(replace(recipe, base_rate=0.0), photos, model).head.linear.weight.detach().clone()
    bias = torch.zeros(classes)
    model.norm = torch.nn.Identity()
    views = view_batches(
        photos, recipe.view.transform((32, 32), (0, 0, 0), (1, 1, 1)), batch=8, steps=8, seed=0, workers=0
    )
    for rate, (view, labels) in zip([0.2, 0.4, 0.6, 0.8, 1, 0.8536, 0.5, 0.1464], views, strict=True):
        with torch.no_grad():
            pooled = F.layer_norm(model.encode(view)[:, 1:].mean(1), (64,), eps=1e-6)
        error = (pooled @ weight.T + bias).softmax(1) - (0.8 * F.one_hot(labels, classes) + 0.2 / classes)
        weight -= rate * error.T @ pooled / 8
        bias -= rate * error.mean(0)
    found = tuned(recipe, photos, encoder()).head.linear
    torch.testing.assert_close(found.weight, weight, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.bias, bias, atol=1e-3, rtol=1e-3)


class Plain(PooledLinear):
    """Its norm learns nothing, so that the algorithm can be written in one line."""

    def __init__(self, width: int, classes: int):
        super().__init__(width, classes)
        self.norm = torch.nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def test_generators_stand_as_before(photos):
    model = encoder()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    tuned(shortly(finetune()), photos, model)
    found = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    assert found == (random.random(), np.random.rand(), torch.rand(()).item())


@pytest.mark.parametrize(
    "recipe",
    [
        shortly(paper_linear(), 16, 15, base_rate=100),  # the rate makes up for the few images
        shortly(attentive(), 16, 15, base_rate=0.02),
        shortly(partial(1), 16, 20, base_rate=0.02),
        shortly(finetune(), 16, 20, base_rate=0.02),
    ],
    ids=lambda recipe: recipe.name,
)
@pytest.mark.slow
def test_it_learns_the_photographs(recipe):
    train = few_photos(8)
    assert accuracy(tuned(recipe, train, encoder()), train) > 0.5  # chance: 0.125


def test_a_prediction_depends_on_neither_batch_nor_number_format(photos):
    classifier = tuned(shortly(attentive()), photos, encoder())
    pictures = (images(10) * 255).to(torch.uint8)
    whole = classifier.predict([pictures])
    assert whole.shape == (10,) and whole.dtype == torch.int64
    assert torch.equal(whole, classifier.predict(pictures.split(3)))
    assert torch.equal(whole, classifier.predict([pictures.float() / 255]))
    assert torch.equal(whole, classifier(pictures.float() / 255).argmax(1))


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        (shortly(partial(5)), "the last 5 blocks cannot be trained: the encoder has 4"),
        (finetune(), "finetune: a batch of 1024 from 16 images"),
        (shortly(partial(0), base_rate=1e38), "partial_0 diverged"),
    ],
    ids=["blocks", "batch", "rate"],
)
def test_wrong_settings_are_named(recipe, sentence, photos):
    with pytest.raises(InvalidSetting, match=sentence):
        tuned(recipe, photos, encoder())
