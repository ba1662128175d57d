"""Which parts of the encoder are trained, which stay, and how fast each learns."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from recon.probing.fine_tuning import Classifier, parameter_groups, set_rates
from recon.probing.heads import BatchNormLinear
from recon.probing.recipes import attentive, finetune, paper_linear, partial
from recon.training.device import make_fabric
from tests.recon.probing.few_photos import FABRIC, encoder, few_photos, images, shortly, tuned

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
    classifier = tuned(shortly(partial(blocks)), few_photos(1), model)
    before = model.state_dict()
    changed = {name for name, x in classifier.encoder.state_dict().items() if not torch.equal(x, before[name])}
    assert changed == names(classifier, TRAINED[blocks])


@pytest.mark.parametrize("blocks", TRAINED)
def test_gradient_reaches_exactly_what_is_trained(blocks):
    classifier = Classifier(encoder(), partial(blocks), 8, FABRIC)
    F.cross_entropy(classifier(images()), torch.arange(4)).backward()
    reached = {name for name, p in classifier.encoder.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == names(classifier, TRAINED[blocks])
    assert all(p.grad.any() for p in classifier.head.parameters())


@pytest.mark.parametrize(("blocks", "graphs"), [(0, 0), (0.5, 1), (1, 2), (2, 4), (4, 8)])
def test_frozen_halves_keep_no_graph(blocks, graphs):
    classifier = Classifier(encoder(), partial(blocks), 8, FABRIC)
    kept = []
    for block in classifier.encoder.blocks:
        for half in (block.attn, block.mlp):
            half.register_forward_hook(lambda module, given, output: kept.append(output.requires_grad))
    classifier(images())
    assert kept == [False] * (8 - graphs) + [True] * graphs


def test_the_encoder_s_norm_is_trained_only_with_the_whole_encoder():
    def norm(blocks: float) -> bool:
        recipe = replace(partial(blocks), head=BatchNormLinear)
        return Classifier(encoder(), recipe, 8, FABRIC).encoder.norm.weight.requires_grad

    assert [norm(blocks) for blocks in (0, 3, 4)] == [False, False, True]


@pytest.mark.parametrize("recipe", [paper_linear(), attentive()])
def test_frozen_recipes_read_what_encode_says(recipe):
    model = encoder()
    classifier = Classifier(model, recipe, 8, FABRIC).eval()
    assert torch.equal(classifier(images()), classifier.head(model.encode(images())))


def test_only_what_is_trained_is_ever_in_training_mode():
    classifier = Classifier(encoder(), partial(1.5), 8, FABRIC).train()
    awake = {name for name, module in classifier.encoder.named_modules() if module.training}
    assert all(name.startswith(("blocks.3", "blocks.2.norm2", "blocks.2.mlp", "blocks.2.drop_path2")) for name in awake)
    assert {"blocks.3", "blocks.3.drop_path1", "blocks.2.drop_path2"} <= awake
    assert not any(module.training for module in classifier.eval().modules())


def test_blocks_are_dropped_linearly_more_often_with_depth():
    classifier = Classifier(encoder(), replace(finetune(), drop_path=0.3), 8, FABRIC)
    rates = [(block.drop_path1.drop_prob, block.drop_path2.drop_prob) for block in classifier.encoder.blocks]
    assert rates == [pytest.approx((share, share)) for share in (0.0, 0.1, 0.2, 0.3)]


def test_rates_decay_by_layer_and_matrices_alone_decay():
    classifier = Classifier(encoder(), finetune(), 8, FABRIC)
    groups = parameter_groups(classifier, weight_decay=0.05, layer_decay=0.5)
    optimizer = torch.optim.AdamW(groups)
    set_rates(optimizer, 32.0)
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
    exact = Classifier(model, paper_linear(), 8, FABRIC)
    rounded = Classifier(model, paper_linear(), 8, make_fabric("cpu", "bf16"))
    rounded.load_state_dict(exact.state_dict())
    found, expected = rounded.eval()(images()), exact.eval()(images())
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, atol=0.02 * expected.abs().max().item(), rtol=0)
