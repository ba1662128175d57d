"""Pyramids: sizes, which token reaches which value, and torchvision's Mask R-CNN on them."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN

from recon.dense.encoder import DenseEncoder
from recon.dense.pyramids import PYRAMIDS, FourBlockPyramid, PyramidBackbone, SimplePyramid
from recon.training.optim import parameter_groups
from tests.recon.dense.small_encoders import model_of, pictures

KINDS = pytest.mark.parametrize("kind", PYRAMIDS.values(), ids=PYRAMIDS)


def backbone(kind, patch_size: int = 4, depth: int = 4, frozen: bool = False, **options) -> PyramidBackbone:
    model = model_of(depth, patch_size=patch_size, image_size=(3 * patch_size, 5 * patch_size))
    torch.manual_seed(0)
    return PyramidBackbone(DenseEncoder(model, frozen=frozen), kind, **{"out_channels": 16} | options)


def maps_of(kind, grid: tuple[int, int]) -> list[Tensor]:
    number = 1 if kind is SimplePyramid else 4
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 48, *grid, generator=generator).requires_grad_() for _ in range(number)]


def reached(value: Tensor, maps: list[Tensor]) -> list[Tensor]:
    """Where each map (1, D, h, w) has a gradient: (h, w) bool."""
    gradients = torch.autograd.grad(value, maps, allow_unused=True, retain_graph=True)
    empty = torch.zeros(maps[0].shape[2:], dtype=torch.bool)
    return [empty if g is None else (g[0] != 0).any(0) for g in gradients]


@KINDS
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("depth", [1, 6])
@pytest.mark.parametrize(("patch_size", "size"), [(8, (70, 93)), (7, (70, 93)), (8, (1, 1)), (4, (12, 20))])
def test_maps_of_four_scales_cover_the_padded_image(kind, pool, depth, patch_size, size):
    model = backbone(kind, patch_size, depth, pool=pool).eval()
    found = model(pictures(*size, 1))
    assert list(found) == model.names == ["0", "1", "2", "3"] + ["pool"] * pool
    padded = model.padded_size(*size)
    assert all(
        side - 2 * patch_size < given <= side and side % (2 * patch_size) == 0
        for side, given in zip(padded, size, strict=True)
    )
    assert len(model.strides) == len(found)
    for stride, scale, x in zip(model.strides, (4, 2, 1, 0.5, 0.25), found.values(), strict=False):
        assert stride == patch_size / scale
        expected = tuple(max(1, int(-(-side // stride))) for side in padded)  # "pool" rounds up
        assert x.shape == (1, 16, *expected)
    assert all(
        torch.equal(x, y) for x, y in zip(model(model.pad(pictures(*size, 1))).values(), found.values(), strict=True)
    )


@KINDS
def test_a_value_of_the_finest_map_reads_the_token_of_its_own_place(kind):
    maps = maps_of(kind, (4, 6))
    found = kind(48, 4, 16)(maps)
    for row, column in ((0, 0), (1, 4), (3, 5)):
        for y, x in ((1, 2), (2, 1)):  # within a token's 4 x 4 values the 3 x 3 convolution stays
            at = reached(found["0"][0, :, 4 * row + y, 4 * column + x].square().sum(), maps)[0]
            assert at.nonzero().tolist() == [[row, column]]


@KINDS
def test_a_value_of_the_coarsest_map_reads_twice_the_neighbourhood(kind):
    maps = maps_of(kind, (8, 12))
    at = reached(kind(48, 4, 16)(maps)["3"][0, :, 1, 4].square().sum(), maps)[-1]
    assert at[0:6, 6:12].any() and at[2:4, 8:10].any()
    at[0:6, 6:12] = False
    assert not at.any()


def test_the_simple_pyramid_reads_the_last_block_alone():
    assert SimplePyramid(48, 7).blocks == (7,)


def test_the_four_block_pyramid_reads_each_quarter_and_passes_it_on_to_finer_maps_alone():
    assert FourBlockPyramid(48, 12).blocks == (3, 6, 9, 12)
    maps = maps_of(FourBlockPyramid, (4, 4))
    found = FourBlockPyramid(48, 12, 16)(maps)
    for number, name in enumerate(["0", "1", "2", "3"]):
        read = [bool(at.any()) for at in reached(found[name].square().sum(), maps)]
        assert read == [block >= number for block in range(4)]


@KINDS
def test_pool_is_every_second_value_of_the_coarsest_map(kind):
    maps = maps_of(kind, (6, 10))
    found = kind(48, 4, 16, pool=True)(maps)
    assert torch.equal(found["pool"], found["3"][..., ::2, ::2])


@KINDS
def test_maps_do_not_depend_on_the_scale_of_the_channels(kind):
    """Every map is under a layer norm: mean 0 and variance 1 over channels where it is new."""
    found = kind(48, 4, 16)(maps_of(kind, (4, 4)))
    for x in found.values():
        torch.testing.assert_close(x.mean(1), torch.zeros_like(x[:, 0]), atol=1e-5, rtol=0)
        torch.testing.assert_close(x.var(1, correction=0), torch.ones_like(x[:, 0]), atol=1e-3, rtol=0)


@KINDS
def test_every_trained_parameter_has_a_gradient_and_a_group(kind):
    model = backbone(kind, depth=5, pool=True)
    sum((x**3).sum() for x in model(pictures(18, 20)).values()).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in trained)
    grouped = [p for group in parameter_groups(model, 0.1, 0.5) for p in group["params"]]
    assert len(grouped) == len(set(grouped)) and set(grouped) == set(trained)


@KINDS
def test_under_a_frozen_encoder_the_pyramid_alone_learns(kind):
    model = backbone(kind, frozen=True).train()
    sum((x**3).sum() for x in model(pictures(18, 20)).values()).backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(p.grad is not None for p in model.pyramid.parameters())
    assert not model.encoder.training and model.pyramid.training


@KINDS
def test_mask_rcnn_takes_it_as_a_backbone(kind):
    torch.manual_seed(0)
    made = backbone(kind, patch_size=8, pool=True)
    neutral = dict(image_mean=[0.0] * 3, image_std=[1.0] * 3, size_divisible=16, min_size=64, max_size=96)
    model = MaskRCNN(made, num_classes=3, rpn_post_nms_top_n_train=50, **neutral)
    box = torch.tensor([[8.0, 8.0, 40.0, 48.0]])
    mask = torch.zeros(1, 64, 80, dtype=torch.uint8)
    mask[:, 8:48, 8:40] = 1
    targets = [{"boxes": box, "labels": torch.tensor([1]), "masks": mask} for _ in range(2)]
    losses = model.train()(list(pictures(64, 80)), targets)
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    norms = nn.utils.get_total_norm([p.grad for p in made.encoder.parameters() if p.grad is not None])
    assert norms.isfinite() and norms > 0
    with torch.no_grad():
        found = model.eval()(list(pictures(64, 80, 1)))[0]
    assert found["masks"].shape[1:] == (1, 64, 80)
