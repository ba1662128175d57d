"""The dense encoder against the encoder of pretraining, and what may and may not reach a token."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from recon.dense.encoder import DenseEncoder, quarters, windowed_attention
from recon.loaded_run import open_run
from recon.training.optim import parameter_groups
from tests.recon.dense.small_encoders import model_of, pictures

KINDS = [{}, {"class_tokens": 8}, {"mask_tokens": "encoder"}, {"mask_strategy": "noise of 0.25"}, {"refiner_width": 8}]


def flat(maps: Tensor) -> Tensor:
    """(B, D, h, w) -> (B, h·w, D)."""
    return maps.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_at_the_models_own_size_tokens_are_those_of_encode_to_the_bit(kind):
    model, images = model_of(depth=5, **kind), pictures(12, 20)
    encoder = DenseEncoder(model).eval()
    last, third = encoder.tokens(images, [5, 3])
    assert last.shape == (2, 48, 3, 5)
    assert torch.equal(flat(last), model.encode(images)[:, model.class_tokens :])
    assert torch.equal(model.norm(flat(third)), model.encode_layers(images, [3])[0][:, model.class_tokens :])
    assert torch.equal(encoder.encode(images), model.encode(images))


@pytest.mark.parametrize("name", ["bundled", "bundled_sharp"])
def test_the_bundled_model_is_taken_as_it_is_opened(name):
    model, images = open_run(Path(name)).model, pictures(64, 64)
    found = DenseEncoder(model, frozen=True).tokens(images, [4])[0]
    assert torch.equal(flat(found), model.encode(images)[:, 1:])


@pytest.mark.parametrize("size", [(12, 12), (20, 28), (36, 4)])
def test_at_another_size_tokens_are_those_of_a_model_of_that_size(size):
    model, other = model_of(), model_of(image_size=size)
    other.load_state_dict(model.state_dict())
    found = DenseEncoder(model).eval().tokens(pictures(*size), [8])[0]
    assert torch.equal(flat(found), other.encode(pictures(*size))[:, 1:])


def test_learnt_positions_are_kept_and_interpolated():
    model = model_of()
    model.pos_embed.copy_(torch.randn(1, 1, 48, generator=torch.Generator().manual_seed(0)).expand(-1, 16, -1))
    encoder = DenseEncoder(model).eval()
    assert torch.equal(flat(encoder.tokens(pictures(12, 20), [8])[0]), model.encode(pictures(12, 20))[:, 1:])
    torch.testing.assert_close(encoder.positions((7, 4)), model.pos_embed[:, :1].expand(-1, 29, -1))


def test_the_copy_is_the_encoder_alone_and_making_it_changes_nothing():
    model = model_of(refiner_width=8).train()
    model.train_only("decoder")
    weights, generator = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    encoder = DenseEncoder(model)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(
        name.startswith(("patch_embed.", "cls_token", "blocks.", "norm.")) for name, _ in encoder.named_parameters()
    )
    assert all(p.requires_grad and p.device.type == "cpu" for p in encoder.parameters())
    nn.init.zeros_(encoder.cls_token)
    nn.init.zeros_(encoder.norm.weight)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items()) and model.patch_embed.strict_img_size


def test_what_is_padded_has_the_mean_colour():
    encoder = DenseEncoder(model_of(), frozen=True)
    images = pictures(9, 22)
    padded = encoder.pad(images, 2)
    assert padded.shape[2:] == encoder.padded_size(9, 22, 2) == (16, 24)
    assert torch.equal(padded[..., :9, :22], images)
    outside = encoder.standardise(padded)
    outside[..., :9, :22] = 0
    assert not outside.any()
    for x, y in zip(encoder.tokens(images, [3, 8], 2), encoder.tokens(padded, [3, 8]), strict=True):
        assert torch.equal(x, y)
    assert encoder.pad(padded, 2) is padded


@pytest.mark.parametrize("windows", [None, 2])
def test_an_image_of_the_mean_colour_is_the_same_at_an_odd_size_as_padded(windows):
    encoder = DenseEncoder(model_of(), windows=windows, frozen=True)
    colour = encoder.mean.expand(1, 3, -1, -1)
    odd, padded = (encoder.tokens(colour.expand(-1, -1, *size), [8], 2)[0] for size in ((13, 18), (16, 24)))
    assert odd.shape[2:] == (4, 6) and torch.equal(odd, padded)


@pytest.mark.parametrize("windows", [5, 6])
def test_one_window_over_the_whole_grid_is_global_attention_without_class_tokens(windows):
    model, images = model_of(), pictures(12, 20)
    expected = model.norm(model.run_blocks(model.blocks, model.embed(images)))
    found = flat(DenseEncoder(model, windows=windows, frozen=True).tokens(images, [8])[0])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, model.encode(images)[:, 1:], atol=1e-3)


@pytest.mark.parametrize(("grid", "side"), [((4, 6), 2), ((5, 7), 3), ((1, 5), 4), ((3, 3), 1)])
def test_attention_within_windows_is_that_of_each_window_cut_out(grid, side):
    attention = model_of().double().blocks[0].attn
    x = torch.randn(2, *grid, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = windowed_attention(attention, x.flatten(1, 2), grid, side).unflatten(1, grid)
    for top in range(0, grid[0], side):
        for left in range(0, grid[1], side):
            here = (slice(None), slice(top, top + side), slice(left, left + side))
            expected = attention(x[here].flatten(1, 2)).view(x[here].shape)
            torch.testing.assert_close(found[here], expected, atol=1e-12, rtol=1e-10)


@pytest.mark.peers
def test_tokens_are_those_of_transformers_vitdet():
    """Where windows divide the grid; where not, the windows of VitDet attend to zeros beyond it."""
    transformers = pytest.importorskip("transformers")
    model, images = model_of(), pictures(24, 24)
    encoder = DenseEncoder(model, windows=3, frozen=True)
    sizes = dict(hidden_size=48, num_hidden_layers=8, num_attention_heads=3, patch_size=4, pretrain_image_size=24)
    windows = dict(window_size=3, window_block_indices=[0, 2, 4, 6])
    peer = transformers.VitDetModel(transformers.VitDetConfig(**sizes, **windows, image_size=24)).eval()
    theirs = {"patch_embed.proj.": "embeddings.projection.", "blocks.": "encoder.layer.", ".attn.": ".attention."}
    state = {"embeddings.position_embeddings": encoder.positions((6, 6))}
    for name, tensor in model.state_dict().items():
        for own, their in theirs.items():
            name = name.replace(own, their)
        if name.startswith(("embeddings.", "encoder.")):
            state[name] = tensor
    peer.load_state_dict(state)
    expected = peer(encoder.standardise(images), output_hidden_states=True).hidden_states
    third, last = encoder.tokens(images, [3, 8])
    torch.testing.assert_close(third, expected[3], atol=1e-4, rtol=1e-4)
    last_expected = encoder.norm(expected[8].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(last, last_expected, atol=1e-4, rtol=1e-4)


def test_no_gradient_crosses_a_window_before_a_global_block():
    encoder = DenseEncoder(model_of(), windows=2).eval()
    images = pictures(20, 20, 1).requires_grad_()
    first, second = encoder.tokens(images, [1, 2])
    within, across = (torch.autograd.grad(x[0, :, 3, 1].sum(), images, retain_graph=True)[0] for x in (first, second))
    assert within[..., 8:16, :8].abs().sum(1).all()  # rows 2 and 3, columns 0 and 1 of the patches
    within[..., 8:16, :8] = 0
    assert not within.any()
    assert across.abs().sum(1).all()


def test_the_last_block_of_each_quarter_is_global():
    assert [quarters(depth) for depth in (12, 24, 32)] == [[3, 6, 9, 12], [6, 12, 18, 24], [8, 16, 24, 32]]
    assert [quarters(depth) for depth in range(1, 7)] == [
        [1, 1, 1, 1],
        [1, 1, 2, 2],
        [1, 2, 2, 3],
        [1, 2, 3, 4],
        [1, 3, 4, 5],
        [2, 3, 5, 6],
    ]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_up_to_four_blocks_there_are_no_windows(depth):
    model, images = model_of(depth), pictures(24, 20)
    with_windows, without = (DenseEncoder(model, windows=w).eval().tokens(images, [depth])[0] for w in (2, None))
    assert torch.equal(with_windows, without)


@pytest.mark.parametrize("windows", [None, 2])
def test_every_trained_parameter_has_a_gradient(windows):
    encoder = DenseEncoder(model_of(), windows=windows)
    encoder.tokens(pictures(12, 20), [8])[0].square().sum().backward()
    assert encoder.cls_token.requires_grad == (windows is None)
    trained = [p for p in encoder.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in trained)


def test_blocks_are_dropped_linearly_more_often_with_depth():
    encoder = DenseEncoder(model_of(depth=4), drop_path=0.3)
    rates = [(block.drop_path1.drop_prob, block.drop_path2.drop_prob) for block in encoder.blocks]
    assert rates == [pytest.approx((share, share)) for share in (0.0, 0.1, 0.2, 0.3)]


def test_a_path_is_dropped_for_an_image_not_for_a_window():
    encoder = DenseEncoder(model_of(), windows=2)
    encoder.blocks[0].drop_path1.drop_prob = encoder.blocks[0].drop_path2.drop_prob = 0.5
    torch.manual_seed(0)
    images = pictures(16, 16, 64)
    passed = flat(encoder.tokens(images, [1])[0]) == encoder.embed(images)
    assert {0, 16} == set(passed.all(-1).sum(1).tolist())


@pytest.mark.parametrize("windows", [None, 2])
def test_gradient_checkpointing_gives_the_same_gradients_to_the_bit(windows):
    found = []
    for checkpointing in (False, True):
        encoder = DenseEncoder(model_of(), windows=windows, drop_path=0.5, gradient_checkpointing=checkpointing)
        torch.manual_seed(0)
        ran = []
        encoder.blocks[4].norm1.register_forward_hook(lambda *_, ran=ran: ran.append(1))
        sum(x.square().sum() for x in encoder.tokens(pictures(18, 20), [2, 8])).backward()
        found.append([p.grad for p in encoder.parameters() if p.requires_grad])
        assert len(ran) == 1 + checkpointing
    assert all(torch.equal(x, y) for x, y in zip(*found, strict=True))


def test_a_frozen_encoder_neither_learns_nor_wakes():
    encoder = DenseEncoder(model_of(), drop_path=0.9, gradient_checkpointing=True, frozen=True)
    head = nn.Conv2d(48, 2, 1)
    model = nn.ModuleDict({"encoder": encoder, "head": head}).train()
    assert head.training and not any(module.training for module in encoder.modules())
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    found = encoder.tokens(pictures(12, 20).requires_grad_(), [8])[0]
    assert not found.requires_grad  # there is no graph, even where an image asks for one
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.5)
    head(found).square().sum().backward()
    optimizer.step()
    assert all(p.grad is None and not p.requires_grad for p in encoder.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert torch.equal(found, encoder.tokens(pictures(12, 20), [8])[0])


def test_rates_decay_by_layer_and_matrices_alone_decay():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Sequential(nn.ConvTranspose2d(48, 8, 2), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
            self.encoder = DenseEncoder(model_of(depth=4))

    model = Model()
    groups = parameter_groups(model, weight_decay=0.1, layer_decay=0.5)
    found = {p: (group["scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found)
    by_name = {name: found.pop(p) for name, p in model.named_parameters()}
    assert not found
    assert by_name["encoder.cls_token"] == (1 / 32, 0) and by_name["encoder.patch_embed.proj.weight"] == (1 / 32, 0.1)
    assert [by_name[f"encoder.blocks.{i}.mlp.fc2.weight"] for i in range(4)] == [(2.0**-k, 0.1) for k in (4, 3, 2, 1)]
    assert [by_name[f"encoder.blocks.{i}.norm1.weight"] for i in range(4)] == [(2.0**-k, 0) for k in (4, 3, 2, 1)]
    assert by_name["encoder.norm.weight"] == by_name["head.0.bias"] == by_name["head.1.weight"] == (1, 0)
    assert by_name["head.0.weight"] == by_name["head.2.weight"] == (1, 0.1)
