"""Recipes: the published numbers, and what follows from them."""

import json
import math
from dataclasses import replace

import pytest

from losses import InvalidSetting
from recon.probing.recipes import attentive, efficient, finetune, paper_linear, partial_finetune, scratch, small
from recon.training.optim import learning_rate


@pytest.mark.parametrize(
    ("recipe", "rate"),
    [
        (paper_linear(), 6.4),  # table 10: 0.1 * 16384 / 256
        (finetune(), 4e-3),  # table 9: 1e-3 * 1024 / 256
        (attentive(), 1e-3),  # V-JEPA's, absolute
        (efficient(), 1.6),  # its code: 0.1 * 4096 / 256
    ],
)
def test_peak_rates_are_the_published_ones(recipe, rate):
    assert recipe.rate == pytest.approx(rate)


def test_the_rate_follows_the_batch():
    assert replace(finetune(), batch=64).rate == pytest.approx(finetune().rate / 16)


def test_a_smaller_batch_sees_as_many_images():
    recipe = paper_linear()
    assert replace(recipe, batch=recipe.batch // 64).steps(1_281_167) == pytest.approx(
        64 * recipe.steps(1_281_167), rel=1e-4
    )


def test_partial_fine_tuning_changes_nothing_but_the_blocks():
    assert replace(partial_finetune(2), name="", blocks=0) == replace(finetune(), name="", blocks=0)
    assert partial_finetune(math.inf).blocks == finetune().blocks


def test_scratch_has_the_budget_and_everything_else_of_fine_tuning():
    assert replace(finetune(), name="scratch", layer_decay=1) == scratch()


def test_small_data_gets_batches_of_256_and_the_given_epochs():
    recipe = small(finetune(), epochs=30)
    assert (recipe.batch, recipe.epochs, recipe.rate) == (256, 30, pytest.approx(1e-3))
    assert recipe.steps(9_469) == round(30 * 9_469 / 256)


@pytest.mark.parametrize("blocks", [-1, 0.3, 1.25])
def test_blocks_come_in_halves(blocks):
    with pytest.raises(InvalidSetting, match=r"choose 0, 0\.5, 1"):
        partial_finetune(blocks)


def test_an_odd_batch_cannot_be_mixed():
    with pytest.raises(InvalidSetting, match="batch of 63"):
        replace(finetune(), batch=63)
    assert replace(paper_linear(), batch=63).batch == 63


@pytest.mark.parametrize(
    "recipe", [paper_linear(), attentive(), efficient(), partial_finetune(0.5), finetune(), scratch()]
)
def test_a_recipe_in_plain_values_is_json_and_has_every_number(recipe):
    plain = json.loads(json.dumps(recipe.as_dict(), allow_nan=False))
    assert plain["epochs"] == recipe.epochs and plain["learning_rate"] == recipe.rate
    assert plain["optimiser"] == ("LARS" if recipe.name in ("paper_linear", "efficient") else "AdamW")
    assert plain["mixup"] == recipe.mixing.mixup and plain["rand_augment"] == recipe.augmentation.rand_augment


@pytest.mark.parametrize(
    ("recipe", "images", "norms"),
    [
        (paper_linear(), 1_281_167, 225),
        (replace(paper_linear(), batch=256), 9_000, 1.58),
        (small(paper_linear(), epochs=90), 9_000, 101),
    ],
)
def test_how_far_the_paper_s_linear_probe_can_move(recipe, images, norms):
    """The sum over the run of each step's largest share of the weights' norm: trust_coeff * rate / (1 - momentum)."""
    steps = recipe.steps(images)
    rates = sum(learning_rate(k, steps=steps, peak=recipe.rate, warmup=recipe.warmup) for k in range(steps))
    assert rates * 0.001 / (1 - 0.9) == pytest.approx(norms, rel=0.02)
