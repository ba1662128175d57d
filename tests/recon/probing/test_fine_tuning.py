"""Fine-tuning: the loop, its exact repetition, and which parts of the encoder are trained and how fast."""

import math
import random
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from losses import InvalidSetting
from recon.model import MaskedAutoencoder
from recon.probing.classifier import BatchNormLinear, Classifier, PooledLinear
from recon.probing.fine_tuning import AugmentedViews
from recon.probing.recipes import Mixing, Recipe, attentive, efficient, finetune, paper_linear, partial_finetune
from recon.training.device import make_fabric
from recon.training.optim import parameter_groups
from tests.recon.probing.few_photos import FABRIC, accuracy, encoder, few_photos, images, shortly, tuned


def made(model: MaskedAutoencoder, recipe: Recipe, fabric=FABRIC) -> Classifier:
    """A classifier of 8 classes, as the recipe says, before training."""
    return Classifier(model, recipe.head(64, 8), recipe.blocks, recipe.drop_path, fabric)


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
    still = shortly(partial_finetune(0), base_rate=0.0)
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
        tuned(shortly(partial_finetune(0), epochs=2, mixing=mixing), photos, encoder(), seed)
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
    transform = recipe.augmentation.transform((32, 32), (0, 0, 0), (1, 1, 1))
    views = AugmentedViews(photos, transform, seed=0).load(batch=8, steps=8, workers=0)
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
        shortly(efficient(), 16, 15, base_rate=100),
        shortly(partial_finetune(1), 16, 20, base_rate=0.02),
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
        (shortly(partial_finetune(5)), "the last 5 blocks cannot be trained: the encoder has 4"),
        (finetune(), "finetune: a batch of 1024 from 16 images"),
        (shortly(partial_finetune(0), base_rate=1e38), "partial_0 diverged"),
    ],
    ids=["blocks", "batch", "rate"],
)
def test_wrong_settings_are_named(recipe, sentence, photos):
    with pytest.raises(InvalidSetting, match=sentence):
        tuned(recipe, photos, encoder())


# blocks -> which of the encoder's tensors are trained, by how their names begin
TRAINED = {
    0: (),
    0.5: ("blocks.3.norm2", "blocks.3.mlp"),
    1: ("blocks.3",),
    1.5: ("blocks.2.norm2", "blocks.2.mlp", "blocks.3"),
    3: ("blocks.1", "blocks.2", "blocks.3"),
    4: ("cls_token", "patch_embed", "blocks"),
    math.inf: ("cls_token", "patch_embed", "blocks"),
}


def names(classifier: Classifier, begin: tuple[str, ...]) -> set[str]:
    """The tensors that are trained; the encoder's norm is not among them, under a head with a norm of its own."""
    return {name for name, _ in classifier.encoder.named_parameters() if begin and name.startswith(begin)}


@pytest.mark.parametrize("blocks", TRAINED)
def test_exactly_the_last_blocks_change(blocks):
    model = encoder()
    classifier = tuned(shortly(partial_finetune(blocks)), few_photos(1), model)
    before = model.state_dict()
    changed = {name for name, x in classifier.encoder.state_dict().items() if not torch.equal(x, before[name])}
    assert changed == names(classifier, TRAINED[blocks])


@pytest.mark.parametrize("blocks", TRAINED)
def test_gradient_reaches_exactly_what_is_trained(blocks):
    classifier = made(encoder(), partial_finetune(blocks))
    F.cross_entropy(classifier(images()), torch.arange(4)).backward()
    reached = {name for name, p in classifier.encoder.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == names(classifier, TRAINED[blocks])
    assert all(p.grad.any() for p in classifier.head.parameters())


@pytest.mark.parametrize(("blocks", "graphs"), [(0, 0), (0.5, 1), (1, 2), (2, 4), (4, 8)])
def test_frozen_halves_keep_no_graph(blocks, graphs):
    classifier = made(encoder(), partial_finetune(blocks))
    kept = []
    for block in classifier.encoder.blocks:
        for half in (block.attn, block.mlp):
            half.register_forward_hook(lambda module, given, output: kept.append(output.requires_grad))
    classifier(images())
    assert kept == [False] * (8 - graphs) + [True] * graphs


def test_the_encoder_s_norm_is_trained_only_with_the_whole_encoder():
    def norm(blocks: float) -> bool:
        recipe = replace(partial_finetune(blocks), head=BatchNormLinear)
        return made(encoder(), recipe).encoder.norm.weight.requires_grad

    assert [norm(blocks) for blocks in (0, 3, 4)] == [False, False, True]


@pytest.mark.parametrize("recipe", [paper_linear(), attentive(), efficient()])
def test_frozen_recipes_read_what_encode_says(recipe):
    model = encoder()
    classifier = made(model, recipe).eval()
    assert torch.equal(classifier(images()), classifier.head(model.encode(images())))


def test_only_what_is_trained_is_ever_in_training_mode():
    classifier = made(encoder(), partial_finetune(1.5)).train()
    awake = {name for name, module in classifier.encoder.named_modules() if module.training}
    assert all(name.startswith(("blocks.3", "blocks.2.norm2", "blocks.2.mlp", "blocks.2.drop_path2")) for name in awake)
    assert {"blocks.3", "blocks.3.drop_path1", "blocks.2.drop_path2"} <= awake
    assert not any(module.training for module in classifier.eval().modules())


def test_blocks_are_dropped_linearly_more_often_with_depth():
    classifier = made(encoder(), replace(finetune(), drop_path=0.3))
    rates = [(block.drop_path1.drop_prob, block.drop_path2.drop_prob) for block in classifier.encoder.blocks]
    assert rates == [pytest.approx((share, share)) for share in (0.0, 0.1, 0.2, 0.3)]


def test_rates_decay_by_layer_and_matrices_alone_decay():
    classifier = made(encoder(), finetune())
    groups = parameter_groups(classifier, weight_decay=0.05, layer_decay=0.5)
    optimizer = torch.optim.AdamW(groups)
    for group in optimizer.param_groups:
        group["lr"] = 32.0 * group["scale"]
    name_of = {p: name for name, p in classifier.named_parameters()}
    found = {
        name_of[p]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]
    }
    assert sum(len(group["params"]) for group in groups) == len(found)
    assert set(found) == {name for name, p in classifier.named_parameters() if p.requires_grad}
    assert found["head.linear.weight"] == (32, 0.05)
    assert found["head.norm.weight"] == (32, 0)
    assert [found[f"encoder.blocks.{i}.attn.qkv.weight"] for i in range(4)] == [(r, 0.05) for r in (2, 4, 8, 16)]
    assert [found[f"encoder.blocks.{i}.mlp.fc1.bias"] for i in range(4)] == [(r, 0) for r in (2, 4, 8, 16)]
    assert found["encoder.patch_embed.proj.weight"] == (1, 0.05)
    assert found["encoder.cls_token"] == (1, 0)


def test_logits_in_bfloat16_are_those_of_float32_but_for_rounding():
    model = encoder()
    exact = made(model, paper_linear())
    rounded = made(model, paper_linear(), make_fabric("cpu", "bf16"))
    rounded.load_state_dict(exact.state_dict())
    found, expected = rounded.eval()(images()), exact.eval()(images())
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, atol=0.02 * expected.abs().max().item(), rtol=0)
